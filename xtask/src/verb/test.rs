//! `test`: the tiers of tests, with one line at the end that sums them up.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::setup::{self, Scope};
use super::{build, package};
use crate::package::debian;
use crate::results::{Report, Tally};
use crate::run::{self, output};

/// Tests of the lab at a time: each has namespaces of its own, but all share the machine's cores.
const LAB_THREADS: &str = "2";

/// How long each fuzz target runs, where the variable does not say.
const FUZZ_SECONDS: &str = "20";
const FUZZ_SECONDS_ENV: &str = "VPNAT_FUZZ_SECONDS";

/// Run the tests. The last line printed is the sum, `N passed, N failed`.
#[derive(clap::Args)]
pub struct Args {
    /// Run this tier only (may be given several times)
    #[arg(long, value_enum)]
    tier: Vec<Tier>,
    /// Arguments for the test harness, such as a part of a test's name
    #[arg(last = true)]
    filter: Vec<String>,
}

/// A group of tests that need the same of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// On the host, without root
    Unit,
    /// The fuzz targets for a bounded time, guided by coverage, without root
    Fuzz,
    /// The BPF programs on single packets, as root
    Bpf,
    /// Whole paths in network namespaces, as root
    Lab,
    /// The packages, in a clean Debian machine in a namespace, as root
    Package,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    let all = [Tier::Unit, Tier::Fuzz, Tier::Bpf, Tier::Lab, Tier::Package];
    let tiers: Vec<_> = all.into_iter().filter(|t| args.tier.is_empty() || args.tier.contains(t)).collect();
    let mut report = Report::default();
    for tier in tiers {
        println!("== {}", tier.heading());
        report.append(tier.run(&args.filter).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Report::of(Tally { failed: 1, ..Tally::default() })
        }));
    }
    let sum = report.tally;
    if sum.ran() == 0 {
        eprintln!("error: no test matches {:?}", args.filter.join(" "));
    }
    let success = sum.failed == 0 && sum.ran() > 0;
    if sum.failed > 0 {
        println!("\n== what failed, once more\n{}", report.failures());
    }
    println!("{sum}");
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Tier {
    fn heading(self) -> &'static str {
        match self {
            Self::Unit => "unit tests",
            Self::Fuzz => "fuzz tests: the targets for a bounded time, guided by coverage",
            Self::Bpf => "bpf tests: single packets through the programs",
            Self::Lab => "lab tests: whole paths in network namespaces",
            Self::Package => "package tests: installed, upgraded and removed in a clean machine",
        }
    }

    fn run(self, filter: &[String]) -> Result<Report> {
        let scopes: &[Scope] = match self {
            Self::Unit | Self::Fuzz | Self::Bpf => &[Scope::Build],
            Self::Lab => &[Scope::Build, Scope::Lab, Scope::Pages],
            Self::Package => &[Scope::Build, Scope::Lab, Scope::Package],
        };
        setup::ensure(scopes)?;
        match self {
            Self::Unit | Self::Fuzz | Self::Bpf => {}
            Self::Lab => {
                build::agent(false)?;
                build::next_agent()?;
            }
            Self::Package => package::for_tests()?,
        }
        let mut report = Report::default();
        for mut command in self.commands(filter)? {
            report.append(stream(&mut command, &mut io::stdout())?);
        }
        if report.tally.ran() == 0 && filter.is_empty() {
            anyhow::bail!("the tier ran no test at all");
        }
        Ok(report)
    }

    fn commands(self, filter: &[String]) -> Result<Vec<Command>> {
        let mut commands = Vec::new();
        for args in self.cargo_args() {
            let mut command = run::cargo_with_bpf(&["test", "--no-fail-fast"]);
            command.args(*args);
            if self == Self::Fuzz {
                count_what_is_reached(&mut command);
            } else if self != Self::Unit {
                run_as_root(&mut command)?;
            }
            if self == Self::Lab {
                command.env("VPNAT_BIN", run::agent_binary());
                command.env("VPNAT_NEXT_BIN", build::next_agent_binary());
            }
            if self == Self::Package {
                command.env("VPNAT_BIN", package::agent_binary());
                command.env("VPNAT_PACKAGES", package::directory());
                command.env("VPNAT_DEBIAN_TREE", debian::archive());
            }
            command.arg("--").args(harness_args(self, filter));
            commands.push(command);
        }
        Ok(commands)
    }

    /// What is tested, for each call of cargo.
    fn cargo_args(self) -> &'static [&'static [&'static str]] {
        match self {
            // The scenarios of `tests` are the other tiers; here only the lab's own parts.
            Self::Unit => &[
                &["--package", "vpnat-common", "--package", "vpnat-agent", "--package", "xtask"],
                &["--package", "vpnat-fuzz"],
                &["--package", "tests", "--lib"],
            ],
            Self::Fuzz => &[&["--release", "--package", "vpnat-fuzz", "--test", "bounded"]],
            Self::Bpf => &[&["--release", "--package", "tests", "--test", "bpf"]],
            Self::Lab => &[&["--release", "--package", "tests", "--test", "lab"]],
            Self::Package => &[&["--release", "--package", "tests", "--test", "package"]],
        }
    }
}

fn harness_args(tier: Tier, filter: &[String]) -> Vec<String> {
    let mut args = filter.to_vec();
    let chosen = filter.iter().any(|arg| arg.starts_with("--test-threads"));
    if tier == Tier::Lab && !chosen {
        args.push(format!("--test-threads={LAB_THREADS}"));
    }
    args
}

/// Has the compiler put counters into the targets, for the fuzz driver to see what an input has reached: what
/// coverage reports are made of, and stable. Built apart, so that nothing else is built anew.
fn count_what_is_reached(cargo: &mut Command) {
    cargo
        .env("CARGO_TARGET_DIR", run::target_dir().join("fuzz"))
        .env("RUSTFLAGS", "-Cinstrument-coverage --cfg vpnat_coverage")
        .env("LLVM_PROFILE_FILE", "/dev/null");
    if env::var_os(FUZZ_SECONDS_ENV).is_none() {
        cargo.env(FUZZ_SECONDS_ENV, FUZZ_SECONDS);
    }
}

/// Cargo stays with the user, whose folders it writes; only the test binaries become root.
pub fn run_as_root(cargo: &mut Command) -> Result<()> {
    let prefix = run::root_prefix()?;
    if prefix.is_empty() {
        return Ok(());
    }
    let version = output("rustc", &["-vV"]).context("`rustc -vV` does not work")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` names no host")?;
    cargo.env(runner_variable(host), prefix.join(" "));
    Ok(())
}

fn runner_variable(triple: &str) -> String {
    format!("CARGO_TARGET_{}_RUNNER", triple.to_uppercase().replace('-', "_"))
}

/// Runs a call of `cargo test`, passing its output on and taking in what it says of its tests.
fn stream(command: &mut Command, out: &mut impl Write) -> Result<Report> {
    eprintln!("$ {}", run::shown(command));
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut report = Report::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("cannot read what the tests print")?;
            let line = String::from_utf8_lossy(&line);
            report.line(&line);
            // A reader that has gone away is no reason to stop the tests.
            let _ = writeln!(out, "{line}");
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && report.tally.failed == 0 {
        // Not compiled, or died before it could say how many failed.
        eprintln!("error: `{}` failed ({status})", run::shown(command));
        report.tally.failed += 1;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn the_lab_runs_two_at_a_time_unless_told_otherwise() {
        assert_eq!(harness_args(Tier::Lab, &words(&["icmp"])), words(&["icmp", "--test-threads=2"]));
        let told = words(&["--test-threads=1"]);
        assert_eq!(harness_args(Tier::Lab, &told), told);
        assert_eq!(harness_args(Tier::Unit, &[]), words(&[]));
    }

    #[test]
    fn the_runner_is_named_for_the_host() {
        let name = runner_variable("x86_64-unknown-linux-gnu");
        assert_eq!(name, "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER");
    }

    #[test]
    fn output_is_summed_and_a_silent_failure_counts() {
        let line = "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";
        // Into a buffer: on the real output these lines would be summed by the run that tests this.
        let mut shown = Vec::new();
        let mut sum = |script: &str| {
            stream(Command::new("sh").args(["-c", script]), &mut shown).expect("a shell").tally
        };
        let twice = sum(&format!("echo '{line}'; echo '{line}'"));
        assert_eq!(twice, Tally { passed: 4, failed: 0, skipped: 2 });
        let died = sum(&format!("echo '{line}'; exit 101"));
        assert_eq!(died, Tally { passed: 2, failed: 1, skipped: 1 });
        assert_eq!(String::from_utf8_lossy(&shown).lines().count(), 3);
    }
}
