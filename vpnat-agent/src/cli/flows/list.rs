//! `vpnat flows list`: flows, and the ports that pods own towards everybody.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vpnat_common::layout::clock::Moment;
use vpnat_common::layout::flow::{FlowEntry, kind};

use super::super::{PinOptions, column_widths, write_columns};
use super::filter::Filter;
use super::{Place, names, vendor_name};
use crate::datapath::clock::{self, PROBE_CLOCK};
use crate::datapath::flows::{Flow, protocol_name, visit};
use crate::datapath::maps::Table;
use crate::waiting::Output;

/// The shape of the JSON. A test compares it with what is printed.
pub const JSON_HELP: &str =
    "Print JSON. Fields are added over time; `version` is raised when one is renamed or removed.

{ version,
  flows: [{ vendor, protocol: tcp|udp|icmp|NUMBER,
            inside: { address, port }, remote: { address, port }, egress: { address, port },
            state: udp|icmp-query|init|established|client-fin|server-fin|both-fin|trans,
            age_s, expires_in_s, orphan,
            outbound: { packets, bytes } or null, inbound: { packets, bytes } or null }],
  unreadable,
  bindings: [{ vendor, protocol, inside: { address, port }, egress: { address, port },
               flows: NUMBER or null, age_s, expires_in_s, orphan }] }

In no order, one flow per line. `unreadable`: entries whose bytes make no sense. `port`: the query identifier of an ICMP
flow. `expires_in_s`: not positive once the flow has ended and waits to be swept. `orphan`: one half is missing, and its
counters are null. `bindings`: where mapping is endpoint-independent, the ports that pods' ends own towards everybody, one
per line, and by how many flows each is used; none where flows to a `remote` or in a `state` are asked for.";

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

/// A port that a pod's end owns towards everybody.
#[derive(Debug, Serialize)]
struct Binding {
    vendor: String,
    protocol: String,
    inside: Place,
    egress: Place,
    /// Flows that use it; unknown to an orphan.
    flows: Option<u32>,
    age_s: u32,
    /// Not positive once it has ended and waits to be swept.
    expires_in_s: i32,
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
    let owned = |found: &Flow| options.filter.wants_binding(found, &names);
    let row = |flow: &Flow| row(flow, now, vendor_name(&names, flow.vendor()));
    let binding = |found: &Flow| binding(found, now, vendor_name(&names, found.vendor()));
    let mut out = BufWriter::new(Output::while_waiting_for("walking the flow table"));
    if options.json {
        write!(out, "{{\"version\":1,\"flows\":[")?;
        let mut list = Lines::default();
        let besides = visit(&table, kind::FLOW, wanted, |flow| list.add(&row(&flow), &mut out))?;
        write!(out, "\n],\"unreadable\":{},\"bindings\":[", besides.unreadable)?;
        // Most tables have none, and a walk over a large one takes its time.
        if besides.others {
            let mut list = Lines::default();
            visit(&table, kind::BINDING, owned, |found| list.add(&binding(&found), &mut out))?;
        }
        writeln!(out, "\n]}}")?;
    } else {
        let mut text = Text::default();
        let besides = visit(&table, kind::FLOW, wanted, |flow| text.add(cells(&row(&flow)), &mut out))?;
        if besides.others {
            visit(&table, kind::BINDING, owned, |found| text.add(cells_of(&binding(&found)), &mut out))?;
        }
        text.print(&mut out)?;
        if besides.unreadable > 0 {
            writeln!(out, "{} entries could not be read", besides.unreadable)?;
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

fn binding(found: &Flow, now: Moment, vendor: String) -> Binding {
    Binding {
        vendor,
        protocol: protocol_name(found.protocol),
        inside: Place::of(&found.inside),
        egress: Place::of(&found.egress),
        flows: found.users(),
        age_s: found.age(now),
        expires_in_s: found.expires_in(now),
        orphan: found.is_orphan(),
    }
}

/// The elements of a JSON list, each on a line of its own.
#[derive(Default)]
struct Lines {
    some: bool,
}

impl Lines {
    fn add(&mut self, element: &impl Serialize, out: &mut impl Write) -> anyhow::Result<()> {
        write!(out, "{}", if self.some { ",\n" } else { "\n" })?;
        self.some = true;
        // A closed reader must stay recognisable as such.
        serde_json::to_writer(out, element).map_err(std::io::Error::from)?;
        Ok(())
    }
}

/// A line's cells with what it is sorted by.
type Sorted = (Order, [String; 10]);
type Order = (String, String, End, End, End);
type End = (Option<std::net::Ipv4Addr>, u16);

/// Rows for people: sorted and in columns as long as they are few.
#[derive(Default)]
struct Text {
    rows: Vec<Sorted>,
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
    fn add(&mut self, row: Sorted, out: &mut impl Write) -> anyhow::Result<()> {
        if let Some(widths) = &self.widths {
            write_columns(out, &row.1, widths)?;
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
        rows.sort();
        let mut lines = vec![TITLES.map(String::from)];
        lines.extend(rows.into_iter().map(|(_, cells)| cells));
        let widths = column_widths(&lines);
        for line in &lines {
            write_columns(out, line, &widths)?;
        }
        self.widths = Some(widths);
        Ok(())
    }
}

fn end(place: &Place) -> String {
    format!("{}:{}", place.address, place.port)
}

fn by_number(place: &Place) -> End {
    (place.address.parse().ok(), place.port)
}

fn remaining(seconds: i32) -> String {
    if seconds > 0 { format!("{seconds}s") } else { "ended".into() }
}

fn mark_orphan(state: String, orphan: bool) -> String {
    if orphan { format!("{state} (orphan)") } else { state }
}

fn cells(row: &Row) -> Sorted {
    let traffic = |traffic: &Option<Traffic>| {
        traffic.as_ref().map_or_else(|| "-".into(), |count| format!("{}/{}", count.packets, count.bytes))
    };
    let ends = [&row.inside, &row.remote, &row.egress].map(by_number);
    let cells = [
        row.vendor.clone(),
        row.protocol.clone(),
        end(&row.inside),
        end(&row.remote),
        end(&row.egress),
        mark_orphan(row.state.into(), row.orphan),
        format!("{}s", row.age_s),
        remaining(row.expires_in_s),
        traffic(&row.outbound),
        traffic(&row.inbound),
    ];
    ((row.vendor.clone(), row.protocol.clone(), ends[0], ends[1], ends[2]), cells)
}

/// A binding stands before the flows that use it.
fn cells_of(binding: &Binding) -> Sorted {
    let users = binding.flows.map_or_else(|| "-".into(), |count| count.to_string());
    let cells = [
        binding.vendor.clone(),
        binding.protocol.clone(),
        end(&binding.inside),
        "everybody".into(),
        end(&binding.egress),
        mark_orphan(format!("binding of {users}"), binding.orphan),
        format!("{}s", binding.age_s),
        remaining(binding.expires_in_s),
        "-".into(),
        "-".into(),
    ];
    let (inside, egress) = (by_number(&binding.inside), by_number(&binding.egress));
    ((binding.vendor.clone(), binding.protocol.clone(), inside, (None, 0), egress), cells)
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

    fn a_binding(port: u16) -> Binding {
        let Row { vendor, protocol, inside, egress, .. } = a_row(port);
        Binding { vendor, protocol, inside, egress, flows: Some(2), age_s: 1, expires_in_s: 0, orphan: false }
    }

    #[test]
    fn a_binding_stands_before_its_flows() {
        let (mut text, mut out) = (Text::default(), Vec::new());
        for row in [cells(&a_row(7)), cells_of(&a_binding(7)), cells(&a_row(6))] {
            text.add(row, &mut out).unwrap();
        }
        text.print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let words: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1][2], "10.0.2.7:6");
        assert_eq!(words[2][2..8], ["10.0.2.7:7", "everybody", "10.0.2.7:1", "binding", "of", "2"], "{text}");
        assert_eq!(words[2][9], "ended");
        assert_eq!(words[3][2..4], ["10.0.2.7:7", "10.0.2.7:1"]);
    }

    #[test]
    fn help_names_every_field() {
        let bindings = [a_binding(1)];
        let document =
            serde_json::json!({ "version": 1, "flows": [a_row(1)], "unreadable": 0, "bindings": bindings });
        assert_help_names(JSON_HELP, &document);
    }

    #[test]
    fn few_rows_are_sorted_and_many_are_not_kept() {
        let printed = |count: u16| {
            let mut text = Text::default();
            let mut out = Vec::new();
            for port in (1..=count).rev() {
                text.add(cells(&a_row(port)), &mut out).unwrap();
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
