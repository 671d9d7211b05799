//! Running out: of ports towards one remote end, and of room in the table.

use std::collections::BTreeSet;

use tests::packet::udp;
use vpnat_common::addr::Port;
use vpnat_common::layout::outcome::Outcome;

use crate::case::{Case, EVERY, each};
use crate::model;
use crate::plan::{A, B, EGRESS_A, EGRESS_B, End, POD, SERVER, SERVER_2, SERVER_B};
use crate::world::TABLE_ENTRIES;

fn question(port: u16, remote: End) -> Vec<u8> {
    udp((POD, port), remote, 64, b"question")
}

/// Opens the pod's flow from `port`; what the vendor sees of the port.
fn open(case: &mut Case<'_>, port: u16, remote: End) -> u16 {
    let packet = question(port, remote);
    let seen = case.out(&packet);
    seen.leaves_as(A, &model::source(&packet, (EGRESS_A, seen.port())));
    seen.port()
}

/// A range of four ports holds four flows to one end, whatever ports the pods use, and a refusal there is
/// nobody else's.
#[test]
fn the_whole_range_is_used_and_then_refused() {
    each(EVERY, |case| {
        case.change_policy(A, |policy| {
            (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50003));
        });
        let remote = (SERVER, 53);
        let ports: BTreeSet<_> = (0..4).map(|number| open(case, 40000 + number, remote)).collect();
        assert_eq!(ports, BTreeSet::from([50000, 50001, 50002, 50003]));
        case.out(&question(40004, remote)).ends_as(A, Outcome::PortsExhausted);
        assert_eq!(case.entries(), 8, "a refusal leaves nothing behind");

        // Another port of the server, another server, another vendor: not exhausted.
        assert!(ports.contains(&open(case, 40004, (SERVER, 54))));
        assert!(ports.contains(&open(case, 40004, (SERVER_2, 53))));
        let other = question(40004, (SERVER_B, 53));
        case.out(&other).leaves_as(B, &model::source(&other, (EGRESS_B, 40004)));

        // Old flows go on, and one that ends makes room: after its port has rested, for whoever comes first.
        assert!(ports.contains(&open(case, 40000, remote)));
        case.wait(200);
        for number in 0..3 {
            open(case, 40000 + number, remote);
        }
        case.wait(240);
        assert!(ports.contains(&open(case, 40004, remote)), "the fourth flow's port is free by now");
        case.out(&question(40005, remote)).ends_as(A, Outcome::PortsExhausted);
    });
}

/// Never evict (RFC 6888 REQ-11d).
#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    each(EVERY, |case| {
        let remote = (SERVER, 53);
        let room = TABLE_ENTRIES as u16 / 2;
        for number in 0..room {
            assert_eq!(open(case, 40000 + number, remote), 40000 + number);
        }
        assert_eq!(case.entries(), TABLE_ENTRIES as usize);
        for number in 0..3 {
            case.out(&question(50000 + number, remote)).ends_as(A, Outcome::TableFull);
        }
        assert_eq!(case.entries(), TABLE_ENTRIES as usize);
        for number in 0..room {
            assert_eq!(open(case, 40000 + number, remote), 40000 + number);
            let answer = udp(remote, (EGRESS_A, 40000 + number), 64, b"answer");
            case.back(&answer).arrives_as(A, &model::destination(&answer, (POD, 40000 + number)));
        }
    });
}

/// With room for one entry only, neither half stays.
#[test]
fn half_a_flow_is_not_kept_in_a_full_table() {
    each(EVERY, |case| {
        let remote = (SERVER, 53);
        for number in 0..TABLE_ENTRIES as u16 / 2 {
            open(case, 40000 + number, remote);
        }
        let line = crate::case::Line {
            protocol: tests::packet::UDP,
            pod: (POD, 40000),
            remote,
            public: (EGRESS_A, 40000),
        };
        case.world.flows.remove(&line.keys()[0]).expect("the outbound half");
        case.out(&question(50000, remote)).ends_as(A, Outcome::TableFull);
        assert_eq!(case.entries(), TABLE_ENTRIES as usize - 1);
    });
}
