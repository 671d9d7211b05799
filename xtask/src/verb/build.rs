//! `build`: the BPF programs and the agent that carries them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use xtask::bpf::{self, Object, Target};
use xtask::workspace_root;

use super::setup::{self, Scope};
use crate::run;

/// Build the BPF programs and the agent.
#[derive(clap::Args)]
pub struct Args {
    /// Build the agent without optimisation (the BPF programs are always optimised)
    #[arg(long)]
    debug: bool,
    /// Print each program's deepest chain of calls, with the frame of each function
    #[arg(long)]
    stack: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Scope::Build])?;
    let object = programs()?;
    agent(args.debug)?;
    let Object { path, summary } = &object;
    println!("BPF object  {} ({} KiB)", path.display(), summary.bytes.div_ceil(1024));
    for program in &summary.programs {
        let (section, name) = (&program.section, &program.name);
        let (instructions, stack) = (program.instructions, program.stack.bytes);
        println!("  {section:<16} {name:<28} {instructions:>6} instructions, {stack:>4} bytes of stack");
        if args.stack {
            println!("{}", program.stack);
        }
    }
    let profile = if args.debug { "debug" } else { "release" };
    println!("agent       {}", run::target_dir().join(profile).join("vpnat").display());
    Ok(ExitCode::SUCCESS)
}

/// Builds and inspects the BPF object, in the folder where the agent's build script finds it made.
fn programs() -> Result<Object> {
    let toolchain = bpf::find(&Target::host())?;
    eprintln!("building the BPF programs with rustc {} ({})", toolchain.release, toolchain.rustc.display());
    bpf::build(&toolchain, &workspace_root(), &run::target_dir().join("bpf"), &[])
}

/// The agent of [`next_agent`].
pub fn next_agent_binary() -> PathBuf {
    run::target_dir().join("debug/vpnat-next")
}

/// Builds an agent of another layout, for the tests of taking flows over.
pub fn next_agent() -> Result<()> {
    let args = ["build", "--package", "vpnat-agent", "--features", "layout-next"];
    run::run(&mut run::cargo_with_bpf(&args))?;
    // Away from where people look for an agent.
    let built = run::target_dir().join("debug/vpnat");
    std::fs::rename(&built, next_agent_binary()).with_context(|| format!("cannot move {}", built.display()))
}

/// Builds the agent with the programs in it.
pub fn agent(debug: bool) -> Result<()> {
    let mut command = run::cargo_with_bpf(&["build", "--package", "vpnat-agent"]);
    if !debug {
        command.arg("--release");
    }
    run::run(&mut command)
}
