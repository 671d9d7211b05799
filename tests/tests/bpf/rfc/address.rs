//! Who may be seen outside: never an inside address, whatever the packet.

use tests::packet::{ICMP, TCP, UDP, ipv4};

use super::{Flow, POD_END, PROTOCOLS, SERVER_END, SYN};
use crate::case::{EVERY, TC, each};
use crate::model;
use crate::plan::{A, EGRESS_A, EGRESS_B, ELSEWHERE, POD, SERVER, STRANGER};

/// Only TCP, UDP and ICMP queries leave; every other protocol number does not, and nothing leaves untranslated.
#[test]
fn rfc3022_2_2_sessions_of_every_protocol_number() {
    each(TC, |case| {
        for protocol in (0..=255).filter(|protocol| ![ICMP, TCP, UDP].contains(protocol)) {
            let packet = ipv4(POD, SERVER, protocol, 64, &[0x5a; 40]);
            let seen = case.out(&packet);
            assert!(seen.was_dropped(), "{}: protocol {protocol}", seen.title);
            let seen = case.back(&ipv4(SERVER, EGRESS_A, protocol, 64, &[0x5a; 40]));
            assert!(seen.was_dropped(), "{}: protocol {protocol}", seen.title);
        }
    });
}

/// Sources that may not talk to the vendor, egress addresses included: none of them leaves.
#[test]
fn rfc3022_2_2_sessions_of_strangers_do_not_leave() {
    each(EVERY, |case| {
        for source in [STRANGER, ELSEWHERE, EGRESS_A, EGRESS_B, SERVER] {
            for protocol in PROTOCOLS {
                let flow = Flow { protocol, pod: (source, 40000), remote: SERVER_END, public: POD_END };
                let packet =
                    if protocol == TCP { flow.pods_segment(SYN, (1, 0), b"") } else { flow.question() };
                let seen = case.out(&packet);
                assert!(seen.was_dropped(), "{}: from {source} it ended as {:?}", seen.title, seen.ended());
            }
        }
        assert_eq!(case.entries(), 0);
    });
}

/// A flow whose egress address leaves the configuration does not go on with it.
#[test]
fn rfc3022_2_2_sessions_end_with_their_egress_address() {
    each(EVERY, |case| {
        for protocol in [UDP, ICMP] {
            case.restart();
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            case.move_egress(A, EGRESS_B);
            case.wait(vpnat_common::engine::STAMP_SECONDS);
            let packet = flow.question();
            case.out(&packet).leaves_as(A, &model::source(&packet, (EGRESS_B, 40000)));
        }
    });
}
