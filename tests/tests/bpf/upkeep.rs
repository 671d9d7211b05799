//! What the agent runs by itself: the clock and the sweep's deletions.

use std::time::{Duration, Instant};

use tests::packet::{UDP, udp};
use vpnat_common::layout::flow::FlowKey;
use vpnat_common::layout::upkeep::{REAP_HOW_AT, REAP_KEYS_AT, REAP_MOST, REAP_NOW};
use vpnat_common::layout::user::FlowEntryBytes;

use crate::case::{Case, Line, Way, each};
use crate::plan::{A, EGRESS_A, POD, SERVER};
use crate::world::World;

fn line(number: u16) -> Line {
    let port = 40000 + number;
    Line { protocol: UDP, pod: (POD, port), remote: (SERVER, 53), public: (EGRESS_A, port) }
}

fn open(case: &mut Case<'_>, number: u16) {
    case.out(&udp(line(number).pod, (SERVER, 53), 64, b"question"));
    case.pair(&line(number));
}

/// Gives keys to the sweep's program; how many entries it says that it removed.
pub fn reap(case: &mut Case<'_>, keys: &[FlowKey]) -> u32 {
    ask(case, keys, 0)
}

/// Ends flows by their keys; how many entries went.
pub fn kill(case: &mut Case<'_>, keys: &[FlowKey]) -> u32 {
    ask(case, keys, REAP_NOW)
}

fn ask(case: &mut Case<'_>, keys: &[FlowKey], how: u8) -> u32 {
    let mut data = vec![0; REAP_KEYS_AT as usize];
    data[REAP_HOW_AT as usize] = how;
    for key in keys {
        data.extend(key.src.octets);
        data.extend(key.dst.octets);
        data.extend(key.src_port.number.to_ne_bytes());
        data.extend(key.dst_port.number.to_ne_bytes());
        data.extend([key.protocol, key.kind, 0, 0]);
    }
    case.world.run("reap", &data, &[]).0
}

#[test]
fn the_clock_goes_with_the_settings() {
    each(&[Way::TcEthernet], |case| {
        let before = case.world.now();
        case.wait(1000);
        let after = case.world.now();
        assert!((1000..1002).contains(&(after - before)), "{before} to {after}");
    });
}

#[test]
fn a_second_of_the_clock_is_a_second() {
    let mut world = World::with_a_running_clock();
    let (start, before) = (Instant::now(), world.now());
    std::thread::sleep(Duration::from_millis(2100));
    let (least, after) = (start.elapsed().as_secs() as u32, world.now());
    let most = start.elapsed().as_secs() as u32 + 2;
    assert!((least..=most).contains(&(after - before)), "{before} to {after} in {least} to {most} s");
}

/// An old snapshot does no harm: only what is over when it is asked for goes, both halves by either key.
#[test]
fn reaping_removes_what_is_over_and_nothing_else() {
    each(&[Way::TcEthernet], |case| {
        open(case, 0);
        open(case, 1);
        case.wait(200);
        open(case, 2);
        let keys: Vec<_> = (0..4).flat_map(|number| line(number).keys()).collect();
        assert_eq!(reap(case, &keys), 0);
        assert_eq!(case.entries(), 6);
        case.wait(120);
        assert_eq!(reap(case, &keys), 0, "ports rest");
        case.wait(110);
        assert_eq!(reap(case, &keys[1..2]), 2, "by the inbound key");
        assert_eq!(case.halves(&line(0)).map(|half| half.is_some()), [false, false]);
        assert_eq!(reap(case, &keys), 2);
        assert_eq!(case.entries(), 2);
        case.pair(&line(2));
        case.wait(200);
        assert_eq!(reap(case, &keys), 2);
        assert_eq!(case.entries(), 0);
    });
}

/// A packet that has just found the flow alive must not lose it under its hands.
#[test]
fn what_has_only_just_ended_stays_for_a_moment() {
    each(&[Way::TcEthernet], |case| {
        open(case, 0);
        let ends = case.pair(&line(0))[0].expires.seconds;
        let now = case.world.now();
        case.wait(ends - now);
        assert_eq!(reap(case, &line(0).keys()), 0);
        // Without a rest for its port.
        case.change_policy(A, |policy| policy.hold_s = 0);
        assert_eq!(reap(case, &line(0).keys()), 0);
        case.wait(8);
        assert_eq!(reap(case, &line(0).keys()), 2);
    });
}

#[test]
fn halves_and_wrecks_are_reaped() {
    each(&[Way::TcEthernet], |case| {
        open(case, 0);
        open(case, 1);
        open(case, 2);
        case.world.flows.remove(&line(0).keys()[0]).expect("the outbound half");
        case.world.flows.remove(&line(1).keys()[1]).expect("the inbound half");
        let keys: Vec<_> = (0..3).flat_map(|number| line(number).keys()).collect();
        assert_eq!(reap(case, &keys), 0, "a half lives as long as its timer");
        case.wait(320 + 120);
        assert_eq!(reap(case, &keys), 4);
        assert_eq!(case.entries(), 0);

        open(case, 0);
        for key in line(0).keys() {
            case.world.flows.insert(key, FlowEntryBytes([0xff; 64]), 0).expect("half of the flow");
        }
        assert_eq!(reap(case, &keys), 2, "an entry without direction is nobody's");
    });
}

#[test]
fn one_call_takes_so_many_keys_and_no_more() {
    each(&[Way::TcEthernet], |case| {
        open(case, 0);
        case.wait(320 + 120);
        let nothing = line(9).keys()[0];
        let mut keys = vec![nothing; REAP_MOST as usize];
        keys.push(line(0).keys()[0]);
        assert_eq!(reap(case, &keys), 0);
        assert_eq!(reap(case, &keys[1..]), 2);
    });
}
