//! `vpnat flows`.

pub mod filter;
mod kill;
pub mod list;
pub mod ports;

use std::collections::HashMap;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;

use crate::datapath::Error;
use crate::datapath::flows::Endpoint;
use crate::datapath::maps::StateMaps;
use crate::datapath::pins::Pins;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List flows, and the ports that pods' ends own towards everybody (bindings, of endpoint-independent mapping). What has one
    /// half missing is marked as an orphan.
    List(list::Options),
    /// End the flows that match.
    Kill(kill::Options),
    /// Show how far the ports of each egress address are used up.
    Ports(ports::Options),
}

pub(super) fn run(verb: &Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::List(options) => list::run(options),
        Verb::Kill(options) => kill::run(options),
        Verb::Ports(options) => ports::run(options),
    }
}

/// An end of a flow in JSON.
#[derive(Debug, Serialize)]
pub struct Place {
    pub address: String,
    /// Port, or query identifier of an ICMP flow.
    pub port: u16,
}

impl Place {
    fn of(end: &Endpoint) -> Self {
        Self { address: end.address.to_string(), port: end.port.number }
    }
}

/// The vendors' names by slot.
pub fn names(pins: &Pins) -> Result<HashMap<u8, String>, Error> {
    Ok(StateMaps::open(pins)?.vendors()?.into_iter().map(|vendor| (vendor.slot, vendor.name)).collect())
}

/// The name of the vendor in `slot`, or the slot if it has none any more.
pub fn vendor_name(names: &HashMap<u8, String>, slot: u8) -> String {
    names.get(&slot).cloned().unwrap_or_else(|| format!("slot-{slot}"))
}
