//! Random flows of random pods, out and back.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use vpnat_common::layout::flow::Direction;
use vpnat_common::layout::outcome::Outcome;

use crate::life::{PATHS, Path, pod, server};
use crate::tables::{EGRESS, World, key};
use crate::wire::{End, ICMP, TCP, UDP, assert_same, echo, rewritten, source, tcp, udp};

/// A packet of a flow that need not be there yet.
#[derive(Clone, Debug)]
struct Question {
    protocol: u8,
    pod: End,
    remote: End,
    payload: Vec<u8>,
    path: Path,
}

fn question() -> impl Strategy<Value = Question> {
    // Few pods, ports and servers, so that flows meet.
    let ports = prop_oneof![40000u16..40004, 1u16..=65535];
    (
        prop::sample::select(vec![TCP, UDP, ICMP]),
        (1u8..6, ports),
        (1u8..4, 443u16..446),
        vec(any::<u8>(), 0..64),
        prop::sample::select(PATHS.to_vec()),
    )
        .prop_map(|(protocol, from, to, payload, path)| Question {
            protocol,
            pod: (pod(from.0), from.1),
            remote: (server(to.0), if protocol == ICMP { 0 } else { to.1 }),
            payload,
            path,
        })
}

impl Question {
    fn packet(&self) -> Vec<u8> {
        match self.protocol {
            TCP => tcp(self.pod, self.remote, 2, (7, 0), &self.payload),
            UDP => udp(self.pod, self.remote, &self.payload),
            _ => echo(8, self.pod.0, self.remote.0, self.pod.1, &self.payload),
        }
    }

    fn answer(&self, public: End) -> Vec<u8> {
        match self.protocol {
            TCP => tcp(self.remote, public, 18, (9, 8), &self.payload),
            UDP => udp(self.remote, public, &self.payload),
            _ => echo(0, self.remote.0, public.0, public.1, &self.payload),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_out_comes_back_to_where_it_came_from(
        questions in vec(question(), 1..40), seed: u32, few_ports: bool, pauses in vec(0u32..400, 40),
    ) {
        let mut world = World::new();
        world.random.set(seed);
        if few_ports {
            (world.policy.port_min.number, world.policy.port_max.number) = (40000, 40007);
        }
        for (question, pause) in questions.iter().zip(pauses) {
            // Now and then time passes, and flows end.
            world.now += pause.saturating_sub(370) * 10;
            let packet = question.packet();
            let (outcome, found) = world.all_the_way_out(question.path, &packet);
            if outcome == Outcome::PortsExhausted {
                prop_assert!(few_ports);
                continue;
            }
            prop_assert_eq!(outcome, Outcome::Outbound);
            let public = (EGRESS, source(&found).1);
            let range = world.policy.port_min.number..=world.policy.port_max.number;
            prop_assert!(range.contains(&public.1));
            assert_same(&found, &rewritten(&packet, 0, public));

            let answer = question.answer(public);
            let (outcome, found) = world.all_the_way_back(question.path, &answer);
            prop_assert_eq!(outcome, Outcome::Inbound);
            assert_same(&found, &rewritten(&answer, 1, question.pod));
            pairs_are_whole(&mut world);
        }
    }
}

/// Every entry has its other half, and no two flows share an inbound key: each inbound entry leads back to the
/// one flow that leads to it.
fn pairs_are_whole(world: &mut World) {
    let table = world.table();
    let entries: HashMap<_, _> = table.values().copied().collect();
    for (own, entry) in &entries {
        assert_eq!(entry.check, own.check(entry.direction, entry.new_addr, entry.new_port));
        let new = (entry.new_addr.into(), entry.new_port.number);
        let (source, destination) =
            ((own.src.into(), own.src_port.number), (own.dst.into(), own.dst_port.number));
        let (other, back) = match entry.direction {
            Direction::Outbound => (key(own.protocol, destination, new), source),
            Direction::Inbound => (key(own.protocol, new, source), destination),
        };
        let other = entries.get(&other).expect("the other half");
        assert_ne!(other.direction, entry.direction);
        assert_eq!((other.new_addr.into(), other.new_port.number), back);
        assert_eq!((other.phase, other.vendor), (entry.phase, entry.vendor));
    }
}
