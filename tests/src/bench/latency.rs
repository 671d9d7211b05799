//! How long a packet is on its way at a fixed load, one by one, as the sink's clock sees it.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::bpf::Shared;
use super::contender::Contender;
use super::end::pin;
use super::path::{Path, outbound};
use super::programs::{self, STEP_SHIFT, STEPS, stamped};
use super::report::{Better, Report};
use super::throughput::open;
use super::{Effort, progress};
use crate::raw::RawSender;

const FLOWS: u32 = 1_000;
/// Packets per second.
const LOAD: u32 = 20_000;

/// Measures every path.
pub fn measure(paths: &mut [Path<'_>], effort: &Effort, report: &mut Report) {
    for path in paths.iter() {
        open(path, FLOWS, report);
    }
    let ages = Shared::new(STEPS);
    let clock = programs::clock(&ages);
    for path in paths.iter_mut() {
        path.vendor.take(&clock);
    }
    for round in 0..effort.rounds {
        progress(&format!("latency, round {} of {}", round + 1, effort.rounds));
        for path in paths.iter() {
            (0..STEPS).for_each(|step| ages.set(step, 0));
            send(path, (f64::from(LOAD) * effort.seconds.max(0.5)) as u32);
            for (quantile, what) in [(0.5, "p50"), (0.99, "p99")] {
                let what = format!("{what} at {} k packets/s", LOAD / 1000);
                if let Some(age) = quantile_of(&ages, quantile) {
                    report.record("latency", &what, "µs", Better::Less, path.contender.name(), age);
                }
            }
        }
    }
    for path in paths.iter_mut() {
        path.vendor.count();
    }
    added(report);
}

/// Sends at the fixed load for so long.
pub(super) fn load(path: &Path<'_>, time: Duration) {
    send(path, (f64::from(LOAD) * time.as_secs_f64()) as u32);
}

/// The longest of all ages, microseconds.
pub(super) fn oldest(ages: &Shared<u64>) -> f64 {
    let last = (0..STEPS).rev().find(|step| ages.get(*step) > 0).unwrap_or(0);
    (last + 1) as f64 * f64::from(1 << STEP_SHIFT) / 1e3
}

fn send(path: &Path<'_>, count: u32) {
    let sender = RawSender::new(&path.pods.ns, path.pods.device(), path.pods.next_hop());
    path.pods.ns.enter(|| {
        pin();
        let begun = Instant::now();
        for number in 0..count {
            let flow = number % FLOWS;
            let packet = outbound(flow).packet(flow);
            let due = Duration::from_secs(1) / LOAD * number;
            while begun.elapsed() < due {
                std::hint::spin_loop();
            }
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock");
            let now = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
            sender.send(&stamped(packet, now));
        }
    });
}

/// The age that this share of the packets does not exceed, microseconds.
pub(super) fn quantile_of(ages: &Shared<u64>, quantile: f64) -> Option<f64> {
    let counts: Vec<u64> = (0..STEPS).map(|step| ages.get(step)).collect();
    let wanted = (counts.iter().sum::<u64>() as f64 * quantile).ceil() as u64;
    let mut sum = 0;
    let step = counts.iter().position(|count| {
        sum += count;
        sum >= wanted && sum > 0
    })?;
    Some(((step as f64 + 0.5) * f64::from(1 << STEP_SHIFT)) / 1e3)
}

fn added(report: &mut Report) {
    let straight = Contender::Straight.name();
    let rows: Vec<_> = report.rows("latency").cloned().collect();
    for row in rows {
        let Some(base) = row.median(straight) else { continue };
        for (name, values) in row.cells.iter().filter(|(name, _)| name != straight) {
            for value in values {
                report.record("added", &row.what, "µs", Better::Less, name, value - base);
            }
        }
    }
}
