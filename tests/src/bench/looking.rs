//! What it takes to look at a million flows, and whether packets notice that somebody does.

use std::path::Path as FilePath;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::bpf::Shared;
use super::contender::Contender;
use super::latency::{load, oldest, quantile_of};
use super::path::Path;
use super::programs::{self, STEPS};
use super::progress;
use super::report::{Better, Report};
use super::throughput::open;
use crate::agent;
use crate::netns::Namespace;
use crate::sandbox::Sandbox;

const FLOWS: u32 = 1_000_000;
/// How long the screen is watched.
const WATCHED: Duration = Duration::from_secs(30);
/// The verbs that walk the whole table.
const VERBS: [&str; 5] = [
    "top --once --size 80x24",
    "status --json",
    "flows ports",
    "flows list --json",
    "flows list --inside 10.2.1.10",
];

/// What a process took.
struct Took {
    wall: Duration,
    cpu: Duration,
    resident_mb: f64,
}

/// Measures vpnat, if it is among the contenders.
pub fn measure(sandbox: &Sandbox, contenders: &[Contender], report: &mut Report) {
    let Some(contender) = contenders.iter().find(|contender| contender.is_vpnat()) else { return };
    progress("looking at 1M flows");
    let Some(mut path) = Path::new(sandbox, contender, report) else { return };
    let flows = path.host.as_ref().and_then(|host| host.pin("FLOWS"));
    let Some(pins) = flows.and_then(|flows| Some(flows.parent()?.parent()?.to_path_buf())) else { return };
    open(&path, FLOWS, report);
    let mut record = |what: &str, unit: &str, value: f64| {
        report.record("looking", what, unit, Better::Less, contender.name(), value);
    };
    for verb in VERBS {
        progress(verb);
        let took = run(&path.nat, &format!("{} {verb} --pin-dir {}", vpnat(), pins.display()));
        record(&format!("`{verb}`"), "s", took.wall.as_secs_f64());
        record(&format!("`{verb}`, processor time"), "s", took.cpu.as_secs_f64());
        record(&format!("`{verb}`, resident"), "MB", took.resident_mb);
    }
    progress(&format!("`top` on a terminal for {} s", WATCHED.as_secs()));
    let took = run(&path.nat, &screen(&pins, WATCHED));
    record("`top` on a terminal", "% of a core", took.cpu.as_secs_f64() / took.wall.as_secs_f64() * 100.0);
    record("`top` on a terminal, resident", "MB", took.resident_mb);

    let ages = Shared::new(STEPS);
    path.vendor.take(&programs::clock(&ages));
    for (who, looked) in [("nobody looks", false), ("`top --once` again and again", true)] {
        progress(&format!("packets on their way while {who}"));
        (0..STEPS).for_each(|step| ages.set(step, 0));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looker = looked.then(|| {
                scope.spawn(|| {
                    let line = format!("{} top --once --interval 0.1 --pin-dir {}", vpnat(), pins.display());
                    while !over.load(Ordering::Relaxed) {
                        run(&path.nat, &line);
                    }
                })
            });
            load(&path, WATCHED / 3);
            over.store(true, Ordering::Relaxed);
            looker.map(std::thread::ScopedJoinHandle::join)
        });
        for (quantile, name) in [(0.5, "p50"), (0.99, "p99"), (0.9999, "p99.99")] {
            if let Some(age) = quantile_of(&ages, quantile) {
                record(&format!("a packet's way, {name}, while {who}"), "µs", age);
            }
        }
        record(&format!("a packet's way, longest, while {who}"), "µs", oldest(&ages));
    }
    path.vendor.count();
}

fn vpnat() -> String {
    agent::binary().display().to_string()
}

/// `top` on a terminal of 80 by 24.
fn screen(pins: &FilePath, time: Duration) -> String {
    let top = format!("{} top --pin-dir {}", vpnat(), pins.display());
    let limited = format!("stty rows 24 cols 80; timeout --foreground {} {top}", time.as_secs());
    format!("TERM=xterm-256color LANG=C.UTF-8 script --quiet --command '{limited}' /dev/null")
}

/// Runs a shell's line in `nat` to its end, with what it prints thrown away.
#[expect(clippy::zombie_processes, reason = "wait4(2) waits for it, and says what it took")]
fn run(nat: &Namespace, line: &str) -> Took {
    let begun = Instant::now();
    let mut command = nat.command("sh");
    command.args(["-c", line]).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("a shell");
    // SAFETY: a structure of numbers, of which 0 is one.
    let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
    // SAFETY: the two places outlive the call, and nobody else waits for this child.
    let ended = unsafe { libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage) };
    assert!(ended > 0, "the end of `{line}`");
    let time = |value: libc::timeval| {
        Duration::new(value.tv_sec as u64, 0) + Duration::from_micros(value.tv_usec as u64)
    };
    Took {
        wall: begun.elapsed(),
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        resident_mb: usage.ru_maxrss as f64 * 1024.0 / 1e6,
    }
}
