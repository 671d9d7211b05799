//! `vpnat check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::say;
use crate::config::Config;
use crate::datapath::kernel::{Bpffs, TcMethod, release};
use crate::datapath::pins::Pins;
use crate::preflight;
use crate::waiting::Waiting;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Configuration file, vpnat.toml(5).
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let config = Config::load(&options.config)?;
    say(format_args!("configuration: {} is sound", options.config.display()))?;
    for warning in &config.warnings {
        say(format_args!("warning: {warning}"))?;
    }
    let pins = Pins::new(&config.pin_root);
    let waiting = Waiting::of("looking at this machine");
    let findings = preflight::check(&config, &pins)?;
    drop(waiting);

    say(format_args!("kernel: Linux {}, by {}", release(), TcMethod::of_this_kernel().name()))?;
    match &findings.bpffs {
        Bpffs::Mounted => say(format_args!("pins: {}", pins.root().display()))?,
        Bpffs::Mount(path) => {
            say(format_args!("pins: `vpnat run` will mount a BPF file system at {}", path.display()))?
        }
    }
    if pins.locked() {
        say("agent: running")?;
    }
    for link in &findings.devices {
        let (inside, outside) = config.sides_of(&link.name);
        let sides = match (inside, outside) {
            (true, true) => "inside and outside",
            (true, false) => "inside",
            _ => "outside",
        };
        let layer = match (link.is_ethernet(), link.tunnel) {
            (true, false) => "Ethernet",
            (true, true) => "tunnel with Ethernet header",
            (false, _) => "tunnel without Ethernet header",
        };
        let state = if link.up { "up" } else { "down" };
        say(format_args!("device: {} is {sides}, {layer}, MTU {}, {state}", link.name, link.mtu))?;
    }
    say(format_args!("xdp: {}: {}", findings.xdp.mode.name(), findings.xdp.reason))?;
    for vendor in &config.vendors {
        for address in &vendor.egress_ips {
            let place = if findings.local.contains(address) {
                "an address of this machine"
            } else {
                "not an address of this machine: the network must route it here"
            };
            say(format_args!("vendor {}: egress address {address} is {place}", vendor.name))?;
        }
    }
    say("nothing was changed")?;
    Ok(ExitCode::SUCCESS)
}
