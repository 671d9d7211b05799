//! Halves that are missing and entries that hold what the datapath never writes: whatever lies in the table, no
//! packet leaves with a wrong source.

use tests::packet::{UDP, udp};
use vpnat_common::engine::STAMP_SECONDS;
use vpnat_common::layout::flow::FlowEntry;
use vpnat_common::layout::outcome::Outcome;
use vpnat_common::layout::user::FlowEntryBytes;

use crate::case::{ALL, Case, Line, each};
use crate::model;
use crate::plan::{A, EGRESS_A, End, POD, POD_2, SERVER};

const POD_END: End = (POD, 40000);
const SERVER_END: End = (SERVER, 53);
const PUBLIC: End = (EGRESS_A, 40000);
const LINE: Line = Line { protocol: UDP, pod: POD_END, remote: SERVER_END, public: PUBLIC };

fn question() -> Vec<u8> {
    udp(POD_END, SERVER_END, 64, b"question")
}

fn answer() -> Vec<u8> {
    udp(SERVER_END, PUBLIC, 64, b"answer")
}

fn goes_out(case: &mut Case<'_>) {
    case.out(&question()).leaves_as(A, &model::source(&question(), PUBLIC));
}

fn comes_back(case: &mut Case<'_>) {
    case.back(&answer()).arrives_as(A, &model::destination(&answer(), POD_END));
}

/// Opens the flow and takes one of its halves away: 0 the outbound, 1 the inbound.
fn with_half_missing(case: &mut Case<'_>, half: usize) {
    case.restart();
    goes_out(case);
    case.world.flows.remove(&LINE.keys()[half]).expect("half of the flow");
}

#[test]
fn a_missing_outbound_half_is_made_anew() {
    each(ALL, |case| {
        with_half_missing(case, 0);
        goes_out(case);
        case.pair(&LINE);
        comes_back(case);
        assert_eq!(case.entries(), 2);
        // By the answer too, once the timers are looked at again.
        with_half_missing(case, 0);
        case.wait(STAMP_SECONDS);
        comes_back(case);
        case.pair(&LINE);
        goes_out(case);
        assert_eq!(case.entries(), 2);
    });
}

#[test]
fn a_missing_inbound_half_is_made_anew() {
    each(ALL, |case| {
        with_half_missing(case, 1);
        case.back(&answer()).ends_as(A, Outcome::Unsolicited);
        goes_out(case);
        case.wait(STAMP_SECONDS);
        goes_out(case);
        case.pair(&LINE);
        comes_back(case);
        assert_eq!(case.entries(), 2);
    });
}

/// Another pod may have taken the port of a flow that lost its inbound half: the leftover gives way.
#[test]
fn a_half_whose_port_is_another_flows_is_removed() {
    each(ALL, |case| {
        with_half_missing(case, 1);
        let rival = udp((POD_2, 40000), SERVER_END, 64, b"question");
        case.out(&rival).leaves_as(A, &model::source(&rival, PUBLIC));
        case.back(&answer()).arrives_as(A, &model::destination(&answer(), (POD_2, 40000)));
        case.wait(STAMP_SECONDS);
        let seen = case.out(&question());
        assert_ne!(seen.port(), 40000, "it is the other pod's now");
        seen.leaves_as(A, &model::source(&question(), (EGRESS_A, seen.port())));
        case.pair(&Line { public: (EGRESS_A, seen.port()), ..LINE });
        case.pair(&Line { pod: (POD_2, 40000), ..LINE });
        assert_eq!(case.entries(), 4);
    });
}

/// Offsets of what decides whether an entry may be used.
const DIRECTION: usize = std::mem::offset_of!(FlowEntry, direction);
const CHECK: usize = std::mem::offset_of!(FlowEntry, check);
/// Address and port that are written.
const TARGET: usize = std::mem::offset_of!(FlowEntry, new_addr);
const PHASE: usize = std::mem::offset_of!(FlowEntry, phase);
const VENDOR: usize = std::mem::offset_of!(FlowEntry, vendor);

/// Opens the flow and writes `byte` into both halves, at `at`.
fn spoil(case: &mut Case<'_>, at: usize, byte: impl Fn(u8) -> u8) {
    case.restart();
    goes_out(case);
    for key in LINE.keys() {
        let FlowEntryBytes(mut bytes) = case.world.flows.get(&key, 0).expect("half of the flow");
        bytes[at] = byte(bytes[at]);
        case.world.flows.insert(key, FlowEntryBytes(bytes), 0).expect("half of the flow");
    }
}

#[test]
fn an_entry_with_a_wrong_direction_target_or_check_translates_nothing() {
    each(ALL, |case| {
        for value in [0, 3, 7, 255] {
            spoil(case, DIRECTION, |_| value);
            unused(case);
        }
        spoil(case, DIRECTION, |byte| 3 - byte);
        unused(case);
        for at in (TARGET..TARGET + 6).chain([CHECK, CHECK + 1]) {
            spoil(case, at, |byte| byte ^ 0x10);
            unused(case);
        }
    });
}

/// Neither way does a packet of the flow get through, whatever it is dropped for, and none is changed.
fn unused(case: &mut Case<'_>) {
    for _ in 0..2 {
        let seen = case.out(&question());
        assert!(seen.was_dropped(), "{}", seen.title);
        let seen = case.back(&answer());
        assert!(seen.was_dropped(), "{}", seen.title);
    }
}

/// A phase that does not exist, or a vendor without policy, shows when the timers are looked at.
#[test]
fn an_entry_with_a_wrong_phase_or_vendor_is_not_renewed() {
    each(ALL, |case| {
        for (at, value) in [(PHASE, 0), (PHASE, 9), (PHASE, 10), (PHASE, 255), (VENDOR, 64), (VENDOR, 255)] {
            spoil(case, at, |_| value);
            case.wait(STAMP_SECONDS);
            unused(case);
        }
    });
}

/// A policy that names an address which is not the vendor's: no flow is made by it.
#[test]
fn an_egress_address_that_is_not_the_vendors_is_not_believed() {
    for stranger in [[255, 255, 255, 255], POD_2.octets(), [0, 0, 0, 0]] {
        each(ALL, |case| {
            case.change_policy(A, |policy| policy.egress[0] = vpnat_common::addr::Ip4 { octets: stranger });
            case.out(&question()).ends_as(A, Outcome::NotReady);
            assert_eq!(case.entries(), 0);
        });
    }
}
