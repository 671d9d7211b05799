//! What is counted beside the flow table agrees with it, whatever flows do: accounts of sources, and the flows of bindings.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::collection::vec;
use proptest::prelude::*;
use vpnat_common::addr::Port;
use vpnat_common::engine::flows::{self, When};
use vpnat_common::engine::{Clock, STAMP_SECONDS};
use vpnat_common::layout::event::Cause;
use vpnat_common::layout::flow::{Direction, FlowEntry, FlowKey, kind};
use vpnat_common::layout::outcome::Outcome;
use vpnat_common::layout::vendor::flag;

use crate::life::{PATHS, Path, pod, server};
use crate::tables::World;
use crate::wire::{End, ICMP, TCP, UDP, echo, source, tcp, udp};

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// A pod sends: TCP with these flags.
    Out(Path, u8, End, End, u8),
    /// The vendor answers the flow that was last seen to leave, with these flags.
    Back(Path, u8),
    /// Another CPU makes the same flow at the same moment.
    Lose(u8, End, End),
    /// Time passes.
    Wait(u32),
    /// The sweep looks at every entry.
    Sweep,
    /// An operator ends the flow of an entry.
    Kill(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    let protocol = prop::sample::select(vec![TCP, UDP, ICMP]);
    let path = prop::sample::select(PATHS.to_vec());
    // Few of each, so that flows meet.
    let inside = (1u8..4, 40000u16..40003).prop_map(|(number, port)| (pod(number), port));
    let remote = (1u8..3, 443u16..445).prop_map(|(number, port)| (server(number), port));
    let flags = prop::sample::select(vec![2u8, 2, 2, 16, 17, 4, 20]);
    prop_oneof![
        8 => (path.clone(), protocol.clone(), inside.clone(), remote.clone(), flags.clone())
            .prop_map(|(path, protocol, pod, remote, flags)| Event::Out(path, protocol, pod, remote, flags)),
        4 => (path, prop::sample::select(vec![18u8, 16, 17, 4])).prop_map(|(path, flags)| Event::Back(path, flags)),
        1 => (protocol, inside, remote).prop_map(|(protocol, pod, remote)| Event::Lose(protocol, pod, remote)),
        3 => prop::sample::select(vec![1, 3, 20, 100, 250, 500, 8000]).prop_map(Event::Wait),
        2 => Just(Event::Sweep),
        1 => any::<prop::sample::Index>().prop_map(Event::Kill),
    ]
}

fn packet(protocol: u8, from: End, to: End, flags: u8) -> Vec<u8> {
    match protocol {
        TCP => tcp(from, to, flags, (100, 500), b""),
        UDP => udp(from, to, b"question"),
        _ => echo(8, from.0, to.0, from.1, b"question"),
    }
}

fn flows_of(world: &mut World) -> Vec<(FlowKey, FlowEntry)> {
    let table = world.table();
    table.into_values().filter(|(_, entry)| entry.direction == Direction::Outbound).collect()
}

/// The accounts say what the table does, and no source has more than it may.
fn accounts_agree(world: &mut World) -> Result<(), TestCaseError> {
    let mut expected: BTreeMap<(Ipv4Addr, u8), u32> = BTreeMap::new();
    for (key, _) in flows_of(world).iter().filter(|(key, _)| key.kind == kind::FLOW) {
        *expected.entry((key.src.into(), key.protocol)).or_default() += 1;
    }
    let mut found = world.accounts();
    found.retain(|_, flows| *flows != 0);
    prop_assert_eq!(&found, &expected);
    let most = world.policy.max_flows_per_source;
    prop_assert!(found.values().all(|flows| *flows <= most));
    Ok(())
}

/// Every flow has the port of its binding, which counts it and lives as long; no port has two owners.
fn bindings_agree(world: &mut World) -> Result<(), TestCaseError> {
    let now = world.now;
    let lives = |entry: &FlowEntry| entry.expires.is_after(vpnat_common::layout::clock::Moment::new(now));
    let flows = flows_of(world);
    let end = |key: &FlowKey| (key.protocol, key.src, key.src_port);
    let bindings: BTreeMap<_, _> = flows
        .iter()
        .filter(|(key, _)| key.kind == kind::BINDING)
        .map(|(key, entry)| (format!("{:?}", end(key)), *entry))
        .collect();
    let mut owners = BTreeMap::new();
    for (key, entry) in flows.iter().filter(|(key, _)| key.kind == kind::BINDING) {
        let port = (key.protocol, entry.new_port.number);
        prop_assert!(owners.insert(port, key.src).is_none(), "two owners of {port:?}");
    }
    let mut counted: BTreeMap<String, u32> = BTreeMap::new();
    for (key, entry) in flows.iter().filter(|(key, _)| key.kind == kind::FLOW) {
        let name = format!("{:?}", end(key));
        let binding = bindings.get(&name);
        // One that is over may be older than the binding: what that counts came after it.
        if binding.is_some_and(|binding| !binding.created.is_after(entry.created)) {
            *counted.entry(name).or_default() += 1;
        }
        // What is over may lose its binding first.
        if lives(entry) {
            let Some(binding) = binding else {
                return Err(TestCaseError::fail(format!("{key:?} lives without a binding")));
            };
            prop_assert_eq!(binding.new_port, entry.new_port);
            prop_assert!(
                !entry.expires.is_after(binding.expires),
                "{:?} ends before {:?}",
                binding.expires,
                entry.expires
            );
        }
    }
    for (name, binding) in &bindings {
        let flows = counted.get(name).copied().unwrap_or_default();
        prop_assert_eq!(binding.ack, flows, "{}", name);
        // Without a flow it is over.
        prop_assert!(flows != 0 || !lives(binding), "{} has no flow and lives", name);
    }
    Ok(())
}

fn run(events: &[Event], independent: bool, ports: u16, most: u32) -> Result<(), TestCaseError> {
    let mut world = World::new();
    world.policy.max_flows_per_source = most;
    (world.policy.port_min, world.policy.port_max) = (Port::new(40000), Port::new(40000 + ports - 1));
    if independent {
        world.policy.flags |= flag::ENDPOINT_INDEPENDENT;
    }
    let mut last = None;
    for event in events {
        match event {
            Event::Out(path, protocol, pod, remote, flags) => {
                let question = packet(*protocol, *pod, *remote, *flags);
                let (outcome, found) = world.out(*path, &question);
                if outcome == Outcome::Outbound {
                    last = Some((*protocol, *remote, source(&found)));
                }
            }
            Event::Back(path, flags) => {
                if let Some((protocol, remote, public)) = last {
                    let answer = match protocol {
                        TCP => tcp(remote, public, *flags, (500, 101), b""),
                        UDP => udp(remote, public, b"answer"),
                        _ => echo(0, remote.0, public.0, public.1, b"answer"),
                    };
                    world.back(*path, &answer);
                }
            }
            Event::Lose(protocol, pod, remote) => {
                world.lose.set(true);
                world.out(Path::Tc, &packet(*protocol, *pod, *remote, 2));
                world.lose.set(false);
            }
            Event::Wait(seconds) => world.now += seconds,
            Event::Sweep => {
                for (key, _) in world.table().into_values() {
                    let clock = Clock::read(&world);
                    flows::reap(&world, &clock, &key, flows::SWEPT);
                    world.settle();
                }
            }
            Event::Kill(index) => {
                let table = world.table();
                // A binding has no end of its own.
                let keys: Vec<_> = table.values().filter(|(key, _)| key.kind == kind::FLOW).collect();
                if !keys.is_empty() {
                    let clock = Clock::read(&world);
                    flows::reap(&world, &clock, &index.get(&keys).0, When::Now(Cause::Killed));
                    world.settle();
                }
            }
        }
        accounts_agree(&mut world)?;
        if independent {
            bindings_agree(&mut world)?;
        }
    }
    // Everything ends: nothing is left counted.
    world.now += 7440 + 300 + STAMP_SECONDS;
    for _ in 0..3 {
        for (key, _) in world.table().into_values() {
            let clock = Clock::read(&world);
            flows::reap(&world, &clock, &key, flows::SWEPT);
            world.settle();
        }
        world.now += 300;
    }
    prop_assert_eq!(world.entries(), 0);
    prop_assert!(world.accounts().values().all(|flows| *flows == 0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Endpoint-dependent, with ports to spare or none.
    #[test]
    fn rfc6888_req4_accounts_agree_with_the_table(
        events in vec(event(), 1..120),
        ports in prop::sample::select(vec![2u16, 5, 1000]),
        most in 1u32..6,
    ) {
        run(&events, false, ports, most)?;
    }

    /// Endpoint-independent.
    #[test]
    fn row_8_10_bindings_agree_with_the_table(
        events in vec(event(), 1..120),
        ports in prop::sample::select(vec![2u16, 5, 1000]),
        most in 1u32..6,
    ) {
        run(&events, true, ports, most)?;
    }
}
