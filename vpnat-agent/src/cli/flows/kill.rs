//! `vpnat flows kill`.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;
use vpnat_common::layout::flow::{FlowKey, kind};

use super::super::{PinOptions, say};
use super::filter::Filter;
use super::names;
use crate::datapath::Error;
use crate::datapath::flows::visit;
use crate::datapath::maps::Table;
use crate::datapath::reap::{KEYS_PER_CALL, REAP, Reaper};
use crate::waiting::Waiting;

/// What is said in `--help`.
const HELP: &str = "End the flows that match. The kernel removes both entries of each by its own rules.

A pod that goes on sending on a TCP connection is taken up again, as a new flow, unless the vendor has
tcp_pick_up = false; other flows begin anew with the pod's next packet, if the configuration admits it.";

#[derive(Debug, Args)]
#[command(long_about = HELP)]
pub struct Options {
    #[command(flatten)]
    filter: Filter,
    /// End all flows.
    #[arg(long)]
    all: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    pins: PinOptions,
}

pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if options.filter.is_empty() != options.all {
        anyhow::bail!(
            "which flows are meant is not clear: the command line: give filters, or --all without any"
        );
    }
    let pins = options.pins.pins()?;
    let names = names(&pins)?;
    let reaper = Reaper::open(&pins.program(REAP))?;
    let mut keys: Vec<FlowKey> = Vec::new();
    let waiting = Waiting::of("looking through the flow table");
    visit(
        &Table::flows(&pins)?,
        kind::FLOW,
        |flow| options.filter.wants(flow, &names),
        |flow| {
            keys.push(flow.a_key());
            Ok::<(), Error>(())
        },
    )?;
    drop(waiting);
    if keys.is_empty() {
        say("no flow matches")?;
        return Ok(ExitCode::SUCCESS);
    }
    if !options.yes && !confirm(keys.len())? {
        say("nothing was changed")?;
        return Ok(ExitCode::FAILURE);
    }
    let waiting = Waiting::of("ending flows");
    let mut entries = 0;
    for keys in keys.chunks(KEYS_PER_CALL) {
        entries += u64::from(reaper.kill(keys)?);
    }
    drop(waiting);
    say(format_args!("{} flows matched, {entries} entries were removed", keys.len()))?;
    Ok(ExitCode::SUCCESS)
}

fn confirm(flows: usize) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("{flows} flows match and nobody can be asked: standard input: add --yes");
    }
    let mut out = std::io::stderr();
    write!(out, "End {flows} flows? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
