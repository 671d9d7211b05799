//! The port range: how much of it is used before a flow is refused, what it costs, and that nobody else pays for it.

use std::collections::HashSet;
use std::ptr::NonNull;

use vpnat_common::addr::Port;
use vpnat_common::engine::Clock;
use vpnat_common::engine::flows::{self, When};
use vpnat_common::engine::tables::Tables as _;
use vpnat_common::layout::event::Cause;
use vpnat_common::layout::outcome::Outcome;
use vpnat_common::ports::{CHANCE, FAILURES, Range, Search, SearchRef};

use crate::life::{Path, pod, server};
use crate::tables::World;
use crate::wire::{destination, source, udp};

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

/// With ports at rest, too: held ones and used ones together are all of the range before anybody is refused.
#[test]
fn rfc6888_req13_rfc6888_req8_held_ports_are_no_gaps() {
    for held in [1000, 32_000, 60_000] {
        let mut world = World::new();
        let mut ports = HashSet::new();
        for number in 0..held {
            assert!(ports.insert(open(&mut world, number, 53).expect("the range is empty")));
        }
        // Ended, and at rest for `port_hold` (120 s).
        world.now += 310;
        let (mut refused, mut made) = (0, 0);
        for number in 70_000..70_000 + 64_512 {
            match open(&mut world, number, 53) {
                Some(port) => {
                    assert!(ports.insert(port), "{port} is held");
                    made += 1;
                }
                None => {
                    assert!(ports.len() > 64_512 * 95 / 100, "refused after {held} + {made}");
                    refused += 1;
                }
            }
        }
        assert!(ports.len() > 64_512 * 999 / 1000, "{held} held: {} ports, {refused} refused", ports.len());
        // The rest is over: their ports serve again. Where no sweep has made room yet, the few searches of a second find one
        // of many, two looks at a time.
        world.now += 120;
        if held < 32_000 {
            continue;
        }
        let found = (200_000..200_064).find_map(|number| open(&mut world, number, 53));
        assert!(found.is_some_and(|port| ports.contains(&port)), "{held} held: {found:?}");
    }
}

/// 70,000 flows by one address, over two remote ports: all are made, and each answer comes back to its own pod. To one remote
/// port the last thousands are refused, and nobody loses a port by it.
#[test]
fn row_8_11_more_flows_than_ports_over_two_remote_ports() {
    let from = |number: u32| (pod((number / 60000) as u8 + 1), 1024 + (number % 60000) as u16);
    for ends in [2u32, 1] {
        let mut world = World::new();
        let mut made = Vec::new();
        let mut refused = 0;
        for number in 0..70_000u32 {
            let remote = (server(10), 443 + (number % ends) as u16);
            let (outcome, found) = world.out(Path::Tc, &udp(from(number), remote, b""));
            match outcome {
                Outcome::Outbound => made.push((number, remote, source(&found))),
                other => {
                    assert_eq!(other, Outcome::PortsExhausted);
                    assert!(made.len() > 64_512 * 99 / 100, "refused after {} flows", made.len());
                    refused += 1;
                }
            }
        }
        assert_eq!(made.len() + refused, 70_000);
        let expected = if ends == 2 { 70_000..=70_000 } else { 64_400..=64_512 };
        assert!(expected.contains(&made.len()), "{} flows over {ends} ends", made.len());
        let tuples: HashSet<_> = made.iter().map(|(_, remote, public)| (*remote, *public)).collect();
        assert_eq!(tuples.len(), made.len(), "no tuple twice");
        for (number, remote, public) in made {
            let (outcome, found) = world.back(Path::Tc, &udp(remote, public, b"answer"));
            assert_eq!((outcome, destination(&found)), (Outcome::Inbound, from(number)));
        }
    }
}

/// What a refusal costs once the range is full does not depend on its size, and is bounded for all refusals of a second together.
#[test]
fn a_refusal_looks_at_few_ports() {
    let mut world = World::new();
    for number in 0..64_512 {
        open(&mut world, number, 53);
    }
    // The pool learns of the ports that were taken before it was there.
    for number in 70_000..70_200 {
        open(&mut world, number, 53);
    }
    let tries = |world: &mut World, numbers: std::ops::Range<u32>| {
        let before = world.tries.get();
        for number in numbers {
            assert_eq!(open(world, number, 53), None);
        }
        world.tries.get() - before
    };
    world.now += 1;
    let each = "the pod's own port, and two that may have ended";
    assert_eq!(tries(&mut world, 71_000..71_000 + FAILURES), 3 * FAILURES, "{each}");
    let many = tries(&mut world, 71_100..73_100);
    assert!((60..600).contains(&many), "{many} tries of 2,000, of whom one in {CHANCE} looks");
    world.now += 1;
    assert_eq!(tries(&mut world, 71_200..71_210), 30, "{each}");
}

/// However many were refused in the same second: a port that is given back serves the next, and all have their chance again a
/// second later.
#[test]
fn refusals_stand_in_nobodys_way() {
    let mut world = World::new();
    (world.policy.port_min, world.policy.port_max) = (Port::new(50000), Port::new(50999));
    let flood = |world: &mut World| {
        for number in 20_000..20_500 {
            assert_eq!(open(world, number, 53), None);
        }
    };
    for number in 0..1000 {
        assert!(open(&mut world, number, 53).is_some());
    }
    flood(&mut world);
    let (key, _) = world.table().into_values().next().expect("a flow");
    let now = When::Now(Cause::Killed);
    assert_ne!(flows::reap(&world, &Clock::read(&world), &key, now), 0);
    assert!(open(&mut world, 30_000, 53).is_some(), "a port was given back");
    flood(&mut world);
    world.now += 1000;
    assert!(open(&mut world, 30_001, 53).is_some(), "all have ended");
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

/// A port is drawn from what nobody can guess: each search that draws has a piece of it for itself, and one that keeps the pod's own
/// port takes none.
#[test]
fn rfc6888_req15_each_search_draws_from_a_secret_of_its_own() {
    let mut world = World::new();
    let seed = |world: &World| {
        let search = world.search().expect("a search");
        (search.seed_high(), search.seed_low(), search.pieces(), search.seeds())
    };
    let to = (server(10), 53);
    world.out(Path::Tc, &udp((pod(1), 1024), to, b""));
    let first = seed(&world);
    assert_eq!((first.2, first.3), (3, 1), "its own port was free");
    world.out(Path::Tc, &udp((pod(1), 1025), to, b""));
    assert_eq!(seed(&world), first, "what has not been drawn from is kept");
    let mut same = Search { seed_high: first.0, seed_low: first.1, pieces: 3, ..Search::default() };
    // SAFETY: it outlives the reference, and nobody else uses it.
    let same = unsafe { SearchRef::new(NonNull::from(&mut same)) };
    let range = Range { min: Port::new(1024), max: Port::new(65535) };
    for left in [2, 1, 0] {
        let (_, found) = world.out(Path::Tc, &udp((pod(5 - left as u8), 1024), to, b""));
        same.set_chance(0);
        // One number goes with the pod's own port, which was taken.
        let drawn = [same.draw(), same.draw()];
        assert_eq!(source(&found).1, range.pick(drawn[1]).number);
        assert_eq!(seed(&world), (same.seed_high(), same.seed_low(), left, 1));
    }
    world.out(Path::Tc, &udp((pod(9), 2000), to, b""));
    assert_eq!((seed(&world).2, seed(&world).3), (3, 2), "another seed");
}

/// Without a secret a port could be guessed: no flow is opened, and those that there are go on.
#[test]
fn rfc6888_req15_without_a_secret_no_flow_is_opened() {
    let mut world = World::new();
    world.has_secret.set(false);
    let packet = udp((pod(1), 1024), (server(10), 53), b"");
    let (outcome, _) = world.out(Path::Tc, &packet);
    assert_eq!(outcome, Outcome::NotReady);
    world.has_secret.set(true);
    assert_eq!(world.out(Path::Tc, &packet).0, Outcome::Outbound);
    world.has_secret.set(false);
    assert_eq!(world.out(Path::Tc, &packet).0, Outcome::Outbound);
}
