//! Endpoint-independent mapping, where a vendor asks for it: one port for a pod's end, whatever the remote end.

use std::collections::BTreeSet;

use tests::packet::{ICMP, TCP, UDP, udp};
use vpnat_common::addr::Port;
use vpnat_common::layout::flow::{FlowKey, kind};
use vpnat_common::layout::outcome::{Fate, Outcome};
use vpnat_common::layout::vendor::flag;

use super::{ACK, FIN, Flow, ONE_OF_EACH, POD_END, PROTOCOLS, SERVER_END, SYN, policy};
use crate::case::{Case, EVERY, each};
use crate::plan::{EGRESS_A, End, POD, POD_2, PODS, SERVER, SERVER_2};

/// Three remote ends of the vendor.
const REMOTES: [End; 3] = [(SERVER, 1000), (SERVER, 2000), (SERVER_2, 1000)];

fn independent(case: &mut Case<'_>) {
    policy(case, |policy| policy.flags |= flag::ENDPOINT_INDEPENDENT);
}

/// Remote ends of a protocol: of queries, two servers are two ends.
fn remotes(protocol: u8) -> &'static [End] {
    if protocol == ICMP { &REMOTES[1..] } else { &REMOTES }
}

/// The only port that the pod's end shows to these remote ends.
#[track_caller]
fn port_of(case: &mut Case<'_>, protocol: u8, pod: End, remotes: &[End]) -> u16 {
    let ports: BTreeSet<_> =
        remotes.iter().map(|remote| Flow::open(case, protocol, pod, *remote).public.1).collect();
    assert_eq!(ports.len(), 1, "{:?}: {pod:?} shows {ports:?}", case.way);
    ports.into_iter().next().unwrap_or_default()
}

/// What is refused does not begin, whatever else becomes of its packet.
#[track_caller]
fn refused(case: &mut Case<'_>, protocol: u8, pod: End, remote: End) {
    let late = Flow { protocol, pod, remote, public: pod };
    let packet = if protocol == TCP { late.pods_segment(SYN, (1, 0), b"") } else { late.question() };
    let seen = case.out(&packet);
    assert_ne!(seen.ended().fate(), Fate::Translated, "{}: {:?}", seen.title, seen.ended());
}

/// The keys of all bindings.
fn bindings(case: &Case<'_>) -> Vec<FlowKey> {
    case.world.flows.keys().flatten().filter(|key| key.kind == kind::BINDING).collect()
}

/// Every remote end sees one port, the pod's own while it is free and another one otherwise, and answers reach the pod.
#[test]
fn rfc4787_req1_rfc5382_req1_rfc5508_req1a_row_8_1_one_port_for_all_remote_ends() {
    each(EVERY, |case| {
        independent(case);
        for protocol in PROTOCOLS {
            let first = port_of(case, protocol, POD_END, remotes(protocol));
            assert_eq!(first, POD_END.1);
            // Not its own: another pod's end has that, towards whatever remote end.
            let second = port_of(case, protocol, (POD_2, POD_END.1), remotes(protocol));
            assert_ne!(second, first);
            for (pod, port) in [(POD, first), (POD_2, second)] {
                for remote in remotes(protocol) {
                    let public = (EGRESS_A, port);
                    Flow { protocol, pod: (pod, POD_END.1), remote: *remote, public }.lives(case);
                }
            }
        }
    });
}

/// A port has one owner towards everybody: a range of two ports serves two ends, not two for each remote end, and the
/// same at every degree of use.
#[test]
fn rfc4787_req11_row_8_6_row_8_7_row_8_8_a_port_has_one_owner_and_no_pressure_changes_that() {
    each(EVERY, |case| {
        independent(case);
        policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50001)));
        for protocol in PROTOCOLS {
            let ports: BTreeSet<_> =
                [POD, POD_2].map(|pod| port_of(case, protocol, (pod, 40000), remotes(protocol))).into();
            assert_eq!(ports.len(), 2);
            for remote in remotes(protocol) {
                refused(case, protocol, (PODS[2], 40000), *remote);
            }
            // Who has a port opens more flows with it, refused or not the others.
            let more = (SERVER_2, 4000);
            Flow::open(case, protocol, (POD, 40000), more).lives(case);
        }
    });
}

/// Filtering stays address-and-port-dependent, and per protocol.
#[test]
fn row_8_3_rfc7857_6_mapping_is_not_filtering() {
    each(EVERY, |case| {
        independent(case);
        for protocol in PROTOCOLS {
            let flow = Flow::open(case, protocol, POD_END, (SERVER, 1000));
            flow.lives(case);
            Flow { remote: (SERVER_2, 1000), ..flow }.is_over(case);
            if protocol != ICMP {
                Flow { remote: (SERVER, 2000), ..flow }.is_over(case);
            }
        }
        Flow { protocol: UDP, pod: POD_END, remote: (SERVER, 3000), public: (EGRESS_A, 40000) }.is_over(case);
    });
}

/// A mapping for each protocol: none knows of another's port, nor of its end.
#[test]
fn rfc7857_5_endpoint_independent_mappings_are_per_protocol() {
    each(EVERY, |case| {
        independent(case);
        // UDP's own port is another pod's.
        Flow::open(case, UDP, (POD_2, POD_END.1), SERVER_END);
        let tcp = port_of(case, TCP, POD_END, &REMOTES);
        let udp = port_of(case, UDP, POD_END, &REMOTES);
        assert_eq!(tcp, POD_END.1);
        assert_ne!(udp, tcp);
        case.wait(400);
        Flow { protocol: UDP, pod: POD_END, remote: REMOTES[0], public: (EGRESS_A, udp) }.is_over(case);
        Flow { protocol: TCP, pod: POD_END, remote: REMOTES[0], public: (EGRESS_A, tcp) }.lives(case);
        assert_eq!(Flow::open(case, TCP, POD_END, (SERVER, 7)).public.1, tcp);
    });
}

/// One flow's end is not the mapping's: what lives on keeps the port. After the last and its rest it may change.
#[test]
fn row_8_10_a_mapping_lives_while_a_flow_of_its_does() {
    each(EVERY, |case| {
        independent(case);
        for protocol in [UDP, ICMP] {
            case.restart();
            independent(case);
            policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000)));
            let timer = if protocol == UDP { 300 } else { 60 };
            let flows: Vec<_> = remotes(protocol)
                .iter()
                .map(|remote| Flow::open(case, protocol, (POD, 40000), *remote))
                .collect();
            // Only the last goes on, for several lives of the others.
            let last = flows.last().expect("a flow");
            for _ in 0..8 {
                case.wait(timer / 2);
                last.asks(case);
            }
            flows[0].is_over(case);
            refused(case, protocol, (POD_2, 40000), REMOTES[1]);
            // A new one has the same port.
            assert_eq!(Flow::open(case, protocol, (POD, 40000), (SERVER_2, 5000)).public.1, 50000);
            case.wait(timer + 30);
            last.is_over(case);
            refused(case, protocol, (POD_2, 40000), REMOTES[1]);
            // The pod's own end has it back at once.
            assert_eq!(Flow::open(case, protocol, (POD, 40000), REMOTES[2]).public.1, 50000);
            case.wait(timer + 30 + 120);
            assert_eq!(Flow::open(case, protocol, (POD_2, 40000), REMOTES[1]).public.1, 50000);
        }
    });
}

/// A connection that has closed keeps its port no longer than its closing timer, though it could have lived for hours.
#[test]
fn row_8_10_a_closed_connections_mapping_ends_with_it() {
    each(EVERY, |case| {
        independent(case);
        policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000)));
        let flow = Flow::open(case, TCP, (POD, 40000), SERVER_END);
        case.wait(7000);
        flow.lives(case);
        refused(case, TCP, (POD_2, 40000), REMOTES[1]);
        flow.client(case, FIN | ACK, (101, 501), b"");
        flow.server(case, FIN | ACK, (501, 102), b"");
        flow.client(case, ACK, (102, 502), b"");
        case.wait(200);
        refused(case, TCP, (POD_2, 40000), REMOTES[1]);
        case.wait(100);
        Flow::open(case, TCP, (POD_2, 40000), REMOTES[1]).lives(case);
    });
}

/// The number of flows is not lost where a flow is removed: by the sweep, by its renewal, by an operator.
#[test]
fn row_8_10_the_last_flow_takes_its_mapping_along() {
    each(ONE_OF_EACH, |case| {
        independent(case);
        policy(case, |policy| {
            (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000));
            policy.hold_s = 0;
        });
        let flows: Vec<_> =
            REMOTES.iter().map(|remote| Flow::open(case, TCP, (POD, 40000), *remote)).collect();
        for (at, flow) in flows.iter().enumerate() {
            refused(case, TCP, (POD_2, 40000), SERVER_END);
            let line =
                crate::case::Line { protocol: TCP, pod: flow.pod, remote: flow.remote, public: flow.public };
            // By either half.
            assert_eq!(crate::upkeep::kill(case, &[line.keys()[at % 2]]), 2);
        }
        case.wait(5);
        Flow::open(case, TCP, (POD_2, 40000), SERVER_END).lives(case);
    });
}

/// A mapping that is lost, or half of it, is made anew with the port that its flows have; no packet goes astray meanwhile.
#[test]
fn row_8_10_a_lost_mapping_is_made_anew() {
    each(ONE_OF_EACH, |case| {
        for (outbound, inbound) in [(true, false), (false, true), (true, true)] {
            for protocol in PROTOCOLS {
                case.restart();
                independent(case);
                // Another port than the pod's own, so that the pod's own would show.
                Flow::open(case, protocol, (POD_2, 40000), (SERVER_2, 9));
                let flow = Flow::open(case, protocol, POD_END, (SERVER, 1000));
                assert_ne!(flow.public.1, 40000);
                let before = bindings(case).len();
                for key in bindings(case) {
                    let is_inbound = key.dst_port.number == flow.public.1;
                    if outbound && key.src == POD.into() || inbound && is_inbound {
                        case.world.flows.remove(&key).expect("half of a binding");
                    }
                }
                assert!(bindings(case).len() < before);
                flow.lives(case);
                case.wait(20);
                flow.asks(case);
                let next = Flow::open(case, protocol, POD_END, (SERVER_2, 2000));
                assert_eq!(next.public, flow.public, "{:?}: {outbound} {inbound}", case.way);
                next.lives(case);
                flow.lives(case);
                assert_eq!(bindings(case).len(), before);
            }
        }
    });
}

/// Bytes that make no sense in a mapping: nothing leaves with them, and no flow that there is suffers.
#[test]
fn row_8_10_a_corrupt_mapping_sends_nothing_astray() {
    each(ONE_OF_EACH, |case| {
        for filler in [0x00, 0x5a, 0xff] {
            case.restart();
            independent(case);
            let flow = Flow::open(case, UDP, POD_END, (SERVER, 1000));
            for key in bindings(case) {
                let junk = vpnat_common::layout::user::FlowEntryBytes([filler; 64]);
                case.world.flows.insert(key, junk, 0).expect("a binding");
            }
            flow.asks(case);
            flow.lives(case);
            let packet = udp(POD_END, (SERVER_2, 2000), 64, b"question");
            let seen = case.out(&packet);
            assert_ne!(seen.ended(), Outcome::Outbound, "{}", seen.title);
            case.wait(20);
            flow.asks(case);
            flow.lives(case);
        }
    });
}

/// A packet cannot name a mapping's entry: not even a query, which has no port, to the egress address.
#[test]
fn row_8_3_no_packet_is_a_mapping() {
    each(EVERY, |case| {
        independent(case);
        for protocol in PROTOCOLS {
            Flow::open(case, protocol, POD_END, SERVER_END);
            let hairpin = Flow { protocol, pod: POD_END, remote: (EGRESS_A, 0), public: POD_END };
            let seen = case.out(&hairpin.question());
            assert_ne!(seen.ended().fate(), Fate::Translated, "{}: {:?}", seen.title, seen.ended());
            let forged = Flow { protocol, pod: POD_END, remote: (EGRESS_A, 0), public: (EGRESS_A, 40000) };
            let seen = case.back(&forged.answer());
            assert_ne!(seen.ended().fate(), Fate::Translated, "{}: {:?}", seen.title, seen.ended());
        }
    });
}

/// Changing the mode by configuration leaves flows alone; new ones go by the new mode, and none is mixed up.
#[test]
fn row_8_7_a_change_of_mode_leaves_flows_alone() {
    each(EVERY, |case| {
        for protocol in [TCP, UDP] {
            case.restart();
            policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50003)));
            let shared = [
                Flow::open(case, protocol, (POD, 40000), REMOTES[0]),
                Flow::open(case, protocol, (POD, 41000), REMOTES[0]),
                Flow::open(case, protocol, (POD_2, 40000), REMOTES[1]),
            ];
            independent(case);
            for flow in shared {
                flow.asks(case);
                flow.lives(case);
            }
            let port = Flow::open(case, protocol, (PODS[2], 40000), REMOTES[2]).public.1;
            // Where the port is an old flow's, the end cannot be reached by it; it does not get another one.
            for remote in REMOTES {
                let packet = Flow { protocol, pod: (PODS[2], 40000), remote, public: POD_END };
                let packet =
                    if protocol == TCP { packet.pods_segment(SYN, (1, 0), b"") } else { packet.question() };
                let seen = case.out(&packet);
                if seen.ended() == Outcome::Outbound {
                    assert_eq!(seen.port(), port, "{}", seen.title);
                }
            }
            for flow in shared {
                flow.asks(case);
                flow.lives(case);
            }
        }
    });
}
