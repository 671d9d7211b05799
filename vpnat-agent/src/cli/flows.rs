//! `vpnat flows`.

use std::collections::HashMap;
use std::io::{BufWriter, Write as _};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use vpnat_common::layout::clock::Moment;
use vpnat_common::layout::flow::FlowEntry;

use super::{PinOptions, say, say_json};
use crate::datapath::clock::{self, PROBE_CLOCK};
use crate::datapath::flows::{Endpoint, Flow, list, protocol_name};
use crate::datapath::maps::{StateMaps, Table};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List every flow. A flow with one half missing is marked as an orphan.
    List(ListOptions),
}

/// The shape of the JSON. A test compares it with what is printed.
const JSON_HELP: &str =
    "Print JSON. Fields are added over time; `version` is raised when one is renamed or removed.

{ version, unreadable,
  flows: [{ vendor, protocol: tcp|udp|icmp|NUMBER,
            inside: { address, port }, remote: { address, port }, egress: { address, port },
            state, age_s, expires_in_s, orphan,
            outbound: { packets, bytes } or null, inbound: { packets, bytes } or null }] }

`unreadable`: entries whose bytes make no sense. `port`: the query identifier of an ICMP flow.
`expires_in_s`: not positive once the flow has ended and waits to be swept. `orphan`: one half is missing, and
its counters are null.";

#[derive(Debug, Args)]
pub(super) struct ListOptions {
    /// Print JSON; its shape is in --help.
    #[arg(long, long_help = JSON_HELP)]
    json: bool,
    #[command(flatten)]
    pins: PinOptions,
}

/// The JSON's outermost object.
#[derive(Debug, Serialize)]
struct Document {
    /// Raised when a field is renamed or removed.
    version: u32,
    flows: Vec<Row>,
    /// Entries whose bytes make no sense.
    unreadable: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    vendor: String,
    protocol: String,
    inside: Place,
    remote: Place,
    egress: Place,
    state: &'static str,
    age_s: u32,
    /// Not positive once the flow has ended and waits to be swept.
    expires_in_s: i32,
    outbound: Option<Traffic>,
    inbound: Option<Traffic>,
    /// True if one of the two entries is missing.
    orphan: bool,
}

#[derive(Debug, Serialize)]
struct Place {
    address: String,
    /// Port, or query identifier of an ICMP flow.
    port: u16,
}

#[derive(Debug, Serialize)]
struct Traffic {
    packets: u64,
    bytes: u64,
}

pub(super) fn run(verb: &Verb) -> anyhow::Result<ExitCode> {
    let Verb::List(options) = verb;
    let pins = options.pins.pins()?;
    let names: HashMap<u8, String> =
        StateMaps::open(&pins)?.vendors()?.into_iter().map(|vendor| (vendor.slot, vendor.name)).collect();
    let now = clock::now(&pins.program(PROBE_CLOCK))?;
    let listing = list(&Table::flows(&pins)?)?;
    let rows: Vec<Row> = listing.flows.iter().map(|flow| row(flow, now, &names)).collect();
    if options.json {
        let document = Document { version: 1, flows: rows, unreadable: listing.unreadable };
        say_json(&document)?;
    } else {
        table(&rows)?;
        if listing.unreadable > 0 {
            say(format_args!("{} entries could not be read", listing.unreadable))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(flow: &Flow, now: Moment, names: &HashMap<u8, String>) -> Row {
    let place = |end: &Endpoint| Place { address: end.address.to_string(), port: end.port.number };
    let traffic = |entry: &FlowEntry| Traffic { packets: entry.packets, bytes: entry.bytes };
    Row {
        vendor: names.get(&flow.vendor()).cloned().unwrap_or_else(|| format!("slot-{}", flow.vendor())),
        protocol: protocol_name(flow.protocol),
        inside: place(&flow.inside),
        remote: place(&flow.remote),
        egress: place(&flow.egress),
        state: flow.state(),
        age_s: flow.age(now),
        expires_in_s: flow.expires_in(now),
        outbound: flow.outbound.as_ref().map(traffic),
        inbound: flow.inbound.as_ref().map(traffic),
        orphan: flow.is_orphan(),
    }
}

fn table(rows: &[Row]) -> std::io::Result<()> {
    let mut lines = vec![
        [
            "VENDOR",
            "PROTO",
            "INSIDE",
            "REMOTE",
            "EGRESS",
            "STATE",
            "AGE",
            "EXPIRES",
            "OUT PKTS/BYTES",
            "IN PKTS/BYTES",
        ]
        .map(String::from),
    ];
    let end = |place: &Place| format!("{}:{}", place.address, place.port);
    let traffic = |traffic: &Option<Traffic>| {
        traffic.as_ref().map_or_else(|| "-".into(), |count| format!("{}/{}", count.packets, count.bytes))
    };
    for row in rows {
        let state = if row.orphan { format!("{} (orphan)", row.state) } else { row.state.into() };
        let expires = if row.expires_in_s > 0 { format!("{}s", row.expires_in_s) } else { "ended".into() };
        lines.push([
            row.vendor.clone(),
            row.protocol.clone(),
            end(&row.inside),
            end(&row.remote),
            end(&row.egress),
            state,
            format!("{}s", row.age_s),
            expires,
            traffic(&row.outbound),
            traffic(&row.inbound),
        ]);
    }
    let widths: Vec<usize> =
        (0..10).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0)).collect();
    let mut out = BufWriter::new(std::io::stdout().lock());
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::assert_help_names;

    #[test]
    fn help_names_every_field() {
        let place = || Place { address: "10.0.2.7".into(), port: 1 };
        let row = Row {
            vendor: "vendor-a".into(),
            protocol: "tcp".into(),
            inside: place(),
            remote: place(),
            egress: place(),
            state: "established",
            age_s: 1,
            expires_in_s: 1,
            outbound: Some(Traffic { packets: 1, bytes: 1 }),
            inbound: None,
            orphan: true,
        };
        assert_help_names(JSON_HELP, &Document { version: 1, flows: vec![row], unreadable: 0 });
    }
}
