//! Running out: who is refused, and that nobody else pays.

use tests::packet::UDP;
use vpnat_common::addr::Port;
use vpnat_common::layout::outcome::{Fate, Outcome};

use super::{Flow, SERVER_END, policy};
use crate::case::{Case, EVERY, each};
use crate::plan::{EGRESS_A, POD, POD_2, SERVER_2};
use crate::world::TABLE_ENTRIES;

/// A flow that there is no room for does not begin, whatever else becomes of its packet.
#[track_caller]
fn refused(case: &mut Case<'_>, port: u16, remote: crate::plan::End) -> Outcome {
    let late = Flow { protocol: UDP, pod: (POD_2, port), remote, public: (EGRESS_A, port) };
    let seen = case.out(&late.question());
    assert_ne!(seen.ended().fate(), Fate::Translated, "{}: {:?}", seen.title, seen.ended());
    seen.ended()
}

/// The table is full: new flows are refused, and every old one passes data both ways afterwards.
#[test]
fn rfc6888_req11_row_11_26_a_full_table_evicts_nobody() {
    each(EVERY, |case| {
        let flows: Vec<_> = (0..TABLE_ENTRIES as u16 / 2)
            .map(|number| Flow::open(case, UDP, (POD, 40000 + number), SERVER_END))
            .collect();
        for number in 0..20 {
            assert_eq!(refused(case, 50000 + number, SERVER_END), Outcome::TableFull);
        }
        for flow in flows {
            flow.lives(case);
            flow.asks(case);
        }
    });
}

/// All ports towards one end are taken: it is refused there, nobody loses a port, and other ends are not touched.
#[test]
fn rfc6888_req11_a_full_range_takes_no_port_from_anybody() {
    each(EVERY, |case| {
        policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50007)));
        let flows: Vec<_> =
            (0..8).map(|number| Flow::open(case, UDP, (POD, 40000 + number), SERVER_END)).collect();
        for number in 0..20 {
            assert_eq!(refused(case, 50000 + number, SERVER_END), Outcome::PortsExhausted);
        }
        Flow::open(case, UDP, (POD_2, 50000), (SERVER_2, 443)).lives(case);
        for flow in flows {
            flow.lives(case);
            flow.asks(case);
        }
    });
}
