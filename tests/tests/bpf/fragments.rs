//! Datagrams in parts: the first part decides for the others, and nothing leaves without it.

use std::collections::BTreeSet;

use tests::packet::{TCP, UDP, echo_request, tcp, udp};
use vpnat_common::layout::outcome::Outcome;

use crate::case::{TC, XDP, each};
use crate::model::{self, fragments};
use crate::plan::{A, EGRESS_A, End, NOBODY, POD, POD_2, SERVER, STRANGER};

const POD_END: End = (POD, 40000);
const SERVER_END: End = (SERVER, 53);
const PUBLIC: End = (EGRESS_A, 40000);

fn payload() -> Vec<u8> {
    (0..999).map(|byte| (byte * 13) as u8).collect()
}

/// Datagrams of all protocols; the transport's checksum covers all parts and stands in the first.
#[test]
fn parts_in_order_are_the_whole_translated() {
    each(TC, |case| {
        let opening = tcp(POD_END, SERVER_END, 2, (0, 0), b"");
        case.out(&opening).leaves_as(A, &model::source(&opening, PUBLIC));
        let datagrams = [
            (udp(POD_END, SERVER_END, 64, &payload()), udp(SERVER_END, PUBLIC, 64, &payload())),
            (
                tcp(POD_END, SERVER_END, 16, (1, 1), &payload()),
                tcp(SERVER_END, PUBLIC, 18, (1, 1), &payload()),
            ),
        ];
        for (question, answer) in datagrams {
            for sizes in [&[512][..], &[256, 256, 256], &[24, 968], &[24, 8, 8]] {
                let translated = fragments(&model::source(&question, PUBLIC), 77, sizes);
                let parts = fragments(&question, 77, sizes);
                let ids: BTreeSet<_> = parts
                    .iter()
                    .zip(&translated)
                    .map(|(part, expected)| case.out(part).leaves_renamed(A, expected))
                    .collect();
                assert_eq!(ids.len(), 1, "all parts bear one identification");
                let restored = fragments(&model::destination(&answer, POD_END), 78, sizes);
                for (part, expected) in fragments(&answer, 78, sizes).iter().zip(&restored) {
                    case.back(part).arrives_as(A, expected);
                }
            }
        }
    });
}

#[test]
fn a_query_in_parts() {
    each(TC, |case| {
        let question = echo_request(POD, SERVER, 40000, 1);
        let translated = fragments(&model::source(&question, PUBLIC), 5, &[16]);
        for (part, expected) in fragments(&question, 5, &[16]).iter().zip(&translated) {
            case.out(part).leaves_renamed(A, expected);
        }
    });
}

/// 4787-REQ-14: a part before its first is held, and goes nowhere by itself. It costs the first nothing: that leaves to
/// the last byte as if it had come alone. What is sent then meets a hook of its own, as in the lab.
#[test]
fn a_part_before_its_first_is_held() {
    each(TC, |case| {
        let question = udp(POD_END, SERVER_END, 64, &payload());
        for sizes in [[512, 256], [256, 512], [8, 984]] {
            case.restart();
            let parts = fragments(&question, 7, &sizes);
            let translated = fragments(&model::source(&question, PUBLIC), 7, &sizes);
            case.out(&parts[1]).ends_as(A, Outcome::FragmentHeld);
            case.out(&parts[2]).ends_as(A, Outcome::FragmentHeld);
            assert_eq!((case.entries(), case.world.fragments_kept()), (0, 0));
            // Once the first is there the others may come in any order, and again.
            let ids: BTreeSet<_> = [0, 2, 1, 2]
                .map(|place| case.out(&parts[place]).leaves_renamed(A, &translated[place]))
                .into();
            assert_eq!(ids.len(), 1);
            let answer = udp(SERVER_END, PUBLIC, 64, &payload());
            let parts = fragments(&answer, 7, &sizes);
            let restored = fragments(&model::destination(&answer, POD_END), 7, &sizes);
            case.back(&parts[2]).ends_as(A, Outcome::FragmentHeld);
            for place in [0, 1, 2] {
                case.back(&parts[place]).arrives_as(A, &restored[place]);
            }
        }
    });
}

/// What no first fragment could vouch for, or no slot takes.
#[test]
fn a_part_that_is_not_held_is_dropped() {
    each(TC, |case| {
        let part = |from: End, to: End, size| {
            let datagram = udp(from, to, 64, &vec![7; 5000]);
            fragments(&datagram, 9, &[512, size])[1].clone()
        };
        case.out(&part((STRANGER, 40000), SERVER_END, 512)).ends_as(A, Outcome::FragmentUnknown);
        case.out(&part(POD_END, SERVER_END, 2028 + 4)).ends_as(A, Outcome::FragmentUnknown);
        case.out(&part(POD_END, SERVER_END, 2024)).ends_as(A, Outcome::FragmentHeld);
        case.back(&part(SERVER_END, POD_END, 512)).ends_as(A, Outcome::FragmentUnknown);
    });
}

/// What belongs to a datagram: both addresses, the protocol and the identification.
#[test]
fn a_decision_is_for_one_datagram() {
    each(TC, |case| {
        let parts = |pod: End, id| fragments(&udp(pod, SERVER_END, 64, &payload()), id, &[512]);
        let first = &parts(POD_END, 7)[0];
        let expected =
            &fragments(&model::source(&udp(POD_END, SERVER_END, 64, &payload()), PUBLIC), 7, &[512]);
        let id = case.out(first).leaves_renamed(A, &expected[0]);
        assert_eq!(case.world.fragments_kept(), 1);
        case.out(&parts(POD_END, 8)[1]).ends_as(A, Outcome::FragmentHeld);
        case.out(&parts((POD_2, 40000), 7)[1]).ends_as(A, Outcome::FragmentHeld);
        let of_tcp = fragments(&tcp(POD_END, SERVER_END, 16, (1, 1), &payload()), 7, &[512]);
        assert_eq!((of_tcp[1][9], first[9]), (TCP, UDP));
        case.out(&of_tcp[1]).ends_as(A, Outcome::FragmentHeld);
        case.wait(29);
        case.out(&parts(POD_END, 7)[1]).leaves_as(A, &model::with_id(&expected[1], id));
        case.wait(3);
        case.out(&parts(POD_END, 7)[1]).ends_as(A, Outcome::FragmentHeld);
    });
}

/// A first part too small for its transport header says too little (RFC 1858, RFC 3128).
#[test]
fn a_first_part_without_its_header_is_refused() {
    each(TC, |case| {
        let opening = tcp(POD_END, SERVER_END, 2, (0, 0), b"");
        case.out(&opening).leaves_as(A, &model::source(&opening, PUBLIC));
        for (size, outcome) in [(8, Outcome::FragmentTiny), (16, Outcome::FragmentTiny)] {
            let parts = fragments(&tcp(POD_END, SERVER_END, 16, (1, 1), &payload()), 9, &[size]);
            case.out(&parts[0]).ends_as(A, Outcome::BadHeader);
            case.out(&parts[1]).ends_as(A, outcome);
        }
    });
}

#[test]
fn xdp_leaves_parts_to_the_stack() {
    each(XDP, |case| {
        for part in fragments(&udp(POD_END, SERVER_END, 64, &payload()), 7, &[512]) {
            case.out(&part).ends_as(NOBODY, Outcome::ToStackShape);
        }
        for part in fragments(&udp(SERVER_END, PUBLIC, 64, &payload()), 7, &[512]) {
            case.back(&part).ends_as(NOBODY, Outcome::ToStackShape);
        }
        assert_eq!(case.entries(), 0);
    });
}

/// A second first part of a datagram that is on its way must not change where its other parts go.
#[test]
fn a_second_first_part_changes_nothing() {
    each(TC, |case| {
        let question = udp(POD_END, SERVER_END, 64, &payload());
        let parts = fragments(&question, 77, &[512]);
        let translated = fragments(&model::source(&question, PUBLIC), 77, &[512]);
        let ids = [0, 0, 1].map(|place| case.out(&parts[place]).leaves_renamed(A, &translated[place]));
        assert_eq!(ids, [ids[0]; 3]);
    });
}

/// 10.4: what would lie over the transport header, options included, or reach past the largest datagram.
#[test]
fn parts_that_cannot_be() {
    each(TC, |case| {
        let opening = tcp(POD_END, SERVER_END, 2, (0, 0), b"");
        case.out(&opening).leaves_as(A, &model::source(&opening, PUBLIC));
        let mut question = tcp(POD_END, SERVER_END, 16, (1, 1), &payload());
        // Twenty bytes of the payload are options.
        question[32] = 0xa0;
        let question = model::finished(question);
        let parts = fragments(&question, 77, &[24, 8, 8]);
        let translated = fragments(&model::source(&question, PUBLIC), 77, &[24, 8, 8]);
        case.out(&parts[0]).ends_as(A, Outcome::BadHeader);
        let parts = [fragments(&question, 78, &[40]), parts].concat();
        let first = fragments(&model::source(&question, PUBLIC), 78, &[40]);
        case.out(&parts[0]).leaves_renamed(A, &first[0]);
        for (part, outcome) in [(3, Outcome::FragmentTiny), (4, Outcome::FragmentTiny)] {
            case.out(&model::with_id(&parts[part], 78)).ends_as(A, outcome);
        }
        case.out(&model::with_id(&parts[5], 78)).leaves_renamed(A, &translated[3]);

        let datagram = udp(POD_END, SERVER_END, 64, &payload());
        let parts = fragments(&datagram, 79, &[512]);
        let expected = fragments(&model::source(&datagram, PUBLIC), 79, &[512]);
        case.out(&parts[0]).leaves_renamed(A, &expected[0]);
        // 65,528 bytes of payload in front of it, and the header.
        let mut last = parts[1].clone();
        last[6..8].copy_from_slice(&0x1fffu16.to_be_bytes());
        case.out(&model::with_header_checksum(last)).ends_as(A, Outcome::BadHeader);
    });
}

/// Hosts use an identification again: at once, another first part is refused; soon after, it begins a datagram of its
/// own, whoever it is for, and leaves with an identification of its own.
#[test]
fn an_identification_may_be_used_again() {
    each(TC, |case| {
        let publics = [(POD, 40001), (POD_2, 40002)].map(|pod| {
            let question = udp(pod, SERVER_END, 64, b"question");
            case.out(&question).leaves_as(A, &model::source(&question, (EGRESS_A, pod.1)));
            (pod, (EGRESS_A, pod.1))
        });
        let [(first, restored), (other, redirected)] = publics.map(|(pod, public)| {
            let answer = udp(SERVER_END, public, 64, &payload());
            let restored = fragments(&model::destination(&answer, pod), 78, &[512]);
            (fragments(&answer, 78, &[512]), restored)
        });
        case.back(&first[0]).arrives_as(A, &restored[0]);
        case.wait(1);
        case.back(&other[0]).ends_as(A, Outcome::FragmentUnknown);
        case.back(&first[1]).arrives_as(A, &restored[1]);
        case.wait(3);
        case.back(&other[0]).arrives_as(A, &redirected[0]);
        case.back(&other[1]).arrives_as(A, &redirected[1]);

        let question = udp((POD, 40001), SERVER_END, 64, &payload());
        let parts = fragments(&question, 77, &[512]);
        let translated = fragments(&model::source(&question, (EGRESS_A, 40001)), 77, &[512]);
        let id = case.out(&parts[0]).leaves_renamed(A, &translated[0]);
        case.wait(3);
        let next = case.out(&parts[0]).leaves_renamed(A, &translated[0]);
        assert_ne!(id, next);
        case.out(&parts[1]).leaves_as(A, &model::with_id(&translated[1], next));
    });
}
