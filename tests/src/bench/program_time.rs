//! What each program takes for a packet by itself, by the kernel's own statistics, while packets are sent.

use std::time::Duration;

use super::contender::Contender;
use super::path::Path;
use super::report::{Better, Report};
use super::throughput::open;
use super::{Effort, bpf, progress};
use crate::sandbox::Sandbox;

const FLOWS: u32 = 1_000;
const PACKETS: u32 = 500_000;

/// Measures every contender that runs programs which the bench can see.
pub fn measure(sandbox: &Sandbox, contenders: &[Contender], effort: &Effort, report: &mut Report) {
    progress("the programs by themselves");
    for contender in contenders {
        if !contender.is_vpnat()
            && !matches!(contender, Contender::Redirect | Contender::Lookup | Contender::Array)
        {
            continue;
        }
        let Some(path) = Path::new(sandbox, contender, report) else { continue };
        open(&path, FLOWS, report);
        for _ in 0..effort.rounds {
            for (inward, from, to) in [(false, &path.pods, &path.vendor), (true, &path.vendor, &path.pods)] {
                from.burst(to, 0..FLOWS, FLOWS);
                let _taken = bpf::take_times();
                let Some(host) = &path.host else { continue };
                let programs = host.programs();
                let before: Vec<_> = programs.iter().map(|(_, program)| bpf::times(program)).collect();
                let sink_before = bpf::times(to.sink());
                from.burst(to, 0..FLOWS, PACKETS);
                let direction = if inward { "in" } else { "out" };
                let name = contender.name();
                let mut note = |what: String, before, program| {
                    if let Some(each) = each(before, bpf::times(program)) {
                        report.record("program", &what, "ns", Better::Less, name, each);
                    }
                };
                for ((program_name, program), before) in programs.iter().zip(before) {
                    note(format!("{program_name} {direction}"), before, program);
                }
                note(format!("the sink, for comparison, {direction}"), sink_before, to.sink());
            }
        }
    }
    report.remark(
        "Programs' times are the kernel's: they include some 20-40 ns of taking the time, as the sink's shows, which \
         does next to nothing."
            .into(),
    );
}

/// Nanoseconds per run between two readings, if there were enough runs to tell.
fn each(before: (Duration, u64), after: (Duration, u64)) -> Option<f64> {
    let runs = after.1 - before.1;
    (runs > u64::from(PACKETS) / 2).then(|| (after.0 - before.0).as_nanos() as f64 / runs as f64)
}
