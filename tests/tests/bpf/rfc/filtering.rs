//! Filtering: who outside may answer.

use tests::packet::{ICMP, TCP, UDP, tcp, udp};
use vpnat_common::layout::outcome::Outcome;

use super::{ACK, FIN, Flow, POD_END, PROTOCOLS, RST, SERVER_END, SYN, dropped, echo_reply};
use crate::case::{Case, EVERY, TC, each};
use crate::plan::{EGRESS_A, ELSEWHERE, POD, PODS, SERVER, SERVER_2};

/// Packets to the flow's address and port from everybody but its remote end.
fn intruders(flow: &Flow) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for protocol in PROTOCOLS {
        for (from, port) in [(SERVER, 443), (SERVER, 444), (SERVER_2, 443), (SERVER_2, 444)] {
            if (protocol, from) == (flow.protocol, flow.remote.0)
                && (protocol == ICMP || port == flow.remote.1)
            {
                continue;
            }
            packets.push(match protocol {
                TCP => tcp((from, port), flow.public, ACK, (501, 101), b"intruder"),
                UDP => udp((from, port), flow.public, 64, b"intruder"),
                _ => echo_reply(from, flow.public),
            });
        }
    }
    packets
}

/// Address-and-port-dependent, for the first host as for the third that collides: the class never changes.
#[test]
fn rfc4787_req8_rfc5382_req3_rfc4787_req11_row_8_3_only_the_remote_end_answers() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            case.restart();
            for pod in &PODS[..3] {
                let flow = Flow::open(case, protocol, (*pod, 40000), SERVER_END);
                for packet in intruders(&flow) {
                    assert_eq!(dropped(case, &packet, false), Outcome::Unsolicited);
                }
                flow.lives(case);
            }
        }
    });
}

/// A mapping of one protocol lets nothing of another in.
#[test]
fn rfc7857_6_a_mapping_of_one_protocol_admits_no_other() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            case.restart();
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            for packet in intruders(&flow) {
                assert_eq!(dropped(case, &packet, false), Outcome::Unsolicited);
            }
            flow.lives(case);
        }
    });
}

/// Without a session everything from a vendor is dropped, before the local stack could answer it.
#[test]
fn rfc5382_req4_rfc5382_req4a_row_11_2_row_11_3_unsolicited_segments_end_in_silence() {
    each(EVERY, |case| {
        for flags in [SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK, 0] {
            let packet = tcp(SERVER_END, (EGRESS_A, 40000), flags, (500, 100), b"");
            assert_eq!(dropped(case, &packet, false), Outcome::Unsolicited);
        }
        // RFC 5382 REQ-4: a connection that opens meanwhile is none the worse for it.
        let flow = Flow::open(case, TCP, POD_END, SERVER_END);
        flow.lives(case);
    });
}

/// Whoever is no vendor may talk to the instance itself, and to no pod.
#[test]
fn rfc3022_2_2_sessions_from_elsewhere_are_the_instances_own() {
    each(EVERY, |case| {
        let flow = Flow::open(case, UDP, POD_END, SERVER_END);
        let packet = udp((ELSEWHERE, 443), flow.public, 64, b"intruder");
        let seen = case.back(&packet);
        assert_eq!((seen.ended(), &seen.output), (Outcome::NotOurs, &seen.input), "{}", seen.title);
        // A vendor that addresses a pod itself.
        let packet = udp((SERVER, 443), (POD, 40000), 64, b"intruder");
        assert_eq!(dropped(case, &packet, false), Outcome::Unsolicited);
    });
}

/// The instance's own flows from the egress address and the pods' are told apart.
#[test]
fn rfc3022_2_2_own_sessions_of_the_instance_do_not_clash() {
    each(TC, |case: &mut Case<'_>| {
        for protocol in [UDP, ICMP] {
            let pod = Flow::open(case, protocol, POD_END, SERVER_END);
            let own = Flow { pod: (EGRESS_A, 40000), ..pod };
            let seen = case.local(&own.question());
            let port = seen.port();
            assert_ne!(port, pod.public.1, "{}: the pod has the port", seen.title);
            let own = Flow { public: (EGRESS_A, port), ..own };
            seen.leaves_as(crate::plan::A, &own.outside(&own.question()));
            own.lives(case);
            pod.lives(case);
        }
    });
}
