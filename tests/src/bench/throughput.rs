//! Packets per second of processor time, by number of flows and direction, and what the NAT host adds to a
//! packet's cost.

use vpnat_common::engine::STAMP_SECONDS;

use super::contender::Contender;
use super::path::{Path, outbound};
use super::programs::Template;
use super::report::{Better, Report};
use super::{Effort, progress};

/// How many flows, and what that is called.
pub const SIZES: [(u32, &str); 4] = [(1, "1"), (1_000, "1k"), (50_000, "50k"), (1_000_000, "1M")];

/// Packets of processor time that lies between two measurements of the same flows: less than vpnat's stamps live.
const WARM_UP: u32 = 65_536;

/// Measures every path, with `only` these numbers of flows if any are named.
pub fn measure(paths: &mut [Path<'_>], only: &[String], effort: &Effort, report: &mut Report) {
    for (count, name) in
        SIZES.into_iter().filter(|(_, name)| only.is_empty() || only.iter().any(|o| o == name))
    {
        let able: Vec<&Path<'_>> = paths.iter().filter(|path| holds(path, count, name, report)).collect();
        for path in &able {
            open(path, count, report);
        }
        for (inward, direction) in [(false, "out"), (true, "in")] {
            for round in 0..effort.rounds {
                progress(&format!(
                    "packets/s, {name} flows {direction}, round {} of {}",
                    round + 1,
                    effort.rounds
                ));
                for path in &able {
                    one(path, count, inward, &format!("{name} {direction}"), effort, report);
                }
            }
        }
    }
    net_costs(report);
}

fn holds(path: &Path<'_>, count: u32, name: &str, report: &mut Report) -> bool {
    match path.contender.capacity(&path.nat) {
        Some(capacity) if capacity < count => {
            report.remark(format!(
                "{} cannot hold {name} flows here (limit {capacity}, of the machine rather than of the namespace)",
                path.contender.name()
            ));
            false
        }
        _ => true,
    }
}

/// Opens the flows and learns how the vendor sees each.
pub fn open(path: &Path<'_>, count: u32, report: &mut Report) {
    progress(&format!("{}: opening {count} flows", path.contender.name()));
    for number in 0..count {
        path.pods.set_flow(number, outbound(number));
        path.vendor.forget(number);
    }
    path.vendor.learn(true);
    let mut missing = count;
    for _ in 0..4 {
        path.pods.burst(&path.vendor, 0..count, count);
        missing = (0..count).filter(|number| path.vendor.learned(*number).is_none()).count() as u32;
        if missing == 0 {
            break;
        }
    }
    path.vendor.learn(false);
    if missing != 0 {
        report.warn(format!("{}: {missing} of {count} flows could not be opened", path.contender.name()));
    }
    let mut last = None;
    for number in 0..count {
        let sent = path.pods.flow(number);
        if let Some(seen) = path.vendor.learned(number) {
            last = Some((sent, seen));
        }
        // A flow that is missing lends another's place.
        let Some((sent, seen)) = last else { continue };
        let port = |bytes: [u8; 2]| u16::from_be_bytes(bytes);
        let vendor = (sent.addresses[1], port(sent.ports[1]));
        path.vendor.set_flow(number, Template::new(number, vendor, (seen.address, port(seen.port))));
    }
}

fn one(path: &Path<'_>, count: u32, inward: bool, what: &str, effort: &Effort, report: &mut Report) {
    let (from, to) = if inward { (&path.vendor, &path.pods) } else { (&path.pods, &path.vendor) };
    let warm = from.burst(to, 0..count, count.max(WARM_UP));
    // Every flow's turn comes several times.
    let seconds = if count >= 1_000_000 { effort.seconds * 5.0 } else { effort.seconds };
    let packets = (warm.rate().clamp(1e4, 1e7) * seconds) as u32;
    let burst = from.burst(to, 0..count, packets);
    let mut cost = 1.0 / burst.rate();
    if count >= 1_000_000 {
        // The first turn found every stamp of vpnat's outdated. In steady work each flow has that once in a stamp's life,
        // so the first turn counts as much as it does there.
        let share = f64::from(count) * cost / f64::from(STAMP_SECONDS);
        cost += (1.0 / warm.rate() - cost).max(0.0) * share.min(1.0);
    }
    let name = path.contender.name();
    report.record("rate", what, "Mpps per core", Better::More, name, 1e-6 / cost);
    report.record("cost", what, "ns per packet", Better::Less, name, 1e9 * cost);
    report.record("loss", what, "% lost", Better::Less, name, burst.loss() * 100.0);
    if burst.wrong > 0 {
        report
            .warn(format!("{name}: {} of {} packets had a wrong address ({what})", burst.wrong, burst.sent));
    }
}

/// Path with the host minus path without, round by round.
fn net_costs(report: &mut Report) {
    let straight = Contender::Straight.name();
    for (_, size) in SIZES {
        for direction in ["out", "in"] {
            let what = format!("{size} {direction}");
            let Some(row) = report.row("cost", &what) else { continue };
            let Some(base) = row.median(straight) else { continue };
            let net: Vec<(String, Vec<f64>)> = row
                .cells
                .iter()
                .filter(|(name, _)| *name != straight)
                .map(|(name, values)| (name.clone(), values.iter().map(|value| value - base).collect()))
                .collect();
            for (name, values) in net {
                for value in values {
                    report.record("net", &what, "ns per packet", Better::Less, &name, value);
                }
            }
        }
    }
}
