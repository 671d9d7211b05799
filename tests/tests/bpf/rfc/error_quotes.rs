//! ICMP errors and the packets that they quote, from every reporter there is.

use tests::packet::{ICMP, TCP, UDP, icmp};

use super::{Flow, ONE_OF_EACH_TC, POD_END, PROTOCOLS, SERVER_END, dropped, stopped};
use crate::case::{Case, EVERY, TC, each};
use crate::model::{self, icmp_error, with_header_checksum, with_options};
use crate::plan::{A, EGRESS_A, ELSEWHERE, INSIDE_ROUTER, POD, POD_2, SERVER};

type Kind = ((u8, u8), [u8; 4]);

/// Every code of Destination Unreachable (RFC 792, RFC 1122, RFC 1812), Time Exceeded and Parameter Problem.
fn kinds() -> Vec<Kind> {
    let mut kinds: Vec<Kind> = (0..16).map(|code| ((3, code), [0; 4])).collect();
    kinds[4].1 = [0, 0, 0x05, 0x14];
    kinds.extend([((11, 0), [0; 4]), ((11, 1), [0; 4]), ((12, 0), [20, 0, 0, 0])]);
    kinds
}

/// Header and 8 bytes of transport, 20, 64, and all.
const LENGTHS: [usize; 4] = [28, 40, 84, 1000];

/// A packet of the flow's pod and one of its server's, with a payload for long quotes.
fn packets(flow: &Flow) -> [Vec<u8>; 2] {
    let payload = [0x5a; 101];
    let (pod, remote, public) = (flow.pod, flow.remote, flow.public);
    match flow.protocol {
        TCP => [
            tests::packet::tcp(pod, remote, 16, (101, 501), &payload),
            tests::packet::tcp(remote, public, 16, (501, 101), &payload),
        ],
        UDP => {
            [tests::packet::udp(pod, remote, 64, &payload), tests::packet::udp(remote, public, 64, &payload)]
        }
        _ => {
            let id = |number: u16| [(number >> 8) as u8, number as u8, 0, 1];
            [
                icmp(pod.0, remote.0, (8, 0), id(pod.1), &payload),
                icmp(remote.0, public.0, (0, 0), id(public.1), &payload),
            ]
        }
    }
}

/// From the vendor and from a transit router that is nobody's vendor.
#[test]
fn rfc5508_req4_rfc4787_req12a_rfc4787_req12b_rfc5382_req9_row_10_3_4_row_10_3_7_errors_from_outside() {
    each(ONE_OF_EACH_TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [packet, _] = packets(&flow);
            for kind in kinds() {
                for length in LENGTHS {
                    for from in [SERVER, ELSEWHERE] {
                        let [sent, seen] = flow.error_about(&packet, from, kind, length);
                        case.back(&sent).arrives_as(A, &seen);
                    }
                }
            }
            // After all of them, the flow goes on.
            flow.lives(case);
            flow.asks(case);
        }
    });
}

/// From the pod and from a router between it and the instance: the vendor hears it from the egress address.
#[test]
fn rfc5508_req5_rfc3022_4_3_row_10_3_4_errors_from_inside() {
    each(ONE_OF_EACH_TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [_, packet] = packets(&flow);
            for kind in kinds() {
                for length in LENGTHS {
                    for from in [POD, INSIDE_ROUTER] {
                        let [sent, seen] = flow.refusal_of(&packet, from, kind, length);
                        case.out(&sent).leaves_as(A, &seen);
                    }
                }
            }
            flow.lives(case);
            flow.asks(case);
        }
    });
}

/// Types 3, 4, 5, 11 and 12, each code, whatever becomes of the error itself: it ends no mapping.
#[test]
fn rfc4787_req12_rfc5382_req10_no_error_ends_a_flow() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [packet, answer] = packets(&flow);
            for kind in [3, 4, 5, 11, 12] {
                for code in 0..16 {
                    for from in [SERVER, ELSEWHERE] {
                        let [sent, _] = flow.error_about(&packet, from, ((kind, code), [0; 4]), 28);
                        case.back(&sent);
                    }
                    let [sent, _] = flow.refusal_of(&answer, POD, ((kind, code), [0; 4]), 28);
                    case.out(&sent);
                }
            }
            flow.lives(case);
            flow.asks(case);
        }
    });
}

/// 4 to 40 bytes of options between the quoted header and its transport, with every length of quote.
#[test]
fn rfc5508_req3b_options_in_the_quote() {
    each(ONE_OF_EACH_TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [packet, answer] = packets(&flow);
            for words in [1, 2, 5, 9, 10] {
                let options = vec![1; words * 4];
                for length in LENGTHS.map(|length| length + words * 4) {
                    let with = with_options(&packet, &options);
                    for from in [SERVER, ELSEWHERE] {
                        let [sent, seen] = flow.error_about(&with, from, ((3, 4), [0, 0, 5, 0x14]), length);
                        case.back(&sent).arrives_as(A, &seen);
                    }
                    let with = with_options(&answer, &options);
                    for from in [POD, INSIDE_ROUTER] {
                        let [sent, seen] = flow.refusal_of(&with, from, ((3, 4), [0, 0, 5, 0x14]), length);
                        case.out(&sent).leaves_as(A, &seen);
                    }
                }
            }
        }
    });
}

/// Adds to the checksum in one's complement, so that it is wrong by as much on both sides.
fn spoil(packet: &[u8], at: usize) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let sum = u32::from(u16::from_be_bytes([packet[at], packet[at + 1]])) + 0x1234;
    let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn transport_checksum(protocol: u8) -> usize {
    20 + match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    }
}

/// The quoted transport's checksum is nobody's to judge: wrong it is translated, and stays wrong by as much.
#[test]
fn rfc5508_req3c_a_wrong_quoted_transport_checksum() {
    each(ONE_OF_EACH_TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [packet, answer] = packets(&flow);
            let at = transport_checksum(protocol);
            for length in LENGTHS {
                for from in [SERVER, ELSEWHERE] {
                    let error = |to, quote: &[u8]| {
                        let quote = spoil(quote, at);
                        icmp_error((from, to), (3, 3), [0; 4], &quote[..length.min(quote.len())], &[])
                    };
                    let seen = error(POD, &packet);
                    case.back(&error(EGRESS_A, &flow.outside(&packet))).arrives_as(A, &seen);
                }
                let error = |from, quote: &[u8]| {
                    let quote = spoil(quote, at);
                    icmp_error((from, SERVER), (3, 3), [0; 4], &quote[..length.min(quote.len())], &[])
                };
                let seen = error(EGRESS_A, &answer);
                case.out(&error(INSIDE_ROUTER, &flow.inside(&answer))).leaves_as(A, &seen);
            }
        }
    });
}

/// A UDP quote without checksum keeps none; one whose new sum is 0 shows all ones.
#[test]
fn row_10_3_4_quoted_udp_checksums_of_zero() {
    each(ONE_OF_EACH_TC, |case| {
        let flow = Flow::moved(case, UDP);
        let [packet, _] = packets(&flow);
        let none = model::without_udp_checksum(&packet);
        let [sent, seen] = flow.error_about(&none, SERVER, ((3, 3), [0; 4]), 1000);
        assert_eq!(seen[54..56], [0, 0], "the quote that this test is about");
        case.back(&sent).arrives_as(A, &seen);
        // The payload's first word goes through values until the restored checksum is 0xffff.
        let with =
            |word: [u8; 2]| tests::packet::udp(flow.pod, flow.remote, 64, &[&word[..], &[0x5a; 20]].concat());
        let zero = with([0, 0]);
        let packet = with([zero[26], zero[27]]);
        assert_eq!(packet[26..28], [0xff, 0xff], "the packet that this test is about");
        let [sent, seen] = flow.error_about(&packet, SERVER, ((3, 3), [0; 4]), 1000);
        case.back(&sent).arrives_as(A, &seen);
    });
}

/// RFC 4884: the original datagram padded to its length field, and extension objects behind: both unchanged.
#[test]
fn rfc5508_req3d_row_10_3_6_extensions_and_padding_stay() {
    // An MPLS label stack object (RFC 4950) with its extension header.
    let extension = [0x20, 0, 0xde, 0xad, 0, 8, 1, 1, 0, 1, 0x21, 0xff];
    each(ONE_OF_EACH_TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [long, answer] = packets(&flow);
            let short = flow.question();
            for (kind, code) in [(3, 1), (3, 3), (11, 0), (12, 0)] {
                for (packet, quoted) in [(&short, short.len()), (&long, 84), (&long, 128)] {
                    for from in [SERVER, ELSEWHERE] {
                        let error = |to, quote: &[u8]| {
                            let mut field = quote[..quoted].to_vec();
                            field.resize(128, 0);
                            icmp_error((from, to), (kind, code), [0, 32, 0, 0], &field, &extension)
                        };
                        let seen = error(POD, packet);
                        case.back(&error(EGRESS_A, &flow.outside(packet))).arrives_as(A, &seen);
                    }
                }
                let error = |from, quote: &[u8]| {
                    let mut field = quote[..quote.len().min(128)].to_vec();
                    field.resize(128, 0);
                    icmp_error((from, SERVER), (kind, code), [0, 32, 0, 0], &field, &extension)
                };
                let seen = error(EGRESS_A, &answer);
                case.out(&error(POD, &flow.inside(&answer))).leaves_as(A, &seen);
            }
        }
        // A length that is less than the RFC allows bounds the quote all the same: where a checksum would lie stands an extension.
        let flow = Flow::moved(case, TCP);
        let [packet, _] = packets(&flow);
        let error =
            |to, quote: &[u8]| icmp_error((ELSEWHERE, to), (11, 0), [0, 7, 0, 0], &quote[..28], &extension);
        case.back(&error(EGRESS_A, &flow.outside(&packet))).arrives_as(A, &error(POD, &packet));
    });
}

/// Eight bytes of TCP: the port changes, and nothing behind it, neither in the frame nor past its end.
#[test]
fn row_10_3_2_row_10_3_5_a_tcp_quote_that_ends_before_its_checksum() {
    each(ONE_OF_EACH_TC, |case| {
        let flow = Flow::moved(case, TCP);
        let [packet, _] = packets(&flow);
        // Of the half of a checksum nobody can tell what it must be.
        for length in (28..=40).filter(|length| *length != 37) {
            let [sent, seen] = flow.error_about(&packet, ELSEWHERE, ((11, 0), [0; 4]), length);
            case.back(&sent).arrives_as(A, &seen);
            // What pads the frame behind the packet is not the quote's.
            let padded = [&sent[..], &[0xaa; 18]].concat();
            case.back(&padded).arrives_as(A, &[&seen[..], &[0xaa; 18]].concat());
        }
        for length in 20..28 {
            let [sent, _] = flow.error_about(&packet, ELSEWHERE, ((11, 0), [0; 4]), length);
            stopped_or_left(case, &sent);
        }
    });
}

/// From somebody who is no vendor, an error about nothing of ours is the instance's own stack's to read.
#[track_caller]
fn stopped_or_left(case: &mut Case<'_>, packet: &[u8]) {
    let seen = case.back(packet);
    assert_eq!(seen.output, seen.input, "{}", seen.title);
    let translated = vpnat_common::layout::outcome::Fate::Translated;
    assert_ne!(seen.ended().fate(), translated, "{}", seen.title);
}

/// Quotes of which one thing does not fit: dropped in silence, and no flow is any the worse.
#[test]
fn rfc5508_req4_row_10_3_1_row_10_3_2_row_10_3_3_quotes_that_match_nothing() {
    each(TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [packet, answer] = packets(&flow);
            let seen = flow.outside(&packet);
            let patched = |at: usize, bits: u8| {
                let mut quote = seen.clone();
                quote[at] ^= bits;
                with_header_checksum(quote)
            };
            let mut quotes = vec![
                ("the pod's own address", packet.clone()),
                ("another source address", patched(15, 1)),
                ("another destination", patched(19, 1)),
                ("another protocol", patched(9, 6 ^ 17)),
                ("version 6", patched(0, 0x20)),
                ("a header of 16 bytes", patched(0, 1)),
                ("a later fragment", patched(7, 1)),
                ("the answer", answer.clone()),
                ("an error", icmp_error((EGRESS_A, SERVER), (3, 3), [0; 4], &answer, &[])),
                ("seven bytes", seen[..27].to_vec()),
                ("no header", seen[..12].to_vec()),
                ("nothing", Vec::new()),
            ];
            if protocol == ICMP {
                quotes.push(("another identifier", patched(24, 0x40)));
            } else {
                quotes.push(("another source port", patched(20, 0x40)));
                quotes.push(("another destination port", patched(22, 0x40)));
            }
            for (name, quote) in quotes {
                println!("{protocol}: {name}");
                let error = icmp_error((SERVER, EGRESS_A), (3, 1), [0; 4], &quote, &[]);
                dropped(case, &error, false);
                let error = icmp_error((ELSEWHERE, EGRESS_A), (3, 1), [0; 4], &quote, &[]);
                stopped_or_left(case, &error);
            }
            flow.lives(case);
        }
    });
}

/// An error from inside about a packet that no flow brought makes none and does not leave.
#[test]
fn rfc5508_req5_rfc7857_12_an_error_from_inside_makes_no_mapping() {
    each(TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let entries = case.entries();
            let stranger = Flow { pod: (POD_2, 7777), ..flow };
            let [_, answer] = packets(&flow);
            for from in [POD, INSIDE_ROUTER] {
                let [sent, _] = stranger.refusal_of(&answer, from, ((3, 3), [0; 4]), 1000);
                dropped(case, &sent, true);
            }
            assert_eq!(case.entries(), entries);
            flow.lives(case);
        }
    });
}

/// Next-hop MTUs that make no sense are the pod's to judge: 0 (RFC 1191 section 5), 67, 65535.
#[test]
fn rfc1191_3_rfc5508_7_1_2_row_10_3_8_mtu_and_unused_bytes_are_not_edited() {
    each(ONE_OF_EACH_TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [packet, answer] = packets(&flow);
            for mtu in [0u16, 67, 68, 1300, 1500, 9001, 65535] {
                let [high, low] = mtu.to_be_bytes();
                for from in [SERVER, ELSEWHERE] {
                    let [sent, seen] = flow.error_about(&packet, from, ((3, 4), [0, 0, high, low]), 28);
                    case.back(&sent).arrives_as(A, &seen);
                    // Unused bytes are zero by the book; whatever they are, they stay.
                    let [sent, seen] = flow.error_about(&packet, from, ((3, 4), [0xab, 0, high, low]), 28);
                    case.back(&sent).arrives_as(A, &seen);
                }
                let [sent, seen] = flow.refusal_of(&answer, INSIDE_ROUTER, ((3, 4), [0, 0, high, low]), 28);
                case.out(&sent).leaves_as(A, &seen);
            }
        }
    });
}

/// The quote is the packet as a router saw it: another TTL, ECN or identification does not matter, and stays.
#[test]
fn rfc8899_3_row_10_3_4_the_quote_is_restored_exactly() {
    each(ONE_OF_EACH_TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let [packet, _] = packets(&flow);
            for (at, value) in [(8, 1u8), (1, 0x03), (1, 0xb8), (6, 0x40)] {
                let mut changed = packet.clone();
                changed[at] = value;
                let changed = with_header_checksum(changed);
                let [sent, seen] = flow.error_about(&changed, ELSEWHERE, ((3, 4), [0, 0, 5, 0x14]), 1000);
                case.back(&sent).arrives_as(A, &seen);
            }
        }
    });
}

/// Fragments of errors are never translated.
#[test]
fn row_10_3_9_errors_in_parts_are_not_translated() {
    each(TC, |case| {
        let flow = Flow::moved(case, UDP);
        let [packet, _] = packets(&flow);
        for from in [SERVER, ELSEWHERE] {
            let [sent, _] = flow.error_about(&packet, from, ((3, 3), [0; 4]), 1000);
            for part in model::fragments(&sent, 9, &[64]) {
                stopped_or_left(case, &part);
                if from == SERVER {
                    dropped(case, &part, false);
                }
            }
        }
    });
}

/// Redirects, source quench, information and mask requests, router discovery, experiments: dropped both ways.
#[test]
fn rfc5508_req10b_rfc5508_req10c_rfc5508_req11_other_types_are_dropped() {
    each(EVERY, |case| {
        let flow = Flow::moved(case, UDP);
        let [packet, answer] = packets(&flow);
        for kind in [1, 2, 4, 5, 6, 7, 9, 10, 15, 16, 17, 18, 19, 30, 40, 41, 42, 253, 255] {
            for code in [0, 1] {
                let rest = [0x9c, 0x40, 0, 1];
                let [sent, _] = flow.error_about(&packet, SERVER, ((kind, code), rest), 1000);
                stopped(case, &sent, false);
                let [sent, _] = flow.refusal_of(&answer, POD, ((kind, code), rest), 1000);
                stopped(case, &sent, true);
            }
        }
        flow.lives(case);
    });
}

/// Parameter problems point into the packet: the pointer stays, and the packet is the pod's.
#[test]
fn rfc5508_req10b_parameter_problems_are_translated() {
    each(ONE_OF_EACH_TC, |case| {
        let flow = Flow::open(case, UDP, POD_END, SERVER_END);
        let [packet, _] = packets(&flow);
        for (code, pointer) in [(0, 20), (0, 1), (1, 0), (2, 0)] {
            let [sent, seen] = flow.error_about(&packet, ELSEWHERE, ((12, code), [pointer, 0, 0, 0]), 64);
            case.back(&sent).arrives_as(A, &seen);
        }
    });
}
