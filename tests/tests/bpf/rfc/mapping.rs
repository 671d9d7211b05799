//! Mapping: which address and port a pod's flow has outside.

use std::collections::BTreeSet;

use tests::packet::{ICMP, TCP, UDP, icmp, udp};
use vpnat_common::addr::Port;
use vpnat_common::layout::outcome::Outcome;

use super::{Flow, POD_END, PROTOCOLS, SERVER_END, dropped, policy};
use crate::case::{Case, EVERY, TC, each};
use crate::model;
use crate::plan::{A, B, EGRESS_A, EGRESS_B, EXEMPT_SERVER, POD, POD_2, PODS, SERVER, SERVER_2, SERVER_B};

/// Two addresses, not neighbours, for the first vendor.
fn two_addresses(case: &mut Case<'_>) -> [std::net::Ipv4Addr; 2] {
    let second = std::net::Ipv4Addr::new(8, 0, 1, 77);
    policy(case, |policy| {
        policy.egress_count = 2;
        policy.egress[1] = second.into();
    });
    let uses = vpnat_common::layout::vendor::EgressAddress { vendors: 1 << A };
    case.world.maps.egress.insert(vpnat_common::addr::Ip4::from(second), uses, 0).expect("an egress address");
    [EGRESS_A, second]
}

/// Every flow of a pod, of any protocol, shows one address; pods spread over the addresses.
#[test]
fn rfc4787_req2_rfc6888_req2_rfc6888_req3_a_pod_shows_one_address_of_a_pool() {
    each(EVERY, |case| {
        let pool = two_addresses(case);
        let mut used = BTreeSet::new();
        for pod in PODS {
            let mut shown = BTreeSet::new();
            for protocol in PROTOCOLS {
                shown.insert(Flow::begin(case, protocol, (pod, 40000), SERVER_END).public.0);
                shown.insert(Flow::begin(case, protocol, (pod, 40001), (SERVER_2, 53)).public.0);
            }
            assert_eq!(shown.len(), 1, "{:?}: {pod} shows {shown:?}", case.way);
            used.extend(shown);
        }
        assert_eq!(used, BTreeSet::from(pool), "{:?}: the whole pool is used", case.way);
    });
}

/// Strict pairing: a pod whose address has no port left is refused, though the other address is free.
#[test]
fn rfc7857_4_a_pod_whose_address_is_full_is_refused() {
    each(EVERY, |case| {
        two_addresses(case);
        policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50001)));
        let shown: BTreeSet<_> =
            [40000, 40001].map(|port| Flow::begin(case, UDP, (POD, port), SERVER_END).public.0).into();
        assert_eq!(shown.len(), 1);
        for protocol in [UDP, TCP] {
            if protocol == TCP {
                Flow::begin(case, TCP, (POD, 40000), SERVER_END);
                Flow::begin(case, TCP, (POD, 40001), SERVER_END);
            }
            let late = Flow { protocol, pod: (POD, 40002), remote: SERVER_END, public: (EGRESS_A, 0) };
            let first =
                if protocol == TCP { late.pods_segment(super::SYN, (1, 0), b"") } else { late.question() };
            let seen = case.out(&first);
            assert_eq!(seen.ended(), Outcome::PortsExhausted, "{}", seen.title);
        }
    });
}

/// Several pods from one port to one server at once: each has a port of its own, and each its own answers.
#[test]
fn rfc4787_req3_rfc5382_req7_rfc5508_req1_row_8_8_colliding_pods_are_told_apart() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            let flows = PODS.map(|pod| Flow::open(case, protocol, (pod, 40000), SERVER_END));
            let ports: BTreeSet<_> = flows.iter().map(|flow| flow.public).collect();
            assert_eq!(ports.len(), PODS.len(), "{:?}: no port is shared", case.way);
            for flow in flows.iter().rev() {
                flow.lives(case);
                flow.asks(case);
            }
        }
    });
}

/// Low ports of an egress address are the instance's own: only 1024 up is given out.
#[test]
fn rfc4787_req3a_rfc6056_3_2_ports_from_1024_up() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            for port in [1, 500, 700, 1023] {
                let flow = Flow::open(case, protocol, (POD, port), SERVER_END);
                assert!(flow.public.1 >= 1024, "{:?}: {flow:?}", case.way);
                flow.lives(case);
            }
            for port in [1024, 40000, 65535] {
                let flow = Flow::open(case, protocol, (POD, port), SERVER_END);
                assert_eq!(flow.public.1, port, "{:?}: both ends of the range are used", case.way);
            }
        }
    });
}

/// One port may serve two pods towards different remote ends, and towards one end never.
#[test]
fn rfc7857_3_rfc7857_13_row_8_2_a_port_is_shared_only_between_remote_ends() {
    each(EVERY, |case| {
        policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000)));
        for protocol in [UDP, TCP] {
            let first = Flow::open(case, protocol, (POD, 40000), (SERVER, 1000));
            let second = Flow::open(case, protocol, (POD_2, 41000), (SERVER_2, 1000));
            let third = Flow::open(case, protocol, (POD_2, 41001), (SERVER, 1001));
            assert!([first, second, third].iter().all(|flow| flow.public == (EGRESS_A, 50000)));
            for flow in [first, second, third] {
                flow.lives(case);
            }
            let late = Flow { protocol, pod: (POD_2, 41002), remote: (SERVER, 1000), public: first.public };
            let packet = match protocol {
                TCP => late.pods_segment(super::SYN, (1, 0), b""),
                _ => late.question(),
            };
            assert_eq!(case.out(&packet).ended(), Outcome::PortsExhausted);
            first.lives(case);
        }
    });
}

/// TCP, UDP and queries from one port are three mappings; the end of one is nobody else's.
#[test]
fn rfc7857_5_mappings_are_per_protocol() {
    each(EVERY, |case| {
        let flows = PROTOCOLS.map(|protocol| Flow::open(case, protocol, POD_END, SERVER_END));
        for flow in flows {
            assert_eq!(flow.public, (EGRESS_A, 40000), "one port in every protocol");
        }
        case.wait(70);
        let [tcp, udp, echo] = flows;
        echo.is_over(case);
        udp.lives(case);
        case.wait(240);
        udp.is_over(case);
        tcp.lives(case);
    });
}

/// Queries of two pods with one identifier, timestamps too, and their replies.
#[test]
fn rfc5508_req1_timestamp_queries_and_replies() {
    each(TC, |case| {
        for pod in [POD, POD_2] {
            let query = icmp(pod, SERVER, (13, 0), [0x9c, 0x40, 0, 1], &[0; 12]);
            let seen = case.out(&query);
            let id = seen.port();
            seen.leaves_as(A, &model::source(&query, (EGRESS_A, id)));
            let reply = icmp(SERVER, EGRESS_A, (14, 0), [(id >> 8) as u8, id as u8, 0, 1], &[7; 12]);
            case.back(&reply).arrives_as(A, &model::destination(&reply, (pod, 40000)));
        }
    });
}

/// A mapping of a query goes with its session: its identifier is free for the next.
#[test]
fn rfc7857_11_an_identifier_is_free_after_its_session() {
    each(EVERY, |case| {
        policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000)));
        let flow = Flow::open(case, ICMP, POD_END, SERVER_END);
        // Long enough for any rest that a freed identifier may be given.
        case.wait(60 + 120 + 20);
        flow.is_over(case);
        let next = Flow::open(case, ICMP, (POD_2, 41000), SERVER_END);
        assert_eq!(next.public, flow.public);
        next.lives(case);
    });
}

/// An exempt destination sees the pod itself, and its answers pass; every other one sees the egress address.
#[test]
fn rfc6888_req6_exempt_destinations_see_the_pod() {
    each(EVERY, |case| {
        let exempt = udp(POD_END, (EXEMPT_SERVER, 53), 64, b"question");
        let seen = case.out(&exempt);
        assert_eq!((seen.ended(), &seen.output), (Outcome::Exempt, &seen.input), "{}", seen.title);
        let answer = udp((EXEMPT_SERVER, 53), POD_END, 64, b"answer");
        let seen = case.back(&answer);
        assert_eq!((seen.ended(), &seen.output), (Outcome::NotOurs, &seen.input), "{}", seen.title);
        Flow::open(case, UDP, POD_END, SERVER_END).lives(case);
    });
}

/// No ALG: what looks like an address of FTP or SIP in the payload stays as it is.
#[test]
fn rfc4787_req10_rfc5382_req6_payloads_are_nobodys_business() {
    let texts = [
        "PORT 8,0,2,7,156,64\r\n",
        "227 Entering Passive Mode (8,0,2,7,156,64)\r\n",
        "INVITE sip:a@8.0.192.10 SIP/2.0\r\nVia: SIP/2.0/UDP 8.0.2.7:40000\r\nContact: <sip:8.0.2.7:40000>\r\n\r\n\
         c=IN IP4 8.0.2.7\r\nm=audio 40000 RTP/AVP 0\r\n",
    ];
    each(EVERY, |case| {
        // The ports of FTP, SIP, TFTP and H.323.
        for port in [21, 5060, 69, 1720] {
            let stream = Flow::open(case, TCP, POD_END, (SERVER, port));
            let datagrams = Flow::open(case, UDP, POD_END, (SERVER, port));
            for text in texts {
                stream.client(case, ACK_PUSH, (101, 501), text.as_bytes());
                stream.server(case, ACK_PUSH, (501, 101), text.as_bytes());
                datagrams.leaves(case, &udp(datagrams.pod, datagrams.remote, 64, text.as_bytes()));
                datagrams.arrives(case, &udp(datagrams.remote, datagrams.public, 64, text.as_bytes()));
            }
        }
    });
}

const ACK_PUSH: u8 = 0x18;

/// A pod's packet to an egress address is not translated and meets no other pod's flow (no hairpinning).
#[test]
fn rfc4787_req9_rfc5382_req8_rfc5508_req7_no_hairpinning() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::open(case, protocol, (POD_2, 40000), SERVER_END);
            let hairpin = Flow { protocol, pod: POD_END, remote: flow.public, public: flow.public };
            let seen = case.out(&hairpin.question());
            assert_eq!(seen.output, seen.input, "{}: left alone", seen.title);
            assert_eq!(seen.ended(), Outcome::NotOurs, "{}", seen.title);
        }
    });
}

/// Each vendor sees its own address.
#[test]
fn rfc6888_req1_vendors_do_not_share_addresses() {
    each(EVERY, |case| {
        Flow::open(case, UDP, POD_END, SERVER_END).lives(case);
        let packet = udp(POD_END, (SERVER_B, 443), 64, b"question");
        case.out(&packet).leaves_as(B, &model::source(&packet, (EGRESS_B, 40000)));
        // And what is neither TCP, UDP nor an ICMP query does not leave at all.
        for protocol in [47, 132, 50, 51, 33, 4, 41] {
            let packet = tests::packet::ipv4(POD, SERVER, protocol, 64, &[0x5a; 40]);
            super::stopped(case, &packet, true);
            if !case.way.is_xdp() && !case.way.redirects() {
                dropped(case, &packet, true);
            }
        }
    });
}
