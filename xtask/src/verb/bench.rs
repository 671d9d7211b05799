//! `bench`: vpnat beside other ways through the same path, measured on this machine, in namespaces.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result};
use xtask::workspace_root;

use super::build;
use super::setup::{self, Scope};
use crate::run;

/// Measure vpnat as root beside plain forwarding, iptables, nftables and bare XDP, in network namespaces.
#[derive(clap::Args)]
pub struct Args {
    /// Write the tables and the plot into docs/
    #[arg(long)]
    docs: bool,
    /// Arguments of the bench: --quick, --json FILE, --plot FILE.svg, --contender NAME=COMMAND, --only NAME,…,
    /// --measure NAME,… (`cargo xtask bench -- --help` explains them)
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Scope::Build, Scope::Lab])?;
    build::agent(false)?;
    run::run(&mut run::cargo_with_bpf(&["build", "--release", "--package", "tests", "--bin", "bench"]))?;

    let bench = run::target_dir().join("release/bench");
    let mut command = run::as_root(bench.display().to_string())?;
    // Behind another of the bench's arguments, this verb's own would be taken for one of them.
    let docs = args.docs || args.args.iter().any(|arg| arg == "--docs");
    command.args(args.args.iter().filter(|arg| *arg != "--docs")).env("VPNAT_BIN", run::agent_binary());
    if docs {
        let docs = workspace_root().join("docs");
        command.arg("--tables").arg(docs.join("bench.md")).arg("--plot").arg(docs.join("bench.svg"));
    }
    // The bench takes this process's place, so that signals reach it and nobody is in between.
    Err(command.exec()).with_context(|| format!("cannot run {}", bench.display()))
}
