//! vpnat with a million flows: memory, and what the sweep takes.

use std::path::Path;
use std::time::{Duration, Instant};

use vpnat_common::layout::clock::Settings;
use vpnat_common::layout::upkeep::{REAP_KEYS_AT, REAP_MOST};

use super::contender::{Contender, http};
use super::path::{self, outbound};
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
    let Some(path) = path::Path::new(sandbox, contender, report) else { return };
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
    if let (Some(reap), Some(settings)) = (host.pin("reap"), host.pin("SETTINGS")) {
        record("sweep", "longest call that removes flows", "µs", longest(&reap, &settings));
    }
    for warning in opened.warnings {
        report.warn(warning);
    }
}

/// Lets every flow end, and takes away some of them in calls as large as the sweep's; the longest call's time, µs. The
/// rest of a sweep, reading the table, holds a lock for one bucket at a time only.
fn longest(reap: &Path, settings: &Path) -> f64 {
    const CALLS: u32 = 200;
    let settings = bpf::open(settings).expect("the settings' map");
    // The offset of the datapath's clock stands first.
    bpf::change_value::<{ size_of::<Settings>() }>(&settings, |bytes| {
        let at = std::mem::offset_of!(Settings, clock_offset_s);
        bytes[at..at + 4].copy_from_slice(&100_000u32.to_ne_bytes());
    })
    .expect("move the datapath's clock");
    let program = bpf::open(reap).expect("the program that removes flows");
    let mut longest = Duration::ZERO;
    for call in 0..CALLS {
        let mut data = vec![0; REAP_KEYS_AT as usize];
        for number in call * REAP_MOST..(call + 1) * REAP_MOST {
            let [source, destination] = outbound(number).ports.map(u16::from_be_bytes);
            let addresses = outbound(number).addresses;
            data.extend(addresses.as_flattened());
            data.extend(source.to_ne_bytes());
            data.extend(destination.to_ne_bytes());
            data.extend([17, 0, 0, 0]);
        }
        let (removed, took) = bpf::run(&program, &data).expect("remove flows");
        assert!(removed > REAP_MOST, "call {call} removed {removed} entries of {REAP_MOST} flows");
        longest = longest.max(took);
    }
    longest.as_nanos() as f64 / 1e3
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
