//! vpnat measured beside plain forwarding, netfilter and bare XDP.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tests::bench::{self, Options};

/// Measures vpnat, in XDP and in TC, beside plain forwarding, iptables, nftables and a bare XDP redirect, on
/// the same path in network namespaces of this machine.
///
/// Prints tables of medians with spread and ratios. Needs root.
#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    /// Fewer and shorter rounds: minutes
    #[arg(long)]
    quick: bool,
    /// Write every figure to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a plot (SVG) to this file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Put the tables into this Markdown file, between its marks
    #[arg(long, value_name = "FILE.md")]
    tables: Option<PathBuf>,
    /// One more NAT: a shell command that starts it in the NAT host's namespace and does not return.
    /// $BENCH_INSIDE, $BENCH_OUTSIDE, $BENCH_PODS, $BENCH_VENDORS and $BENCH_EGRESS say what it is to do
    #[arg(long, value_name = "NAME=COMMAND", value_parser = contender)]
    contender: Vec<(String, String)>,
    /// Only these contenders
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these measurements: throughput, opening, programs, memory, looking, bulk, latency, start
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    measure: Vec<String>,
    /// Only these numbers of flows: 1, 1k, 50k, 1M
    #[arg(long, value_name = "NUMBER,…", value_delimiter = ',')]
    flows: Vec<String>,
}

fn contender(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, command)) if !name.is_empty() && !command.is_empty() => Ok((name.into(), command.into())),
        _ => Err("expected NAME=COMMAND".into()),
    }
}

fn main() -> ExitCode {
    let Args { quick, json, plot, tables, contender, only, measure, flows } = Args::parse();
    bench::run(&Options { quick, json, plot, tables, contenders: contender, only, measure, flows })
}
