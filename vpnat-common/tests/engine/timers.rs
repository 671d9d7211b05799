//! Idle timers, second by second: never early, and late by no more than is documented.

use vpnat_common::engine::{Clock, STAMP_SECONDS, flows};
use vpnat_common::layout::outcome::Outcome;

use crate::life::{PATHS, pod, server};
use crate::tables::{EGRESS, World, key};
use crate::wire::{ICMP, TCP, UDP, echo, tcp, udp};

/// A first packet and its answer, for each protocol, with the timer of a flow that has seen one packet.
fn exchanges() -> [(u8, u32, Vec<u8>, Vec<u8>); 3] {
    let (from, to, public) = ((pod(1), 40000), (server(10), 443), (EGRESS, 40000));
    [
        (UDP, 300, udp(from, to, b"question"), udp(to, public, b"answer")),
        (TCP, 240, tcp(from, to, 2, (100, 0), b""), tcp(to, public, 18, (500, 101), b"")),
        (ICMP, 60, echo(8, from.0, to.0, 40000, b""), echo(0, to.0, EGRESS, 40000, b"")),
    ]
}

#[test]
fn a_timer_never_ends_early_and_soon_enough() {
    for path in PATHS {
        for (_, timer, question, answer) in exchanges() {
            // Whatever part of a stamp's life the flow begins in.
            for start in 1000..1000 + STAMP_SECONDS {
                for idle in [timer - 1, timer, timer + 1, timer + 2] {
                    let mut world = World::new();
                    world.now = start;
                    assert_eq!(world.out(path, &question).0, Outcome::Outbound);
                    world.now += idle;
                    let alive = idle <= timer;
                    let expected = if alive { Outcome::Inbound } else { Outcome::Unsolicited };
                    assert_eq!(world.back(path, &answer).0, expected, "{path:?}: {idle} of {timer} s");
                }
            }
        }
    }
}

/// The clock is 32 bits of seconds: a flow that lives across its end is like any other.
#[test]
fn the_clocks_end_is_like_any_other_second() {
    for path in PATHS {
        for (_, timer, question, answer) in exchanges() {
            for start in [u32::MAX - 10, u32::MAX - timer, u32::MAX / 2] {
                let mut world = World::new();
                world.now = start;
                assert_eq!(world.out(path, &question).0, Outcome::Outbound);
                world.now = start.wrapping_add(timer - 1);
                assert_eq!(world.back(path, &answer).0, Outcome::Inbound, "{start}");
            }
        }
    }
}

/// The sweep takes what has been over for a moment, never what lives.
#[test]
fn the_sweep_takes_what_is_over() {
    for (protocol, timer, question, _) in exchanges() {
        let remote = (server(10), if protocol == ICMP { 0 } else { 443 });
        for own in [key(protocol, (pod(1), 40000), remote), key(protocol, remote, (EGRESS, 40000))] {
            let mut world = World::new();
            assert_eq!(world.out(crate::life::Path::Tc, &question).0, Outcome::Outbound);
            let mut gone = None;
            let rest = if protocol == TCP { 0 } else { world.policy.hold_s };
            for second in 0..timer + rest + 60 {
                let clock = Clock::read(&world);
                let removed = flows::reap(&world, &clock, &own, flows::SWEPT);
                world.settle();
                if removed != 0 {
                    gone = Some((second, removed, world.entries()));
                    break;
                }
                world.now += 1;
            }
            let (second, removed, left) = gone.expect("it is swept at last");
            assert!((timer + rest + 1..timer + rest + 20).contains(&second), "after {second} s");
            assert_eq!((removed, left), (2, 0));
        }
    }
}
