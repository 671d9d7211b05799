//! vpnat with a million flows: memory, and what the sweep takes.

use std::time::{Duration, Instant};

use super::contender::{Contender, http};
use super::path::Path;
use super::report::{Better, Report};
use super::throughput::open;
use super::{bpf, progress};
use crate::agent::sum_of;
use crate::sandbox::Sandbox;

const FLOWS: u32 = 1_000_000;

/// Measures vpnat, if it is among the contenders.
pub fn measure(sandbox: &Sandbox, contenders: &[Contender], quick: bool, report: &mut Report) {
    let Some(contender) = contenders.iter().find(|contender| contender.is_vpnat()) else { return };
    progress("memory and sweep with 1M flows");
    let name = contender.name();
    let Some(path) = Path::new(sandbox, contender, report) else { return };
    let Some(host) = &path.host else { return };
    let Some(pid) = host.pid() else { return };
    let mut record = |measure: &str, what: &str, unit: &str, value: f64| {
        report.record(measure, what, unit, Better::Less, name, value);
    };
    record("memory", "agent resident, no flows", "MB", resident(pid));
    if let Some(pin) = host.pin("FLOWS") {
        let (bytes, entries) = bpf::map_memory(&pin);
        record(
            "memory",
            "table, both entries of a flow and all overhead",
            "B per flow",
            2.0 * bytes / entries,
        );
        record("memory", "table for 1,048,576 flows", "MB", bytes / 1e6);
    }
    let mut opened = Report::default();
    open(&path, FLOWS, &mut opened);
    record("memory", "agent resident, 1M flows", "MB", resident(pid));

    // A walk that began before all flows were there does not count: the second end from now is a full one.
    let wanted = if quick { 1.0 } else { 2.0 };
    let patience = Duration::from_secs(if quick { 45 } else { 400 });
    let metric = |name: &str| http(&path.nat, "/metrics").map(|text| sum_of(&text, name, &[]));
    let sweeps = || metric("vpnat_sweeps_total").unwrap_or(0.0);
    let (first, begun, cpu) = (sweeps(), Instant::now(), processor_time(pid));
    progress(&format!("waiting up to {} s for the sweep", patience.as_secs()));
    while begun.elapsed() < patience && sweeps() < first + wanted {
        std::thread::sleep(Duration::from_secs(1));
    }
    let share = (processor_time(pid) - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    record("sweep", "agent, 1M flows, sweeping", "% of a core", share * 100.0);
    if sweeps() >= first + wanted
        && let Some(busy) = metric("vpnat_sweep_duration_seconds")
        && !quick
    {
        record("sweep", "a walk over 1M flows", "s of processor time", busy);
        record("memory", "agent resident, 1M flows, after sweeping", "MB", resident(pid));
    }
    for warning in opened.warnings {
        report.warn(warning);
    }
}

fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) * 1024.0 / 1e6
}

/// Processor time of all threads of a process.
fn processor_time(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let times = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(times.sum())
}
