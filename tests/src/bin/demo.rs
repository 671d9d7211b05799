//! The main job on one machine: three pods reach a vendor through one address, down a real IPsec tunnel.

use std::process::ExitCode;

use clap::Parser;
use tests::demo::{self, Options};

/// Three pods with the same source port, a NAT instance with the real agent, a real IPsec tunnel, and a
/// vendor that admits one address only, all in network namespaces of this machine.
///
/// Each line printed is a check; the exit status is 0 if all of them held. Needs root.
#[derive(Parser)]
#[command(name = "demo")]
struct Args {
    /// Leave everything running afterwards and say how to look inside
    #[arg(long)]
    keep: bool,
    /// Remove what an earlier --keep has left running
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.remove { demo::remove() } else { demo::run(Options { keep: args.keep }) }
}
