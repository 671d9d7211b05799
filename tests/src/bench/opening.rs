//! New flows: how many per second of processor time, how many find a port when few are left, and what it
//! costs to refuse one. A fresh path for every round, so that no round finds the ports of another.

use super::contender::Contender;
use super::path::{Path, flow_to};
use super::report::{Better, Report};
use super::{Effort, progress};
use crate::sandbox::Sandbox;

/// Ports of one egress address towards one endpoint: 1024 to 65535.
const PORTS: u32 = 64_512;
const FIRST_PORT: u16 = 1024;
/// Flows opened to measure the rate.
const FRESH: u32 = 60_000;
/// Packets of established and new flows together.
const MIXED: u32 = 48_000;
/// Numbers of attempts on a nearly full range.
const ATTEMPTS: u32 = 1_200;
/// Attempts on a full range: a flood, of which the first few are told that they are refused.
const REFUSED: u32 = 24_000;

/// Measures every NAT, and the bare table that has no ports to choose.
pub fn measure(sandbox: &Sandbox, contenders: &[Contender], effort: &Effort, report: &mut Report) {
    for round in 0..effort.rounds {
        progress(&format!("new flows, round {} of {}", round + 1, effort.rounds));
        for contender in contenders.iter().filter(|one| one.translates() || **one == Contender::Lookup) {
            if let Some(path) = Path::new(sandbox, contender, report) {
                one(&path, round, report);
            }
        }
    }
}

fn one(path: &Path<'_>, round: u32, report: &mut Report) {
    let name = path.contender.name();
    let mut record = |what: &str, unit: &str, better, value| {
        let measure = if unit.starts_with('%') { "placed" } else { "opening" };
        report.record(measure, what, unit, better, name, value);
    };
    // Own ports, each used once: all can be kept.
    let mut next = 1;
    let mut flows = |endpoint: u32, count: u32, pod: u16, port: &dyn Fn(u32) -> u16| {
        for index in 0..count {
            path.pods.set_flow(next + index, flow_to(next + index, endpoint, pod, port(index)));
        }
        let range = next..next + count;
        next += count;
        range
    };
    let distinct = |index: u32| FIRST_PORT + index as u16;

    let fresh = flows(1, FRESH, 1, &distinct);
    let burst = path.pods.burst(&path.vendor, fresh.clone(), FRESH);
    record("fresh, own port kept", "1000/s", Better::More, burst.rate() / 1e3);
    record("fresh, own port kept", "% placed", Better::More, 100.0 - 100.0 * burst.loss());
    let fresh_rate = burst.rate();
    let again = path.pods.burst(&path.vendor, fresh, FRESH);
    let established = again.cpu.as_secs_f64() * 1e6 / f64::from(FRESH);

    // One new flow for fifteen packets of established ones; what is left when the new ones' cost, as it was measured
    // alone, is taken off is what the established ones have cost.
    let mixed = flows(6, MIXED, 3, &distinct);
    for index in (0..MIXED).filter(|index| index % 16 != 0) {
        let number = mixed.start + index;
        path.pods.set_flow(number, flow_to(number, 1, 1, distinct(index % FRESH)));
    }
    let burst = path.pods.burst(&path.vendor, mixed, MIXED);
    let new = MIXED.div_ceil(16);
    let beside = (burst.cpu.as_secs_f64() - f64::from(new) / fresh_rate) / f64::from(MIXED - new);
    let kept = 100.0 * established / 1e6 / beside;
    record("established packets beside new flows, one in 16", "% of their speed alone", Better::More, kept);
    record("an established packet of these", "µs", Better::Less, established);
    if !path.contender.translates() {
        return;
    }

    // Half of the ports are another pod's already.
    let half = flows(2, FRESH / 2, 1, &distinct);
    path.pods.burst(&path.vendor, half, FRESH / 2);
    let taken = flows(2, FRESH / 4, 2, &distinct);
    let burst = path.pods.burst(&path.vendor, taken, FRESH / 4);
    record("own port taken, half the range free", "1000/s", Better::More, burst.rate() / 1e3);

    // Everything but a few percent taken, and a pod whose ports are taken too.
    for (endpoint, full) in [(3, 95), (4, 98)] {
        let count = PORTS * full / 100;
        let fill = flows(endpoint, count, 1, &distinct);
        for _ in 0..3 {
            path.pods.burst(&path.vendor, fill.clone(), count);
        }
        let attempts = flows(endpoint, ATTEMPTS, 2, &|index| scattered(index, round, count));
        let burst = path.pods.burst(&path.vendor, attempts, ATTEMPTS);
        let what = format!("{full} % of the range taken");
        record(&what, "% placed", Better::More, 100.0 - 100.0 * burst.loss());
        let each = burst.cpu.as_secs_f64() * 1e6 / f64::from(ATTEMPTS);
        record(&what, "µs per attempt", Better::Less, each);
    }

    let fill = flows(5, PORTS, 1, &distinct);
    for _ in 0..3 {
        path.pods.burst(&path.vendor, fill.clone(), PORTS);
    }
    let refused = flows(5, REFUSED, 2, &|index| scattered(index, round, PORTS));
    let burst = path.pods.burst(&path.vendor, refused, REFUSED);
    let each = burst.cpu.as_secs_f64() * 1e6 / f64::from(REFUSED);
    record("refused, every port taken", "µs per attempt", Better::Less, each);
}

/// Ports of the taken ones, in no order.
fn scattered(index: u32, round: u32, taken: u32) -> u16 {
    let place = (index.wrapping_add(round * 7919)).wrapping_mul(40_503) % taken;
    FIRST_PORT + place as u16
}
