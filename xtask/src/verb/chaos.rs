//! `chaos`: the long forms of the tests of faults, chosen at random, with one report at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::build;
use super::setup::{self, Scope};
use super::test::run_as_root;
use crate::results::Tally;
use crate::run;

/// Try to break it: hostile packets, kills at random moments, floods, ways that come and go, for as long as asked.
#[derive(clap::Args)]
pub struct Args {
    /// How long to go on, in minutes; a part that has begun is finished
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Chooses parts, packets and moments; the same seed chooses the same again
    #[arg(long)]
    seed: Option<u64>,
}

/// A part: the test's target and name. Each gets a seed and a time of its own.
struct Part {
    target: &'static str,
    name: &'static str,
}

const fn part(target: &'static str, name: &'static str) -> Part {
    Part { target, name }
}

const PARTS: &[Part] = &[
    part("bpf", "fuzz::packets_of_any_shape"),
    part("bpf", "spoiled::"),
    part("lab", "killed::at_random_moments_tc"),
    part("lab", "killed::at_random_moments_xdp"),
    part("lab", "steps::at_any_step_of_the_first_start_tc"),
    part("lab", "steps::at_any_step_of_the_first_start_xdp"),
    part("lab", "steps::at_any_step_of_a_reload_tc"),
    part("lab", "steps::at_any_step_of_a_reload_xdp"),
    part("lab", "ten_thousand::"),
    part("lab", "leaks::"),
    part("lab", "reload::every_kind_of_packet_during_reloads"),
    part("lab", "reload::a_prefix_comes_while_its_traffic_flows"),
    part("lab", "guard::every_kind_of_packet_stops_at_the_guard"),
    part("lab", "pressure::a_flood_of_syns"),
];

/// How long a part without an end of its own goes on, seconds: so that each has a turn in the time there is, but for those that
/// take what they take.
fn seconds_per_part(minutes: u64) -> u64 {
    (minutes * 60 / PARTS.len() as u64).clamp(10, 60)
}

/// What all parts came to.
#[derive(Default)]
struct Report {
    sums: BTreeMap<String, u64>,
    tests: Tally,
    failed: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Scope::Build, Scope::Lab])?;
    build::agent(false)?;
    build::next_agent()?;
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let seed = args.seed.unwrap_or(clock.as_secs());
    println!("chaos: seed {seed}, {} minutes", args.minutes);
    let (start, time) = (Instant::now(), Duration::from_secs(args.minutes * 60));
    let seconds = seconds_per_part(args.minutes);
    let mut report = Report::default();
    // Every part has a turn before any has another; the seed says in which order.
    for turn in 0.. {
        if turn > 0 && start.elapsed() >= time {
            break;
        }
        let mut order: Vec<_> = PARTS.iter().enumerate().collect();
        order.sort_by_key(|(index, _)| mixed(seed ^ turn << 32 ^ *index as u64));
        for (index, part) in order {
            if start.elapsed() >= time && turn > 0 {
                break;
            }
            report.add(part, mixed(seed.wrapping_add(turn * 1000 + index as u64)), seconds)?;
        }
    }
    println!("{}", report.text(seed, start.elapsed()));
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a part is told, in the environment.
fn orders(seed: u64, seconds: u64) -> [(&'static str, String); 4] {
    [
        ("VPNAT_FUZZ_SEED", seed.to_string()),
        ("VPNAT_FUZZ_SECONDS", seconds.to_string()),
        ("VPNAT_CHAOS_SEED", seed.to_string()),
        ("VPNAT_CHAOS_SECONDS", seconds.to_string()),
    ]
}

/// A number that looks nothing like its neighbours' (the finalizer of SplitMix64).
fn mixed(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Report {
    fn add(&mut self, part: &Part, seed: u64, seconds: u64) -> Result<()> {
        println!("== {} (seed {seed})", part.name);
        let mut command = run::cargo_with_bpf(&["test", "--release", "--package", "tests"]);
        command.args(["--test", part.target]);
        run_as_root(&mut command)?;
        command
            .env("VPNAT_BIN", run::agent_binary())
            .env("VPNAT_NEXT_BIN", build::next_agent_binary())
            .envs(orders(seed, seconds))
            .args(["--", part.name, "--nocapture", "--test-threads=1"]);
        let output = output(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        let before = self.tests.ran();
        text.lines().for_each(|line| self.line(line));
        // A part that ran no test has shown nothing.
        if !output.status.success() || self.tests.ran() == before {
            let orders: String =
                orders(seed, seconds).map(|(name, value)| format!("{name}={value} ")).concat();
            self.failed.push(format!("{orders}cargo xtask test --tier {} -- {}", part.target, part.name));
        }
        Ok(())
    }

    /// Adds up what a line tells: `chaos: name=number …`, or a sum of tests.
    fn line(&mut self, line: &str) {
        self.tests += Tally::parse(line).unwrap_or_default();
        // Under `--nocapture` a test's name may stand in front.
        let Some((_, words)) = line.split_once("chaos: ") else { return };
        for (name, value) in words.split_whitespace().filter_map(|word| word.split_once('=')) {
            if let Ok(value) = value.parse::<u64>() {
                *self.sums.entry(name.to_owned()).or_default() += value;
            }
        }
    }

    fn text(&self, seed: u64, took: Duration) -> String {
        let mut text = format!("chaos: seed {seed}, {:.1} minutes\n", took.as_secs_f64() / 60.0);
        for (name, sum) in &self.sums {
            let _ = writeln!(text, "  {:<24} {sum:>12}", name.replace('-', " "));
        }
        for failed in &self.failed {
            let _ = writeln!(text, "  FAILED: {failed}");
        }
        let _ = write!(text, "{}", self.tests);
        text
    }
}

/// Runs a command to its end; its errors are shown as they come.
fn output(command: &mut Command) -> Result<std::process::Output> {
    eprintln!("$ {}", run::shown(command));
    command.stderr(Stdio::inherit()).output().context("cannot run cargo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_parts_tell_is_added_up() {
        let mut report = Report::default();
        report.line("test killed::at_random_moments_tc ... chaos: kills=10 lost=0");
        report.line("chaos: kills=5 lost=0 bytes=7 nonsense=x");
        report.line("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!((report.sums["kills"], report.sums["lost"], report.sums["bytes"]), (15, 0, 7));
        assert_eq!(report.tests.ran(), 2);
        let text = report.text(3, Duration::from_secs(90));
        assert!(text.starts_with("chaos: seed 3, 1.5 minutes\n  bytes"), "{text}");
        assert!(text.ends_with("2 passed, 0 failed"), "{text}");
    }
}
