//! `demo`: the whole path from pod to vendor on this machine, in namespaces.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::build;
use super::setup::{self, Scope};
use crate::run;

/// Run the demo as root: pods, a NAT instance, a tunnel and a vendor, in network namespaces.
#[derive(clap::Args)]
pub struct Args {
    /// Arguments of the demo, such as --keep
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Scope::Build, Scope::Lab])?;
    build::agent(false)?;
    run::run(&mut run::cargo_with_bpf(&["build", "--release", "--package", "tests", "--bin", "demo"]))?;

    let demo = run::target_dir().join("release/demo");
    let mut command = run::as_root(demo.display().to_string())?;
    command.args(&args.args).env("VPNAT_BIN", run::agent_binary());
    // The demo takes this process's place: signals then reach it, and its exit status the caller,
    // with nobody in between who could die first and leave namespaces behind.
    Err(command.exec()).with_context(|| format!("cannot run {}", demo.display()))
}
