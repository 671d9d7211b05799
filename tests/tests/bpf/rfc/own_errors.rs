//! Errors that the instance's own stack makes about packets that are translated already: a tunnel behind TC egress that finds
//! them too large tells the source that it sees, the egress address.

use tests::packet::{TCP, UDP, echo_request, udp};
use vpnat_common::layout::outcome::{Hook, Outcome};

use super::{Flow, PROTOCOLS, SERVER_END};
use crate::case::{Case, TC, each};
use crate::plan::{A, EGRESS_A, INSTANCE_INSIDE, NOBODY, SERVER_B};
use crate::seen::Seen;

/// Index of the loopback device in every namespace.
const LOOPBACK: u32 = 1;

/// What Linux says: 3/4 with an MTU of 1300 from a tunnel that takes less, 3/1 from one without a key, and what else there is.
const KINDS: [((u8, u8), [u8; 4]); 4] =
    [((3, 4), [0, 0, 0x05, 0x14]), ((3, 1), [0; 4]), ((11, 1), [0; 4]), ((12, 0), [20, 0, 0, 0])];

/// Where such an error may leave: by loopback to an egress address of the instance's own, by any device to another.
fn places(case: &Case<'_>) -> Vec<(&'static str, Hook, u32)> {
    let (outside, other) = (case.site().outside.0, case.site().other);
    if case.way.ethernet() {
        vec![
            ("egress_loopback_l2", Hook::TcGuard, LOOPBACK),
            ("egress_guard_l2", Hook::TcGuard, other),
            ("egress_carrier_l2", Hook::TcGuard, other),
            ("egress_outside_l2", Hook::TcEgress, outside),
        ]
    } else {
        vec![("egress_guard_l3", Hook::TcGuard, other), ("egress_outside_l3", Hook::TcEgress, outside)]
    }
}

/// Sends what the instance itself has made out by each place, to see what becomes of it.
fn at_each_place(case: &mut Case<'_>, packet: &[u8], mut judge: impl FnMut(&str, Seen)) {
    for (program, hook, ifindex) in places(case) {
        judge(program, case.run(program, hook, (ifindex, 0), packet));
    }
}

/// A packet of the flow's pod that is large for its kind.
fn large(flow: &Flow) -> Vec<u8> {
    match flow.protocol {
        TCP => flow.pods_segment(super::ACK, (101, 501), &[7; 1400]),
        UDP => udp(flow.pod, flow.remote, 64, &[7; 1400]),
        _ => flow.question(),
    }
}

/// The pod gets it from the instance's address on its side, with its own packet quoted to the last byte, and with what the
/// error says untouched; the flow neither ends nor is renewed.
#[test]
fn row_10_6_3_rfc4459_3_2_signal_errors_after_the_translation_reach_the_pod() {
    each(TC, |case| {
        for protocol in PROTOCOLS {
            case.restart();
            let flow = Flow::moved(case, protocol);
            let packet = large(&flow);
            let line = crate::case::Line {
                protocol,
                pod: flow.pod,
                remote: if protocol == tests::packet::ICMP { (flow.remote.0, 0) } else { flow.remote },
                public: flow.public,
            };
            let before = case.halves(&line).map(|half| half.map(|half| half.0));
            for kind in KINDS {
                for length in [28, 40, 84, 548] {
                    let [error, _] = flow.error_about(&packet, EGRESS_A, kind, length);
                    let [_, told] = flow.error_about(&packet, INSTANCE_INSIDE, kind, length);
                    at_each_place(case, &error, |program, seen| {
                        println!("{program}, {kind:?}, {length} bytes quoted");
                        seen.is_answered(A, Outcome::Inbound, &told);
                    });
                }
            }
            let after = case.halves(&line).map(|half| half.map(|half| half.0));
            assert!(before == after && before[0].is_some(), "nothing of the flow has changed");
            flow.lives(case);
        }
    });
}

/// About a packet of the instance itself: restored, and its own stack delivers it.
#[test]
fn row_10_6_3_the_instances_own_sockets_hear_of_their_packets() {
    each(TC, |case| {
        let first = Flow::open(case, UDP, super::POD_END, SERVER_END);
        let own = udp((EGRESS_A, first.public.1), SERVER_END, 64, &[7; 200]);
        let port = case.local(&own).port();
        assert_ne!(port, first.public.1);
        let flow = Flow {
            protocol: UDP,
            pod: (EGRESS_A, first.public.1),
            remote: SERVER_END,
            public: (EGRESS_A, port),
        };
        let [error, told] = flow.error_about(&own, EGRESS_A, KINDS[0], 548);
        at_each_place(case, &error, |program, seen| {
            assert_eq!(seen.ended(), Outcome::Inbound, "{program}");
            assert_eq!(seen.returned, u32::MAX, "{program}: it goes on");
            assert_eq!(seen.output, [&seen.input[..seen.link], &told].concat(), "{program}");
        });
    });
}

/// What is no such error stays as it is.
#[test]
fn row_10_6_3_nothing_else_is_touched() {
    each(TC, |case| {
        let flow = Flow::moved(case, UDP);
        let packet = large(&flow);
        let [error, _] = flow.error_about(&packet, EGRESS_A, KINDS[0], 548);
        let stray = Flow { public: (EGRESS_A, 7), ..flow };
        let elsewhere = Flow { remote: (SERVER_B, 443), ..flow };
        for untouched in [
            stray.error_about(&packet, EGRESS_A, KINDS[0], 548)[0].clone(),
            elsewhere.error_about(&large(&elsewhere), EGRESS_A, KINDS[0], 548)[0].clone(),
            flow.error_about(&packet, EGRESS_A, ((5, 1), [8, 0, 2, 1]), 548)[0].clone(),
            echo_request(INSTANCE_INSIDE, EGRESS_A, 7, 1),
            udp((EGRESS_A, 5000), (EGRESS_A, flow.public.1), 64, b"local"),
        ] {
            at_each_place(case, &untouched, |_, seen| seen.ends_as(NOBODY, Outcome::NotOurs));
        }
        // Spoilt on the way: nobody is told anything.
        let mut spoilt = error.clone();
        spoilt[60] ^= 1;
        at_each_place(case, &spoilt, |_, seen| seen.ends_as(A, Outcome::IcmpErrorBad));
        // Not the instance's own: forwarded to an egress address that lies elsewhere.
        let inside = case.site().inside.0;
        for (program, hook, ifindex) in places(case) {
            case.run(program, hook, (ifindex, inside), &error).ends_as(NOBODY, Outcome::NotOurs);
        }
        // No way to the pod: better no error than one with a wrong address in it.
        case.world.maps.devices.remove(&inside).expect("the inside device");
        at_each_place(case, &error, |program, seen| {
            assert_eq!((seen.ended(), seen.returned), (Outcome::Unfinished, 2), "{program}");
        });
    });
}
