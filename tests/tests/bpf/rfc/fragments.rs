//! Datagrams in parts, and the identification that tells one from another. Parts that are held until their first comes
//! are seen in the lab, where what is sent meets the next hook.

use std::collections::BTreeSet;

use tests::packet::{TCP, UDP, icmp, tcp, udp};
use vpnat_common::layout::outcome::Fate;

use super::{ACK, Flow, ONE_OF_EACH_TC, POD_END, PROTOCOLS, SERVER_END};
use crate::case::{Case, EVERY, TC, Way, each};
use crate::model::{fragments, icmp_error, with_header_checksum, with_id};
use crate::plan::{A, EGRESS_A, ELSEWHERE, INSIDE_ROUTER, POD, POD_2, SERVER};

/// A datagram of the pod's, and one of the server's.
fn datagrams(flow: &Flow) -> [Vec<u8>; 2] {
    let payload: Vec<u8> = (0..999).map(|byte| (byte * 13) as u8).collect();
    let id = |number: u16| [(number >> 8) as u8, number as u8, 0, 1];
    match flow.protocol {
        TCP => [
            tcp(flow.pod, flow.remote, ACK, (101, 501), &payload),
            tcp(flow.remote, flow.public, ACK, (501, 101), &payload),
        ],
        UDP => [udp(flow.pod, flow.remote, 64, &payload), udp(flow.remote, flow.public, 64, &payload)],
        _ => [
            icmp(flow.pod.0, flow.remote.0, (8, 0), id(flow.pod.1), &payload),
            icmp(flow.remote.0, flow.public.0, (0, 0), id(flow.public.1), &payload),
        ],
    }
}

/// The part does not go on now, whatever it is kept for.
#[track_caller]
fn waits(case: &mut Case<'_>, part: &[u8], outbound: bool) {
    let seen = if outbound { case.out(part) } else { case.back(part) };
    assert_ne!(seen.ended().fate(), Fate::Translated, "{}: {:?}", seen.title, seen.ended());
    assert_ne!(seen.ended().fate(), Fate::Passed, "{}: {:?}", seen.title, seen.ended());
    assert_eq!(seen.output, seen.input, "{}", seen.title);
}

/// After the first the others may come in any order and twice; the transport's checksum is in the first alone. They
/// are what the whole would have become, in parts with one identification.
#[test]
fn rfc4787_req14_row_10_2_2_row_10_4_2_the_first_part_decides() {
    each(TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [question, answer] = datagrams(&flow);
            for sizes in [&[512][..], &[256, 256, 256], &[24, 968], &[504, 8, 8]] {
                let parts = fragments(&question, 77, sizes);
                let expected = fragments(&flow.outside(&question), 77, sizes);
                let order: Vec<_> =
                    [0].into_iter().chain((1..parts.len()).rev()).chain(1..parts.len()).collect();
                let ids: BTreeSet<_> = order
                    .iter()
                    .map(|part| case.out(&parts[*part]).leaves_renamed(A, &expected[*part]))
                    .collect();
                assert_eq!(ids.len(), 1, "{:?}: one datagram has one identification", case.way);
                let parts = fragments(&answer, 78, sizes);
                let expected = fragments(&flow.inside(&answer), 78, sizes);
                for part in order {
                    case.back(&parts[part]).arrives_as(A, &expected[part]);
                }
            }
        }
    });
}

/// A part belongs to a datagram by both addresses, protocol and identification, for 30 s; without its first it goes
/// neither out nor to the stack.
#[test]
fn row_10_4_1_row_10_4_4_a_part_without_its_first_goes_nowhere() {
    each(TC, |case| {
        let flow = Flow::open(case, UDP, POD_END, SERVER_END);
        let [question, answer] = datagrams(&flow);
        let parts = fragments(&question, 7, &[512]);
        let expected = fragments(&flow.outside(&question), 7, &[512]);
        waits(case, &parts[1], true);
        waits(case, &fragments(&answer, 9, &[512])[1], false);
        let id = case.out(&parts[0]).leaves_renamed(A, &expected[0]);
        waits(case, &with_id(&parts[1], 8), true);
        let mut other = parts[1].clone();
        other[15] = POD_2.octets()[3];
        waits(case, &with_header_checksum(other), true);
        let mut other = parts[1].clone();
        other[9] = TCP;
        waits(case, &with_header_checksum(other), true);
        case.wait(29);
        case.out(&parts[1]).leaves_as(A, &with_id(&expected[1], id));
        case.wait(3);
        waits(case, &parts[1], true);
    });
}

/// First parts without their whole header, later ones over it, and parts past the largest datagram.
#[test]
fn row_10_4_5_row_10_4_7_row_10_4_9_parts_that_hide_something() {
    each(TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            let [question, answer] = datagrams(&flow);
            for (packet, outbound) in [(&question, true), (&answer, false)] {
                if protocol == TCP {
                    for size in [8, 16] {
                        for part in &fragments(packet, 9, &[size])[..2] {
                            waits(case, part, outbound);
                        }
                    }
                }
                let first = &fragments(packet, 10, &[512])[0];
                let seen = if outbound { case.out(first) } else { case.back(first) };
                assert_eq!(seen.ended().fate(), Fate::Translated, "{}", seen.title);
                let mut last = fragments(packet, 10, &[512])[1].clone();
                last[6..8].copy_from_slice(&0x1fffu16.to_be_bytes());
                waits(case, &with_header_checksum(last), outbound);
                if protocol == TCP {
                    // Eight bytes in: over the flags that the first was judged by.
                    let mut over = fragments(packet, 10, &[512])[1].clone();
                    over[6..8].copy_from_slice(&1u16.to_be_bytes());
                    waits(case, &with_header_checksum(over), outbound);
                }
            }
            flow.lives(case);
        }
    });
}

/// A second first part must not change where the others go.
#[test]
fn row_10_4_6_a_second_first_part_changes_nothing() {
    each(TC, |case| {
        let flow = Flow::open(case, UDP, POD_END, SERVER_END);
        let [question, _] = datagrams(&flow);
        let parts = fragments(&question, 7, &[512]);
        let expected = fragments(&flow.outside(&question), 7, &[512]);
        let id = case.out(&parts[0]).leaves_renamed(A, &expected[0]);
        assert_eq!(case.out(&parts[0]).leaves_renamed(A, &expected[0]), id);
        case.out(&parts[1]).leaves_as(A, &with_id(&expected[1], id));
    });
}

/// A flood of parts, with and without a first, from one pod: bounded memory, and nobody else loses anything.
#[test]
fn rfc4787_req14a_a_flood_of_parts() {
    each(&[Way::TcEthernet], |case| {
        let flow = Flow::open(case, UDP, POD_END, SERVER_END);
        let victim = Flow::open(case, UDP, (POD_2, 41000), SERVER_END);
        let [question, _] = datagrams(&flow);
        for first in [1, 0] {
            let part = &fragments(&question, 7, &[512])[first];
            for id in 0..1500u16 {
                let part = with_id(part, 0x4000 + id);
                case.out(&part);
                if id % 100 == 0 {
                    victim.asks(case);
                    victim.lives(case);
                    let [packet, _] = datagrams(&victim);
                    let expected = fragments(&victim.outside(&packet), id, &[512]);
                    for (part, expected) in fragments(&packet, id, &[512]).iter().zip(&expected) {
                        case.out(part).leaves_renamed(A, expected);
                    }
                }
            }
            assert!(case.world.fragments_kept() <= 1024, "{}", case.world.fragments_kept());
        }
    });
}

/// Two pods, one identification, one destination: two outside. All packets that may be fragmented have their own, on
/// every hook; those that may not keep what they have.
#[test]
fn rfc6864_5_3_1_rfc3022_6_3_rfc7857_10_row_10_4_8_identifications_are_our_own() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            let flows = [POD, POD_2].map(|pod| Flow::open(case, protocol, (pod, 40000), SERVER_END));
            let mut ids = BTreeSet::new();
            for _ in 0..20 {
                for flow in &flows {
                    let packet = tests::packet::may_fragment(flow.question(), 77);
                    ids.insert(case.out(&packet).leaves_renamed(A, &flow.outside(&packet)));
                }
            }
            assert_eq!(ids.len(), 40, "{:?}: each has an identification of its own", case.way);
            let atomic = with_id(&flows[0].question(), 77);
            flows[0].leaves(case, &atomic);
        }
    });
}

/// One flipped bit in an error, or in the header that it quotes: dropped.
#[test]
fn rfc5508_req3_rfc5508_req3a_row_10_3_1_errors_with_wrong_checksums() {
    each(ONE_OF_EACH_TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [question, answer] = datagrams(&flow);
            for length in [28, 40, 84, 548] {
                for from in [SERVER, ELSEWHERE] {
                    let [sent, _] = flow.error_about(&question, from, ((3, 3), [0; 4]), length);
                    for place in [21, 22, 23, 30, sent.len() - 1] {
                        let mut sent = sent.clone();
                        sent[place] ^= 0x10;
                        waits(case, &sent, false);
                    }
                }
                let mut quote = flow.outside(&question)[..length].to_vec();
                quote[10] ^= 1;
                waits(case, &icmp_error((ELSEWHERE, EGRESS_A), (3, 3), [0; 4], &quote, &[]), false);
                for from in [POD, INSIDE_ROUTER] {
                    let [mut sent, _] = flow.refusal_of(&answer, from, ((3, 3), [0; 4]), length);
                    sent[23] ^= 1;
                    waits(case, &sent, true);
                }
                let mut quote = flow.inside(&answer)[..length].to_vec();
                quote[10] ^= 1;
                waits(case, &icmp_error((POD, SERVER), (3, 3), [0; 4], &quote, &[]), true);
            }
            flow.lives(case);
        }
    });
}
