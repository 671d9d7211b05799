//! Datagrams in parts: the first part decides for the others, and nothing leaves without it.

use tests::packet::{TCP, UDP, echo_request, tcp, udp};
use vpnat_common::layout::outcome::Outcome;

use crate::case::{TC, XDP, each};
use crate::model::{self, fragments};
use crate::plan::{A, EGRESS_A, End, NOBODY, POD, POD_2, SERVER};

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
                for (part, expected) in fragments(&question, 77, sizes).iter().zip(&translated) {
                    case.out(part).leaves_as(A, expected);
                }
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
            case.out(part).leaves_as(A, expected);
        }
    });
}

/// 4787-REQ-14 asks for parts in any order; what cannot be told apart is at least not let through.
#[test]
fn a_part_without_its_first_goes_nowhere() {
    each(TC, |case| {
        let question = udp(POD_END, SERVER_END, 64, &payload());
        let parts = fragments(&question, 7, &[512, 256]);
        let translated = fragments(&model::source(&question, PUBLIC), 7, &[512, 256]);
        case.out(&parts[1]).ends_as(A, Outcome::FragmentUnknown);
        case.out(&parts[2]).ends_as(A, Outcome::FragmentUnknown);
        assert_eq!(case.entries(), 0);
        // Once the first is there the others may come in any order, and again.
        for place in [0, 2, 1, 2] {
            case.out(&parts[place]).leaves_as(A, &translated[place]);
        }
        let answer = fragments(&udp(SERVER_END, PUBLIC, 64, &payload()), 7, &[512]);
        case.back(&answer[1]).ends_as(A, Outcome::FragmentUnknown);
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
        case.out(first).leaves_as(A, &expected[0]);
        assert_eq!(case.world.fragments_kept(), 1);
        case.out(&parts(POD_END, 8)[1]).ends_as(A, Outcome::FragmentUnknown);
        case.out(&parts((POD_2, 40000), 7)[1]).ends_as(A, Outcome::FragmentUnknown);
        let of_tcp = fragments(&tcp(POD_END, SERVER_END, 16, (1, 1), &payload()), 7, &[512]);
        assert_eq!((of_tcp[1][9], first[9]), (TCP, UDP));
        case.out(&of_tcp[1]).ends_as(A, Outcome::FragmentUnknown);
        case.wait(29);
        case.out(&parts(POD_END, 7)[1]).leaves_as(A, &expected[1]);
        case.wait(3);
        case.out(&parts(POD_END, 7)[1]).ends_as(A, Outcome::FragmentUnknown);
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
        case.out(&parts[0]).leaves_as(A, &translated[0]);
        case.out(&parts[0]).leaves_as(A, &translated[0]);
        case.out(&parts[1]).leaves_as(A, &translated[1]);
    });
}
