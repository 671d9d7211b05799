//! ICMP errors (RFC 5508 section 4): the pod gets its own packet quoted, the vendor gets its own.

use std::net::Ipv4Addr;

use tests::packet::{TCP, echo_request, tcp, udp};
use vpnat_common::layout::outcome::Outcome;

use crate::case::{Case, TC, XDP, each};
use crate::model::{self, icmp_error, with_options};
use crate::plan::{A, EGRESS_A, ELSEWHERE, End, INSIDE_ROUTER, NOBODY, POD, POD_2, SERVER};

const POD_END: End = (POD, 40000);
const SERVER_END: End = (SERVER, 443);
/// Not the pod's own port, so that a port that was not restored shows.
const RIVAL: End = (POD_2, 40000);

/// A packet of the pod, what the vendor saw of it, and the vendor's packet back, as sent and as it arrived.
struct Exchange {
    sent: Vec<u8>,
    seen: Vec<u8>,
    answer: Vec<u8>,
    arrived: Vec<u8>,
}

/// Opens a flow of each protocol whose port or identifier is another outside.
fn exchanges(case: &mut Case<'_>) -> Vec<Exchange> {
    let payload = [0x5a; 101];
    let mut found = Vec::new();
    for protocol in [0, 1, 2] {
        let packet = |pod: End| match protocol {
            0 => tcp(pod, SERVER_END, 2, (7, 0), &payload),
            1 => udp(pod, SERVER_END, 64, &payload),
            _ => echo_request(pod.0, SERVER, pod.1, 1),
        };
        let first = packet(RIVAL);
        case.out(&first).leaves_as(A, &model::source(&first, (EGRESS_A, 40000)));
        let sent = packet(POD_END);
        let port = case.out(&sent).port();
        assert_ne!(port, 40000);
        let public = (EGRESS_A, port);
        let answer = match protocol {
            0 => tcp(SERVER_END, public, 18, (9, 8), &payload),
            1 => udp(SERVER_END, public, 64, &payload),
            _ => {
                let [high, low] = port.to_be_bytes();
                tests::packet::icmp(SERVER, EGRESS_A, (0, 0), [high, low, 0, 1], &payload)
            }
        };
        found.push(Exchange {
            seen: model::source(&sent, public),
            arrived: model::destination(&answer, POD_END),
            sent,
            answer,
        });
    }
    found
}

/// How much of a packet may be quoted: the header and eight bytes, a TCP header, 64 bytes, all.
fn lengths(packet: &[u8]) -> [usize; 5] {
    [28, 38, 40, 84, packet.len()].map(|length| length.min(packet.len()))
}

/// Types and codes that are translated, and what stands in front of the quote.
const KINDS: [((u8, u8), [u8; 4]); 8] = [
    ((3, 0), [0; 4]),
    ((3, 1), [0; 4]),
    ((3, 3), [0; 4]),
    ((3, 4), [0, 0, 0x05, 0x14]),
    ((3, 13), [0; 4]),
    ((11, 0), [0; 4]),
    ((11, 1), [0; 4]),
    ((12, 0), [20, 0, 0, 0]),
];

#[test]
fn the_pod_is_told_about_its_own_packet() {
    each(TC, |case| {
        for exchange in exchanges(case) {
            let before = table(case);
            for (kind, rest) in KINDS {
                for length in lengths(&exchange.sent) {
                    // From the server, and from a router that is nobody's vendor (RFC 4787 REQ-12a).
                    for from in [SERVER, ELSEWHERE] {
                        let error = |to: Ipv4Addr, quote: &[u8]| {
                            icmp_error((from, to), kind, rest, &quote[..length], &[])
                        };
                        let told = error(POD, &exchange.sent);
                        case.back(&error(EGRESS_A, &exchange.seen)).arrives_as(A, &told);
                    }
                }
            }
            assert_eq!(table(case), before, "an error neither makes, renews nor ends a flow");
        }
    });
}

/// The pod, or a router on its side, refuses what the vendor sent: the vendor hears it from the egress address.
#[test]
fn the_vendor_is_told_about_its_own_packet() {
    each(TC, |case| {
        for exchange in exchanges(case) {
            let before = table(case);
            for (kind, rest) in KINDS {
                for length in lengths(&exchange.answer) {
                    for from in [POD, INSIDE_ROUTER] {
                        let error = |from: Ipv4Addr, quote: &[u8]| {
                            icmp_error((from, SERVER), kind, rest, &quote[..length], &[])
                        };
                        let told = error(EGRESS_A, &exchange.answer);
                        case.out(&error(from, &exchange.arrived)).leaves_as(A, &told);
                    }
                }
            }
            assert_eq!(table(case), before, "an error neither makes, renews nor ends a flow");
        }
    });
}

/// The whole flow table, in an order of its own.
fn table(case: &Case<'_>) -> Vec<([u8; 13], [u8; 64])> {
    let mut entries: Vec<_> = case
        .world
        .flows
        .iter()
        .flatten()
        .map(|(key, entry)| {
            let mut name = [0; 13];
            name[..4].copy_from_slice(&key.src.octets);
            name[4..8].copy_from_slice(&key.dst.octets);
            name[8..10].copy_from_slice(&key.src_port.to_wire());
            name[10..12].copy_from_slice(&key.dst_port.to_wire());
            name[12] = key.protocol;
            (name, entry.0)
        })
        .collect();
    entries.sort();
    entries
}

/// RFC 5508 REQ-3b.
#[test]
fn options_of_the_quoted_packet_are_skipped() {
    each(TC, |case| {
        for exchange in exchanges(case) {
            for words in [1, 5, 10] {
                let options = vec![1; words * 4];
                let (sent, seen) =
                    (with_options(&exchange.sent, &options), with_options(&exchange.seen, &options));
                let length = 28 + options.len();
                let error = |to, quote: &[u8]| {
                    icmp_error((ELSEWHERE, to), (3, 4), [0, 0, 5, 0x14], &quote[..length], &[])
                };
                case.back(&error(EGRESS_A, &seen)).arrives_as(A, &error(POD, &sent));
            }
        }
    });
}

/// RFC 4884: the length field bounds the quote; padding and extensions behind it are not transport.
#[test]
fn extensions_behind_the_quote_stay_as_they_are() {
    each(TC, |case| {
        for exchange in exchanges(case) {
            let extension = [0x20, 0, 0xde, 0xad, 0, 8, 1, 1, 0, 1, 0x21, 0xff];
            for quoted in [28, 38, 84] {
                let quoted = quoted.min(exchange.sent.len());
                let error = |to, quote: &[u8]| {
                    let mut padded = quote[..quoted].to_vec();
                    padded.resize(128, 0);
                    icmp_error((ELSEWHERE, to), (11, 0), [0, 32, 0, 0], &padded, &extension)
                };
                // Short of the checksum, what pads a TCP quote would pass for one: 16 bytes from its start.
                if exchange.sent[9] == TCP && quoted < 38 {
                    continue;
                }
                case.back(&error(EGRESS_A, &exchange.seen)).arrives_as(A, &error(POD, &exchange.sent));
            }
        }
    });
}

/// RFC 5508 REQ-3c: the quoted transport's own checksum is not judged. Wrong by a difference it stays.
#[test]
fn a_wrong_quoted_transport_checksum_stays_wrong() {
    each(TC, |case| {
        for exchange in exchanges(case) {
            let at = match exchange.sent[9] {
                TCP => 36,
                tests::packet::UDP => 26,
                _ => 22,
            };
            // One's complement addition: the same is added on both sides.
            let spoilt = |packet: &[u8]| {
                let mut packet = packet.to_vec();
                let sum = u32::from(u16::from_be_bytes([packet[at], packet[at + 1]])) + 0x1234;
                let sum = (sum & 0xffff) + (sum >> 16);
                packet[at..at + 2].copy_from_slice(&(sum as u16).to_be_bytes());
                packet
            };
            let error = |to, quote: &[u8]| icmp_error((SERVER, to), (3, 3), [0; 4], quote, &[]);
            let told = error(POD, &spoilt(&exchange.sent));
            case.back(&error(EGRESS_A, &spoilt(&exchange.seen))).arrives_as(A, &told);
        }
    });
}

/// RFC 5508 REQ-3: one bit of anything that the error's checksum covers, whatever the error's length; and what is
/// right passes at any length.
#[test]
fn an_error_with_a_wrong_checksum_is_dropped() {
    each(TC, |case| {
        let exchange = &exchanges(case)[1];
        for length in (0..70).chain([200, 547, 548, 1471, 1472, 2999]) {
            let behind: Vec<u8> = (0..length).map(|byte| (byte * 7) as u8).collect();
            let error =
                |to, quote: &[u8]| icmp_error((ELSEWHERE, to), (3, 4), [0, 0, 5, 0x14], quote, &behind);
            let (seen, told) = (error(EGRESS_A, &exchange.seen), error(POD, &exchange.sent));
            case.back(&seen).arrives_as(A, &told);
            for place in [20, 21, 22, 23, 27, 52, 60, seen.len() - 1] {
                let mut spoilt = seen.clone();
                spoilt[place] ^= 4;
                // Another type is refused for that; another quote names no flow.
                if spoilt[20] == seen[20] {
                    case.back(&spoilt).ends_as(A, Outcome::IcmpErrorBad);
                }
            }
            let error = |from, quote: &[u8]| icmp_error((from, SERVER), (3, 3), [0; 4], quote, &behind);
            let (sent, told) = (error(INSIDE_ROUTER, &exchange.arrived), error(EGRESS_A, &exchange.answer));
            case.out(&sent).leaves_as(A, &told);
            let mut spoilt = sent;
            *spoilt.last_mut().expect("a byte") ^= 0x80;
            case.out(&spoilt).ends_as(A, Outcome::IcmpErrorBad);
        }
    });
}

/// RFC 5508 REQ-3a: the quoted IP header's own checksum, with the error's right.
#[test]
fn an_error_about_a_spoilt_header_is_dropped() {
    each(TC, |case| {
        for exchange in exchanges(case) {
            for options in [&[][..], &[1; 4], &[1; 40]] {
                let spoilt = |packet: &[u8], place: usize| {
                    let mut packet = with_options(packet, options);
                    packet[place] ^= 1;
                    packet
                };
                // Type of service, identification, time to live, and the checksum itself.
                for place in [1, 5, 8, 10, 11] {
                    let quote = spoilt(&exchange.seen, place);
                    let error = icmp_error((ELSEWHERE, EGRESS_A), (3, 1), [0; 4], &quote, &[]);
                    case.back(&error).ends_as(A, Outcome::IcmpErrorBad);
                    let quote = spoilt(&exchange.arrived, place);
                    let error = icmp_error((POD, SERVER), (3, 3), [0; 4], &quote, &[]);
                    case.out(&error).ends_as(A, Outcome::IcmpErrorBad);
                }
            }
        }
    });
}

/// RFC 5508 section 7.3: no source route leaves in ICMP, neither in front nor quoted.
#[test]
fn a_source_route_does_not_leave_in_a_quote() {
    each(TC, |case| {
        for exchange in exchanges(case) {
            for options in [[131, 7, 4, 8, 0, 77, 1, 0], [1, 137, 7, 4, 8, 0, 77, 1]] {
                let quote = with_options(&exchange.arrived, &options);
                let error = icmp_error((POD, SERVER), (11, 0), [0; 4], &quote, &[]);
                case.out(&error).ends_as(A, Outcome::OptionRefused);
                let error = icmp_error((POD, SERVER), (11, 0), [0; 4], &exchange.arrived, &[]);
                case.out(&with_options(&error, &options)).ends_as(A, Outcome::OptionRefused);
            }
        }
        let echo = with_options(&echo_request(POD, SERVER, 9, 1), &[131, 7, 4, 8, 0, 77, 1, 0]);
        case.out(&echo).ends_as(A, Outcome::OptionRefused);
    });
}

/// Quotes that say too little, or nothing that this instance has sent.
#[test]
fn errors_about_nothing_of_ours_are_dropped() {
    each(TC, |case| {
        let exchange = &exchanges(case)[1];
        let about = |quote: &[u8]| icmp_error((SERVER, EGRESS_A), (3, 1), [0; 4], quote, &[]);
        let port = |packet: &[u8], at: usize| {
            let mut packet = packet.to_vec();
            packet[at] ^= 0x40;
            packet
        };
        let fragment = model::fragments(&exchange.seen, 7, &[64]);
        let inner = icmp_error((EGRESS_A, SERVER), (3, 3), [0; 4], &exchange.answer, &[]);
        for (name, quote, outcome) in [
            ("seven bytes of transport", exchange.seen[..27].to_vec(), Outcome::IcmpErrorBad),
            ("no transport", exchange.seen[..20].to_vec(), Outcome::IcmpErrorBad),
            ("no header", exchange.seen[..12].to_vec(), Outcome::IcmpErrorBad),
            ("a later fragment", fragment[1].clone(), Outcome::IcmpErrorBad),
            ("an error", inner, Outcome::IcmpErrorBad),
            ("another source", exchange.sent.clone(), Outcome::IcmpErrorBad),
            ("another protocol", port(&exchange.seen, 9), Outcome::IcmpErrorBad),
            ("an unknown source port", port(&exchange.seen, 20), Outcome::IcmpErrorNoFlow),
            ("an unknown destination port", port(&exchange.seen, 22), Outcome::IcmpErrorNoFlow),
        ] {
            println!("{name}");
            case.back(&about(&quote)).ends_as(A, outcome);
        }
        // The same about the instance's own packets, from no vendor, is the instance's to hear.
        let own = udp((EGRESS_A, 500), (ELSEWHERE, 500), 64, b"key exchange");
        let error = icmp_error((ELSEWHERE, EGRESS_A), (3, 3), [0; 4], &own, &[]);
        case.back(&error).ends_as(NOBODY, Outcome::NotOurs);
    });
}

/// 10.3: an error in parts cannot be judged by its first part, and no other part goes without it.
#[test]
fn errors_in_parts_are_dropped() {
    each(TC, |case| {
        let exchange = &exchanges(case)[1];
        let error = icmp_error((SERVER, EGRESS_A), (3, 1), [0; 4], &exchange.seen, &[]);
        let parts = model::fragments(&error, 7, &[64]);
        case.back(&parts[0]).ends_as(A, Outcome::IcmpErrorBad);
        case.back(&parts[1]).ends_as(A, Outcome::FragmentHeld);
        case.back(&parts[0]).ends_as(A, Outcome::IcmpErrorBad);
        let error = icmp_error((POD, SERVER), (3, 3), [0; 4], &exchange.arrived, &[]);
        let parts = model::fragments(&error, 8, &[64]);
        case.out(&parts[0]).ends_as(A, Outcome::IcmpErrorBad);
        case.out(&parts[1]).ends_as(A, Outcome::FragmentHeld);
    });
}

/// Outbound errors reveal nothing: no flow, no error; and the instance says nothing of its own.
#[test]
fn errors_about_no_flow_do_not_leave() {
    each(TC, |case| {
        let exchange = &exchanges(case)[0];
        let stray = udp(SERVER_END, (POD, 7777), 64, b"never asked for");
        let error = icmp_error((POD, SERVER), (3, 3), [0; 4], &stray, &[]);
        case.out(&error).ends_as(A, Outcome::IcmpErrorNoFlow);
        let error = icmp_error((POD, SERVER), (3, 3), [0; 4], &exchange.arrived[..26], &[]);
        case.out(&error).ends_as(A, Outcome::IcmpErrorBad);
        let error = icmp_error((POD_2, SERVER), (3, 3), [0; 4], &exchange.arrived, &[]);
        case.local(&error).ends_as(A, Outcome::LocalSource);
    });
}

#[test]
fn xdp_leaves_errors_to_the_stack() {
    each(XDP, |case| {
        for exchange in exchanges(case) {
            let error = icmp_error((SERVER, EGRESS_A), (3, 4), [0, 0, 5, 0x14], &exchange.seen, &[]);
            case.back(&error).ends_as(NOBODY, Outcome::ToStackShape);
            let error = icmp_error((POD, SERVER), (3, 3), [0; 4], &exchange.arrived, &[]);
            case.out(&error).ends_as(NOBODY, Outcome::ToStackShape);
        }
    });
}
