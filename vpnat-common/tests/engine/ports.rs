//! The port range: how much of it is used before a flow is refused, what it costs, and that nobody else pays for it.

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

/// RFC 6888 REQ-13: before anybody is refused, every port is in use.
#[test]
fn small_ranges_are_used_to_the_last_port() {
    for span in (1..=64).chain([100, 127, 128, 129, 1000, 5000]) {
        let mut world = World::new();
        (world.policy.port_min, world.policy.port_max) = (Port::new(50000), Port::new(50000 + span - 1));
        let ports: HashSet<_> = (0..u32::from(span)).map(|flow| open(&mut world, flow, 53)).collect();
        assert_eq!(ports.len(), usize::from(span), "{span} ports");
        assert!(!ports.contains(&None), "{span} ports");
        assert_eq!(open(&mut world, 20000, 53), None, "{span} ports");
        assert!(open(&mut world, 20000, 54).is_some(), "another remote end");
    }
}

/// The same of the whole range, whichever ports the pods use: each flow its own (the bench's), or all the same few.
#[test]
fn rfc6888_req13_the_whole_range_is_used() {
    for pods_choice in [
        |number| (pod((number / 60000) as u8 + 1), 1024 + (number % 60000) as u16),
        |number| (pod((number % 250) as u8 + 1), 40000 + (number / 250) as u16),
    ] {
        let mut world = World::new();
        let mut ports = HashSet::new();
        let (mut refused, mut most) = (0, 0);
        for number in 0..64_512 {
            let before = world.tries.get();
            let (outcome, found) = world.out(Path::Tc, &udp(pods_choice(number), (server(10), 53), b""));
            most = most.max(world.tries.get() - before);
            match outcome {
                Outcome::Outbound => assert!(ports.insert(source(&found).1), "a port twice"),
                _ => refused += 1,
            }
        }
        assert!(ports.len() > 64_512 * 999 / 1000, "{} ports in use", ports.len());
        assert!(refused < 64, "{refused} refused with ports left");
        assert!(most < 100, "{most} tries for one packet");
        let total = world.tries.get();
        assert!(total < 64_512 * 5, "{total} tries in all");
    }
}

/// What a refusal costs once the range is full does not depend on its size.
#[test]
fn a_refusal_looks_at_few_ports() {
    let mut world = World::new();
    for number in 0..64_512 {
        open(&mut world, number, 53);
    }
    for number in 70_000..70_200 {
        open(&mut world, number, 53);
    }
    let before = world.tries.get();
    for number in 71_000..71_100 {
        assert_eq!(open(&mut world, number, 53), None);
    }
    assert_eq!(world.tries.get() - before, 300, "the pod's own port, and two that may have ended");
}

/// Without the agent's sweep: what has ended is found by the refused flows themselves.
#[test]
fn ended_flows_are_found_when_no_port_is_left() {
    let mut world = World::new();
    (world.policy.port_min, world.policy.port_max) = (Port::new(50000), Port::new(50999));
    for number in 0..1000 {
        assert!(open(&mut world, number, 53).is_some());
    }
    world.now += 1000;
    for number in 20000..21000 {
        assert!(open(&mut world, number, 53).is_some(), "flow {number}");
    }
    assert_eq!(world.entries(), 2000);
}

/// A pool that has lost its way, as when another endpoint's had its place for a moment, finds back.
#[test]
fn a_free_port_marked_as_taken_is_found_again() {
    let mut world = World::new();
    (world.policy.port_min, world.policy.port_max) = (Port::new(50000), Port::new(50063));
    for number in 0..64 {
        assert!(open(&mut world, number, 53).is_some());
    }
    // Entries that go without a word to the pool.
    for (key, _) in world.table().into_values().collect::<Vec<_>>() {
        vpnat_common::engine::tables::Tables::remove_flow(&world, &key);
    }
    let placed = (0..100).filter(|number| open(&mut world, 1000 + number, 53).is_some()).count();
    assert_eq!(placed, 64);
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

/// RFC 6056: ports that are not the pod's own follow no series, and none is likelier than another.
#[test]
fn rfc6056_4_ports_are_spread_and_follow_no_series() {
    let mut world = World::new();
    // A pod that has every port of its choice taken by another.
    assert!(open(&mut world, 0, 53).is_some());
    let mut ports = Vec::new();
    for number in 0..10_000u32 {
        let from = (pod((number / 40) as u8 + 2), 1024);
        // One of forty remote ends each: the pod's port collides with the first pod's at every one of them.
        let to = (server((number % 40) as u8 + 10), 53);
        let (_, first) = world.out(Path::Tc, &udp((pod(1), 1024), to, b""));
        assert_eq!(source(&first).1, 1024);
        let (outcome, found) = world.out(Path::Tc, &udp(from, to, b""));
        assert_eq!(outcome, Outcome::Outbound);
        ports.push(source(&found).1);
    }
    let mut steps = std::collections::HashMap::<u16, u32>::new();
    for pair in ports.windows(2) {
        *steps.entry(pair[1].wrapping_sub(pair[0])).or_default() += 1;
    }
    let commonest = steps.values().max().copied().unwrap_or_default();
    assert!(commonest <= 6, "one difference comes {commonest} times in 10,000");
    // Chi-square over 64 parts of the range: 63 degrees of freedom, far beyond any chance above 130.
    let mut parts = [0f64; 64];
    for port in &ports {
        parts[(u32::from(port - 1024) * 64 / 64_512) as usize] += 1.0;
    }
    let expected = ports.len() as f64 / 64.0;
    let chi: f64 = parts.iter().map(|seen| (seen - expected).powi(2) / expected).sum();
    assert!(chi < 130.0, "chi-square {chi}");
}
