//! `vpnat flows ports`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::super::{PinOptions, columns, say_json};
use super::Place;
use crate::datapath::census::Census;
use crate::datapath::flows::{census, protocol_name};
use crate::datapath::maps::{StateMaps, Table, VendorSlot};
use crate::waiting::Waiting;

/// The shape of the JSON. A test compares it with what is printed.
pub const JSON_HELP: &str =
    "Print JSON. Fields are added over time; `version` is raised when one is renamed or removed.

{ version,
  ports: [{ vendor, egress, protocol, configured, used, owned, busiest: { remote: { address, port }, used }, ratio }] }

`configured`: ports of the vendor's range. `used`: different ones in use, towards any destination, with those that rest
after use. `owned`: those that belong to one pod's port towards every destination (endpoint-independent mapping).
`busiest`: the destination towards which most are in use; the same port may serve other destinations. `ratio`: of the
busiest's, or of those owned if they are more, to `configured`; at 1 no pod can open another flow to it.";

#[derive(Debug, Args)]
pub struct Options {
    /// Print JSON; its shape is in --help.
    #[arg(long, long_help = JSON_HELP)]
    json: bool,
    #[command(flatten)]
    pins: PinOptions,
}

#[derive(Debug, Serialize)]
struct Document {
    /// Raised when a field is renamed or removed.
    version: u32,
    ports: Vec<Pool>,
}

/// How far the ports of an egress address are used up.
#[derive(Debug, Serialize)]
pub struct Pool {
    pub vendor: String,
    pub egress: String,
    pub protocol: String,
    pub configured: u32,
    pub used: u32,
    pub owned: u32,
    pub busiest: Busiest,
    pub ratio: f64,
}

impl Pool {
    /// What of it no new flow to the busiest destination can have.
    pub fn share(&self) -> String {
        let taken = self.busiest.used.max(self.owned);
        format!("{taken} of {} ({:.1} %)", self.configured, self.ratio * 100.0)
    }
}

/// The destination towards which most ports are in use.
#[derive(Debug, Serialize)]
pub struct Busiest {
    pub remote: Place,
    pub used: u32,
}

pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let pins = options.pins.pins()?;
    let vendors = StateMaps::open(&pins)?.vendors()?;
    let waiting = Waiting::of("counting the flow table");
    let (census, _) = census(&Table::flows(&pins)?)?;
    drop(waiting);
    let document = Document { version: 1, ports: pools(&census, &vendors) };
    if options.json {
        say_json(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = vec![
        ["VENDOR", "EGRESS", "PROTO", "IN USE", "OWNED", "BUSIEST DESTINATION", "OF ITS PORTS"]
            .map(String::from),
    ];
    lines.extend(document.ports.iter().map(|pool| {
        [
            pool.vendor.clone(),
            pool.egress.clone(),
            pool.protocol.clone(),
            pool.used.to_string(),
            pool.owned.to_string(),
            format!("{}:{}", pool.busiest.remote.address, pool.busiest.remote.port),
            pool.share(),
        ]
    }));
    columns(&lines)?;
    Ok(ExitCode::SUCCESS)
}

/// What was counted, by name.
pub fn pools(census: &Census, vendors: &[VendorSlot]) -> Vec<Pool> {
    let pools = census.port_use().into_iter().map(|found| {
        let (slot, egress, protocol) = found.pool;
        let vendor = vendors.iter().find(|vendor| vendor.slot == slot);
        let configured = vendor.map_or(0, VendorSlot::ports);
        Pool {
            vendor: vendor.map_or_else(|| format!("slot-{slot}"), |vendor| vendor.name.clone()),
            egress: egress.to_string(),
            protocol: protocol_name(protocol),
            configured,
            used: found.ports,
            owned: found.owned,
            ratio: found.ratio(configured),
            busiest: Busiest { remote: Place::of(&found.busiest), used: found.busiest_ports },
        }
    });
    pools.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::assert_help_names;

    #[test]
    fn help_names_every_field() {
        let pool = Pool {
            vendor: "vendor-a".into(),
            egress: "10.0.1.10".into(),
            protocol: "tcp".into(),
            configured: 64512,
            used: 1,
            owned: 0,
            busiest: Busiest { remote: Place { address: "192.0.2.10".into(), port: 443 }, used: 1 },
            ratio: 0.1,
        };
        assert_help_names(JSON_HELP, &Document { version: 1, ports: vec![pool] });
    }
}
