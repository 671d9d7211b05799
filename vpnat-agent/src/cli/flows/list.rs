//! `vpnat flows list`.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vpnat_common::layout::clock::Moment;
use vpnat_common::layout::flow::FlowEntry;

use super::super::{PinOptions, column_widths, write_columns};
use super::filter::Filter;
use super::{Place, names, vendor_name};
use crate::datapath::clock::{self, PROBE_CLOCK};
use crate::datapath::flows::{Flow, protocol_name, visit};
use crate::datapath::maps::Table;

/// The shape of the JSON. A test compares it with what is printed.
pub const JSON_HELP: &str =
    "Print JSON. Fields are added over time; `version` is raised when one is renamed or removed.

{ version,
  flows: [{ vendor, protocol: tcp|udp|icmp|NUMBER,
            inside: { address, port }, remote: { address, port }, egress: { address, port },
            state: udp|icmp-query|init|established|client-fin|server-fin|both-fin|trans,
            age_s, expires_in_s, orphan,
            outbound: { packets, bytes } or null, inbound: { packets, bytes } or null }],
  unreadable }

In no order, one flow per line. `unreadable`: entries whose bytes make no sense. `port`: the query identifier of an ICMP
flow. `expires_in_s`: not positive once the flow has ended and waits to be swept. `orphan`: one half is missing, and its
counters are null.";

/// Up to so many rows are sorted; more are printed as they come.
const SORTED: usize = 10_000;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    filter: Filter,
    /// Print JSON; its shape is in --help.
    #[arg(long, long_help = JSON_HELP)]
    json: bool,
    #[command(flatten)]
    pins: PinOptions,
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
struct Traffic {
    packets: u64,
    bytes: u64,
}

pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let pins = options.pins.pins()?;
    let names = names(&pins)?;
    let now = clock::now(&pins.program(PROBE_CLOCK))?;
    let table = Table::flows(&pins)?;
    let wanted = |flow: &Flow| options.filter.wants(flow, &names);
    let row = |flow: &Flow| row(flow, now, vendor_name(&names, flow.vendor()));
    let mut out = BufWriter::new(std::io::stdout().lock());
    if options.json {
        write!(out, "{{\"version\":1,\"flows\":[")?;
        let mut separator = "\n";
        let unreadable = visit(&table, wanted, |flow| {
            write!(out, "{separator}")?;
            separator = ",\n";
            // A closed reader must stay recognisable as such.
            serde_json::to_writer(&mut out, &row(&flow)).map_err(std::io::Error::from)?;
            anyhow::Ok(())
        })?;
        writeln!(out, "\n],\"unreadable\":{unreadable}}}")?;
    } else {
        let mut text = Text { rows: Vec::new(), widths: None };
        let unreadable = visit(&table, wanted, |flow| text.add(row(&flow), &mut out))?;
        text.print(&mut out)?;
        if unreadable > 0 {
            writeln!(out, "{unreadable} entries could not be read")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn row(flow: &Flow, now: Moment, vendor: String) -> Row {
    let traffic = |entry: &FlowEntry| Traffic { packets: entry.packets, bytes: entry.bytes };
    Row {
        vendor,
        protocol: protocol_name(flow.protocol),
        inside: Place::of(&flow.inside),
        remote: Place::of(&flow.remote),
        egress: Place::of(&flow.egress),
        state: flow.state(),
        age_s: flow.age(now),
        expires_in_s: flow.expires_in(now),
        outbound: flow.outbound.as_ref().map(traffic),
        inbound: flow.inbound.as_ref().map(traffic),
        orphan: flow.is_orphan(),
    }
}

/// Rows for people: sorted and in columns as long as they are few.
struct Text {
    rows: Vec<Row>,
    /// Of the columns, once rows are printed as they come.
    widths: Option<Vec<usize>>,
}

const TITLES: [&str; 10] = [
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
];

impl Text {
    fn add(&mut self, row: Row, out: &mut impl Write) -> anyhow::Result<()> {
        if let Some(widths) = &self.widths {
            write_columns(out, &cells(&row), widths)?;
            return Ok(());
        }
        self.rows.push(row);
        if self.rows.len() > SORTED {
            self.print(out)?;
        }
        Ok(())
    }

    /// Prints what has been collected.
    fn print(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        if self.widths.is_some() {
            return Ok(());
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_by_cached_key(|row| {
            let end = |place: &Place| (place.address.parse::<std::net::Ipv4Addr>().ok(), place.port);
            (row.vendor.clone(), row.protocol.clone(), end(&row.inside), end(&row.remote), end(&row.egress))
        });
        let mut lines = vec![TITLES.map(String::from)];
        lines.extend(rows.iter().map(cells));
        let widths = column_widths(&lines);
        for line in &lines {
            write_columns(out, line, &widths)?;
        }
        self.widths = Some(widths);
        Ok(())
    }
}

fn cells(row: &Row) -> [String; 10] {
    let end = |place: &Place| format!("{}:{}", place.address, place.port);
    let traffic = |traffic: &Option<Traffic>| {
        traffic.as_ref().map_or_else(|| "-".into(), |count| format!("{}/{}", count.packets, count.bytes))
    };
    let state = if row.orphan { format!("{} (orphan)", row.state) } else { row.state.into() };
    let expires = if row.expires_in_s > 0 { format!("{}s", row.expires_in_s) } else { "ended".into() };
    [
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
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::assert_help_names;

    fn a_row(port: u16) -> Row {
        let place = |port| Place { address: "10.0.2.7".into(), port };
        Row {
            vendor: "vendor-a".into(),
            protocol: "tcp".into(),
            inside: place(port),
            remote: place(1),
            egress: place(1),
            state: "established",
            age_s: 1,
            expires_in_s: 1,
            outbound: Some(Traffic { packets: 1, bytes: 1 }),
            inbound: None,
            orphan: true,
        }
    }

    #[test]
    fn help_names_every_field() {
        let document = serde_json::json!({ "version": 1, "flows": [a_row(1)], "unreadable": 0 });
        assert_help_names(JSON_HELP, &document);
    }

    #[test]
    fn few_rows_are_sorted_and_many_are_not_kept() {
        let printed = |count: u16| {
            let mut text = Text { rows: Vec::new(), widths: None };
            let mut out = Vec::new();
            for port in (1..=count).rev() {
                text.add(a_row(port), &mut out).unwrap();
            }
            let kept = text.rows.len();
            text.print(&mut out).unwrap();
            (String::from_utf8(out).unwrap(), kept)
        };
        let (text, _) = printed(3);
        let ports: Vec<_> =
            text.lines().skip(1).map(|line| line.split_whitespace().nth(2).unwrap()).collect();
        assert_eq!(ports, ["10.0.2.7:1", "10.0.2.7:2", "10.0.2.7:3"]);
        let (text, kept) = printed(20_000);
        assert_eq!((text.lines().count(), kept), (20_001, 0));
    }
}
