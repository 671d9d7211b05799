//! Limits on what one source has (RFC 6888 REQ-4, REQ-5), and the rest of freed ports (REQ-8).

use tests::packet::{ICMP, TCP, UDP};
use vpnat_common::addr::Port;
use vpnat_common::layout::account::AccountKey;
use vpnat_common::layout::outcome::{Fate, Outcome};
use vpnat_common::layout::vendor::flag;

use super::{ACK, FIN, Flow, ONE_OF_EACH, PROTOCOLS, SERVER_END, SYN, policy};
use crate::case::{Case, EVERY, Line, each};
use crate::plan::{A, EGRESS_A, End, POD, POD_2, SERVER, SERVER_2};

/// How a new flow of the pod's ends that is not to begin.
#[track_caller]
fn refused(case: &mut Case<'_>, protocol: u8, pod: End, remote: End) -> Outcome {
    let late = Flow { protocol, pod, remote, public: pod };
    let packet = if protocol == TCP { late.pods_segment(SYN, (1, 0), b"") } else { late.question() };
    let seen = case.out(&packet);
    assert_ne!(seen.ended().fate(), Fate::Translated, "{}: {:?}", seen.title, seen.ended());
    seen.ended()
}

/// What the source's account says.
fn counted(case: &Case<'_>, protocol: u8) -> u32 {
    case.world.accounts.get(&AccountKey::new(POD.into(), A, protocol), 0).map_or(0, |account| account.flows)
}

/// The pod's flows of each protocol up to the limit; the next is refused, whatever it goes to, and no one else is.
#[test]
fn rfc6888_req4_rfc6888_req5_a_pod_has_so_many_flows_and_no_more() {
    each(EVERY, |case| {
        for mapping in [0, flag::ENDPOINT_INDEPENDENT] {
            case.restart();
            policy(case, |policy| {
                policy.max_flows_per_source = 4;
                policy.flags |= mapping;
            });
            for protocol in PROTOCOLS {
                let flows: Vec<_> = (0..4)
                    .map(|number| Flow::open(case, protocol, (POD, 40000 + number), SERVER_END))
                    .collect();
                for number in 0..10 {
                    let other = (POD, 41000 + number);
                    assert_eq!(refused(case, protocol, other, SERVER_END), Outcome::SourceLimit);
                    // One end to many remote ends counts as well.
                    assert_eq!(refused(case, protocol, (POD, 40000), (SERVER_2, 9)), Outcome::SourceLimit);
                }
                // Those that it has go on, and the neighbour opens what it likes.
                for flow in flows {
                    flow.asks(case);
                    flow.lives(case);
                }
                for number in 0..4 {
                    Flow::open(case, protocol, (POD_2, 40000 + number), SERVER_END).lives(case);
                }
                assert_eq!(counted(case, protocol), 4);
            }
        }
    });
}

/// Each flow that ends makes room for one, however it ends.
#[test]
fn rfc6888_req4_what_ends_makes_room() {
    each(EVERY, |case| {
        policy(case, |policy| {
            policy.max_flows_per_source = 2;
            policy.hold_s = 0;
        });
        for protocol in PROTOCOLS {
            let first = Flow::open(case, protocol, (POD, 40000), SERVER_END);
            let second = Flow::open(case, protocol, (POD, 40001), SERVER_END);
            assert_eq!(refused(case, protocol, (POD, 40002), SERVER_END), Outcome::SourceLimit);
            // By an operator.
            let line = Line {
                protocol,
                pod: first.pod,
                remote: if protocol == ICMP { (SERVER, 0) } else { first.remote },
                public: first.public,
            };
            assert_eq!(crate::upkeep::kill(case, &line.keys()[1..]), 2);
            let third = Flow::open(case, protocol, (POD, 40002), SERVER_END);
            assert_eq!(refused(case, protocol, (POD, 40003), SERVER_END), Outcome::SourceLimit);
            // By its own renewal: the pod's packet finds it over and begins it anew.
            case.wait(8000);
            if protocol == TCP {
                second.client(case, SYN, (7, 0), b"");
            } else {
                second.asks(case);
            }
            assert_eq!(counted(case, protocol), 2, "{:?}: the third is not swept yet", case.way);
            // By another flow that takes its port.
            policy(case, |policy| {
                (policy.port_min, policy.port_max) = (Port::new(third.public.1), Port::new(third.public.1));
            });
            Flow::open(case, protocol, (POD_2, 45000), SERVER_END).lives(case);
            assert_eq!(counted(case, protocol), 1, "{:?}: taken over", case.way);
            policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(1024), Port::new(65535)));
        }
    });
}

/// A refusal for want of ports or room leaves no trace in the account.
#[test]
fn rfc6888_req4_refused_flows_are_not_counted() {
    each(EVERY, |case| {
        policy(case, |policy| {
            policy.max_flows_per_source = 100;
            (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50001));
        });
        for mapping in [0, flag::ENDPOINT_INDEPENDENT] {
            policy(case, |policy| policy.flags |= mapping);
            for number in 0..2 {
                Flow::open(case, UDP, (POD, 40000 + number), SERVER_END);
            }
            for number in 0..20 {
                assert_eq!(refused(case, UDP, (POD, 42000 + number), SERVER_END), Outcome::PortsExhausted);
            }
            assert_eq!(counted(case, UDP), 2);
        }
        // Neither is what cannot open a flow at all.
        let stray = Flow { protocol: TCP, pod: (POD, 1), remote: SERVER_END, public: (EGRESS_A, 1) };
        case.out(&stray.pods_segment(FIN | ACK, (1, 1), b""));
        assert_eq!(counted(case, TCP), 0);
    });
}

/// So many new flows in a second; what there is goes on, and the next second is a new one.
#[test]
fn rfc6888_req4_rfc6888_req5_a_pod_opens_flows_so_fast_and_no_faster() {
    each(EVERY, |case| {
        policy(case, |policy| policy.new_flows_per_source = 3);
        for protocol in PROTOCOLS {
            // Long before the clock turns, whenever that is: one of two seconds in a row is whole.
            let mut flows = Vec::new();
            let mut refusals = 0;
            for number in 0..30 {
                let pod = (POD, 40000 + number);
                let public = (EGRESS_A, pod.1);
                let first = Flow { protocol, pod, remote: SERVER_END, public };
                let packet =
                    if protocol == TCP { first.pods_segment(SYN, (100, 0), b"") } else { first.question() };
                match case.out(&packet).ended() {
                    Outcome::Outbound => flows.push(first),
                    Outcome::SourceRate | Outcome::ToStackRefused => refusals += 1,
                    other => panic!("{:?}: {other:?}", case.way),
                }
            }
            assert!((3..=9).contains(&flows.len()), "{:?}: {} flows", case.way, flows.len());
            assert!(refusals >= 21);
            for number in 0..2 {
                Flow::open(case, protocol, (POD_2, 40000 + number), SERVER_END).lives(case);
            }
            for flow in &flows {
                flow.asks(case);
            }
            case.wait(1);
            Flow::open(case, protocol, (POD, 50000), SERVER_END).lives(case);
        }
    });
}

/// The port of an ended flow is nobody else's for as long as the setting says, but the pod's own end has it at once. TCP
/// tracks its ends and needs no rest (exemption a).
#[test]
fn rfc6888_req8_row_11_17_freed_ports_rest() {
    each(EVERY, |case| {
        for hold in [120, 30, 0] {
            for (protocol, timer) in [(UDP, 300), (ICMP, 60)] {
                case.restart();
                policy(case, |policy| {
                    (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000));
                    policy.hold_s = hold;
                });
                let flow = Flow::open(case, protocol, (POD, 40000), SERVER_END);
                case.wait(timer + 2);
                // A late answer does not shorten the rest.
                flow.is_over(case);
                if hold != 0 {
                    assert_eq!(refused(case, protocol, (POD_2, 41000), SERVER_END), Outcome::PortsExhausted);
                    case.wait(hold - 4);
                    assert_eq!(refused(case, protocol, (POD_2, 41000), SERVER_END), Outcome::PortsExhausted);
                    let keys = Line {
                        protocol,
                        pod: flow.pod,
                        remote: if protocol == ICMP { (SERVER, 0) } else { flow.remote },
                        public: flow.public,
                    };
                    assert_eq!(crate::upkeep::reap(case, &keys.keys()), 0, "the sweep leaves it, too");
                    // Its own end.
                    let again = Flow::open(case, protocol, (POD, 40000), SERVER_END);
                    assert_eq!(again.public, flow.public);
                    case.wait(timer + hold + 5);
                } else {
                    case.wait(5);
                }
                let next = Flow::open(case, protocol, (POD_2, 41000), SERVER_END);
                assert_eq!(next.public, flow.public);
                next.lives(case);
            }
        }
    });
}

/// Another vendor's endpoint has the port meanwhile: only the tuple rests.
#[test]
fn rfc6888_req8_rfc6888_req13_a_resting_port_serves_other_remote_ends() {
    each(ONE_OF_EACH, |case| {
        policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000)));
        Flow::open(case, UDP, (POD, 40000), SERVER_END);
        case.wait(310);
        assert_eq!(refused(case, UDP, (POD_2, 41000), SERVER_END), Outcome::PortsExhausted);
        Flow::open(case, UDP, (POD_2, 41000), (SERVER_2, 443)).lives(case);
    });
}
