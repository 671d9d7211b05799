//! `lint`: format, clippy on both targets, documentation, and the rules of [`sources`].

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use xtask::bpf::{self, Target, Toolchain, compile};
use xtask::{lookup, workspace_root};

use super::setup::{self, Scope};
use crate::run::{self, output};
use crate::sources;

/// Check format, lints, documentation and sources.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb. Every check is made, whatever the ones before it found.
pub fn run(_: &Args) -> Result<ExitCode> {
    setup::ensure(&[Scope::Build, Scope::Lint])?;
    type Check = fn() -> Result<()>;
    let checks: [(&str, Check); 5] = [
        ("format", format),
        ("clippy", clippy),
        ("clippy of the BPF programs", programs),
        ("documentation", documentation),
        ("sources", sources::check),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        println!("== {name}");
        if let Err(error) = check() {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("lint: clean");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("lint: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn format() -> Result<()> {
    run::run(&mut run::cargo(&["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    let args = ["clippy", "--workspace", "--exclude", compile::PACKAGE, "--all-targets", "--", "-Dwarnings"];
    run::run(&mut run::cargo(&args))
}

fn programs() -> Result<()> {
    let toolchain = bpf::find(&Target::host())?;
    match bpf_clippy(&toolchain) {
        Ok(driver) => {
            // Cargo's own part of clippy is only this: `check`, with the driver in rustc's place.
            let target_dir = run::target_dir().join("bpf-lint");
            let mut command =
                compile::cargo(&toolchain, &workspace_root(), &target_dir, "check", &["-Dwarnings"])?;
            run::run(command.env("RUSTC_WORKSPACE_WRAPPER", driver))
        }
        Err(reason) => {
            println!("no clippy for the BPF target ({reason}): checking for this machine's CPU");
            // Without the standard library the host needs a profile that aborts on panic.
            let args = ["clippy", "--package", compile::PACKAGE, "--profile", "bpf", "--", "-Dwarnings"];
            run::run(&mut run::cargo(&args))
        }
    }
}

fn documentation() -> Result<()> {
    run::run(run::cargo(&["doc", "--no-deps"]).env("RUSTDOCFLAGS", "-Dwarnings"))
}

/// Clippy's driver that belongs to the compiler of the BPF programs, or why there is none.
pub fn bpf_clippy(toolchain: &Toolchain) -> Result<PathBuf, String> {
    let driver = toolchain.sysroot.join("bin/clippy-driver");
    if !lookup::is_executable(&driver) {
        return Err(format!("there is no {}", driver.display()));
    }
    // A driver reads only the libraries of the very compiler that it was built with.
    let program = driver.display().to_string();
    let commit = |text: String| text.lines().find(|line| line.starts_with("commit-hash:")).map(str::to_owned);
    let own = output(&program, &["--rustc", "-vV"]).and_then(commit);
    let wanted = output(&toolchain.rustc.display().to_string(), &["-vV"]).and_then(commit);
    if own.is_none() || own != wanted {
        return Err(format!("{program} is not of rustc {}", toolchain.release));
    }
    Ok(driver)
}
