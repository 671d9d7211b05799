//! Headers that are cut short, contradict themselves or carry options; and the time to live.

use tests::packet::{GRE, echo_request, icmp, ipv4, tcp, udp};
use vpnat_common::layout::outcome::Outcome;

use crate::case::{ALL, Case, EVERY, TC, XDP, each};
use crate::model::{self, finished, with_header_checksum, with_options, with_ttl};
use crate::plan::{A, EGRESS_A, End, NOBODY, POD, SERVER};

const POD_END: End = (POD, 40000);
const SERVER_END: End = (SERVER, 443);
const PUBLIC: End = (EGRESS_A, 40000);

/// The packet with other bytes at `at`, and its header checksum right.
fn patched(packet: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    with_header_checksum(packet)
}

fn syn() -> Vec<u8> {
    tcp(POD_END, SERVER_END, 2, (1, 0), b"")
}

fn datagram() -> Vec<u8> {
    udp(POD_END, SERVER_END, 64, b"datagram")
}

/// Malformed packets, each by one fault.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("version 6", patched(&datagram(), 0, &[0x65])),
        ("header length 16", {
            let mut packet = datagram();
            packet[0] = 0x44;
            packet
        }),
        ("header longer than the packet", {
            let mut packet = syn();
            packet[0] = 0x4f;
            packet
        }),
        ("total length below the header's", patched(&datagram(), 2, &[0, 19])),
        ("total length beyond the frame", patched(&datagram(), 2, &[0, 200])),
        ("TCP cut short", patched(&syn()[..38], 2, &[0, 38])),
        ("TCP of eight bytes", patched(&syn()[..28], 2, &[0, 28])),
        ("TCP data offset 16 bytes", patched(&syn(), 32, &[0x40])),
        ("TCP data offset beyond the packet", patched(&syn(), 32, &[0xf0])),
        ("UDP cut short", patched(&datagram()[..27], 2, &[0, 27])),
        ("UDP length below eight", patched(&datagram(), 24, &[0, 7])),
        ("UDP length beyond the packet", patched(&datagram(), 24, &[0, 17])),
        ("ICMP cut short", patched(&echo_request(POD, SERVER, 1, 1)[..27], 2, &[0, 27])),
        ("TCP destination port 0", finished(patched(&syn(), 22, &[0, 0]))),
        ("UDP destination port 0", finished(patched(&datagram(), 22, &[0, 0]))),
    ]
}

#[test]
fn malformed_packets_do_not_leave() {
    each(ALL, |case| {
        for (fault, packet) in malformed() {
            println!("{fault}");
            case.out(&packet).ends((A, Outcome::BadHeader), (NOBODY, Outcome::ToStackShape));
        }
        assert_eq!(case.entries(), 0);
    });
}

/// 10.5: a source port of 0 is mapped as any other (a datagram that wants no answer, RFC 768), and one that comes
/// anyway finds its way.
#[test]
fn a_source_port_of_0_is_mapped() {
    each(EVERY, |case| {
        let question = udp((POD, 0), SERVER_END, 64, b"no answer wanted");
        let port = case.out(&question).port();
        assert!(port >= 1024, "port {port}");
        case.out(&question).leaves_as(A, &model::source(&question, (EGRESS_A, port)));
        let answer = udp(SERVER_END, (EGRESS_A, port), 64, b"an answer");
        let restored = model::destination(&answer, (POD, 0));
        case.back(&answer).arrives_as(A, &restored);
    });
}

/// From outside a malformed IP header is the stack's to drop, and a malformed transport header ours.
#[test]
fn malformed_answers_do_not_arrive() {
    each(ALL, |case| {
        open(case);
        let answer = udp(SERVER_END, PUBLIC, 64, b"answer");
        for (at, bytes, outcome) in [
            (0, vec![0x65], (NOBODY, Outcome::NotOurs)),
            (2, vec![0, 19], (NOBODY, Outcome::NotOurs)),
            (2, vec![0, 200], (NOBODY, Outcome::NotOurs)),
            (24, vec![0, 7], (A, Outcome::BadHeader)),
            (24, vec![0, 200], (A, Outcome::BadHeader)),
        ] {
            case.back(&patched(&answer, at, &bytes)).ends(outcome, (NOBODY, Outcome::ToStackShape));
        }
    });
}

/// Opens the flow of [`datagram`].
fn open(case: &mut Case<'_>) {
    let question = datagram();
    case.out(&question).leaves_as(A, &model::source(&question, PUBLIC));
}

/// The stack has checked a header's checksum before TC egress; XDP comes before it and has to look.
#[test]
fn xdp_leaves_a_wrong_header_checksum_to_the_stack() {
    each(XDP, |case| {
        open(case);
        let mut packet = datagram();
        packet[10] ^= 1;
        case.out(&packet).ends_as(NOBODY, Outcome::ToStackShape);
    });
}

#[test]
fn other_protocols_do_not_leave() {
    each(ALL, |case| {
        for protocol in [GRE, 2, 4, 50, 132, 255] {
            let packet = ipv4(POD, SERVER, protocol, 64, &[0; 24]);
            case.out(&packet).ends((A, Outcome::ProtocolUnsupported), (NOBODY, Outcome::ToStackShape));
            let packet = ipv4(SERVER, EGRESS_A, protocol, 64, &[0; 24]);
            case.back(&packet).ends((A, Outcome::ProtocolUnsupported), (NOBODY, Outcome::ToStackShape));
        }
        assert_eq!(case.entries(), 0);
    });
}

/// RFC 5508 REQ-10c and REQ-11.
#[test]
fn other_icmp_types_do_not_leave() {
    each(ALL, |case| {
        for kind in [4, 5, 9, 10, 15, 16, 17, 18, 40, 42] {
            let packet = icmp(POD, SERVER, (kind, 0), [0x9c, 0x40, 0, 1], &[0; 32]);
            case.out(&packet).ends((A, Outcome::IcmpTypeRefused), (NOBODY, Outcome::ToStackShape));
            let packet = icmp(SERVER, EGRESS_A, (kind, 0), [0x9c, 0x40, 0, 1], &[0; 32]);
            case.back(&packet).ends((A, Outcome::IcmpTypeRefused), (NOBODY, Outcome::ToStackShape));
        }
    });
}

/// No operation, end of list, router alert: kept byte for byte.
const HARMLESS: [&[u8]; 4] = [&[1, 1, 1, 1], &[1, 1, 1, 0], &[148, 4, 0, 0], &[1, 148, 4, 0, 0, 1, 0, 0]];

#[test]
fn harmless_options_are_kept() {
    each(TC, |case| {
        for options in HARMLESS {
            let question = with_options(&datagram(), options);
            case.out(&question).leaves_as(A, &model::source(&question, PUBLIC));
            let answer = with_options(&udp(SERVER_END, PUBLIC, 64, b"answer"), options);
            case.back(&answer).arrives_as(A, &model::destination(&answer, POD_END));
        }
    });
}

/// RFC 7126: options that name addresses, and those that cannot be read.
#[test]
fn options_that_name_addresses_are_refused() {
    let record_route = [&[7, 39, 4][..], &[0; 36], &[0]].concat();
    let options: [(&str, &[u8]); 7] = [
        ("loose source route", &[131, 7, 4, 8, 0, 77, 1, 0]),
        ("strict source route", &[137, 7, 4, 8, 0, 77, 1, 0]),
        ("record route", &record_route),
        ("timestamp", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("source route behind no operation", &[1, 131, 7, 4, 8, 0, 77, 1]),
        ("length 1", &[148, 1, 0, 0]),
        ("length beyond the header", &[148, 12, 0, 0]),
    ];
    each(ALL, |case| {
        for established in [false, true] {
            if established {
                open(case);
            }
            for (name, options) in options {
                println!("{name}");
                let packet = with_options(&datagram(), options);
                case.out(&packet).ends((A, Outcome::OptionRefused), (NOBODY, Outcome::ToStackShape));
                let packet = with_options(&udp(SERVER_END, PUBLIC, 64, b"answer"), options);
                case.back(&packet).ends((A, Outcome::OptionRefused), (NOBODY, Outcome::ToStackShape));
            }
        }
    });
}

/// XDP is a hop of its own and counts the time to live down; at its end the stack answers, with the packet
/// that the pod sent. `leaves_as` and `arrives_as` check the count on every packet that XDP sends.
#[test]
fn xdp_leaves_the_end_of_a_life_to_the_stack() {
    each(XDP, |case| {
        for ttl in [0, 1] {
            case.out(&with_ttl(&datagram(), ttl)).ends_as(A, Outcome::ToStackTtl);
            assert_eq!(case.entries(), 0, "no flow for a packet that goes no further");
        }
        let last = with_ttl(&datagram(), 2);
        case.out(&last).leaves_as(A, &model::source(&last, PUBLIC));
        for ttl in [0, 1] {
            case.out(&with_ttl(&datagram(), ttl)).ends_as(A, Outcome::ToStackTtl);
            let answer = with_ttl(&udp(SERVER_END, PUBLIC, 64, b"answer"), ttl);
            case.back(&answer).ends_as(A, Outcome::ToStackTtl);
        }
    });
}
