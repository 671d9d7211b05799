//! The port range: how much of it is used before a flow is refused, and that nobody else pays for it.

use std::collections::HashSet;

use vpnat_common::addr::Port;
use vpnat_common::layout::outcome::Outcome;

use crate::life::{Path, pod, server};
use crate::tables::World;
use crate::wire::{source, udp};

fn open(world: &mut World, number: u32, remote_port: u16) -> Option<u16> {
    let from = (pod((number / 60000) as u8 + 1), 1024 + (number % 60000) as u16);
    let (outcome, found) = world.out(Path::Tc, &udp(from, (server(10), remote_port), b""));
    match outcome {
        Outcome::Outbound => Some(source(&found).1),
        other => {
            assert_eq!(other, Outcome::PortsExhausted);
            None
        }
    }
}

/// RFC 6888 REQ-13, for ranges that one search can get around.
#[test]
fn small_ranges_are_used_to_the_last_port() {
    for span in 1..=48 {
        let mut world = World::new();
        (world.policy.port_min, world.policy.port_max) = (Port::new(50000), Port::new(50000 + span - 1));
        let ports: HashSet<_> = (0..u32::from(span)).map(|flow| open(&mut world, flow, 53)).collect();
        assert_eq!(ports.len(), usize::from(span), "{span} ports");
        assert!(!ports.contains(&None), "{span} ports");
        assert_eq!(open(&mut world, 1000, 53), None, "{span} ports");
        assert!(open(&mut world, 1000, 54).is_some(), "another remote end");
    }
}

/// Pods whose own ports are all taken get others, each once.
#[test]
fn no_port_is_given_out_twice() {
    let mut world = World::new();
    let mut ports = HashSet::new();
    for number in (0..20000).chain(60000..75000) {
        let port = open(&mut world, number, 53).expect("half of the range is free");
        assert!(ports.insert(port), "{port} twice");
    }
}

/// A walk through the range in steps of a fixed length must get around in a range of any size, multiples of the
/// step's length among them.
#[test]
fn no_size_of_the_range_is_an_unlucky_one() {
    for span in [7919, 2 * 7919, 7 * 7919, 7920, 8192] {
        let mut world = World::new();
        (world.policy.port_min, world.policy.port_max) = (Port::new(10000), Port::new(10000 + span - 1));
        for number in 0..u32::from(span) * 3 / 5 {
            assert!(open(&mut world, number, 53).is_some(), "flow {number} of {span}");
        }
    }
}
