//! `vpnat who`: which pod was behind an address and port that a vendor has seen, then or now.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use jiff::civil::{Date, DateTime, Time};
use jiff::{SignedDuration, Timestamp, Zoned};
use serde::Serialize;
use vpnat_common::layout::flow::kind;

use super::flows::filter::protocol_number;
use super::flows::names;
use super::{PinOptions, say, say_json};
use crate::config::{Config, FlowLogTarget};
use crate::datapath::clock::{self, PROBE_CLOCK};
use crate::datapath::flows::{Flow, protocol_name, visit};
use crate::datapath::maps::Table;
use crate::datapath::pins::Pins;
use crate::flow_log::all_of;
use crate::flow_log::record::{End, Record, Tuple, What};
use crate::waiting::Waiting;

/// `who` when nobody had the address and port.
const NOBODY_HAD_IT: u8 = 4;

/// The shape of the JSON. A test compares it with what is printed.
pub const JSON_HELP: &str =
    "Print JSON. Fields are added over time; `version` is raised when one is renamed or removed.

{ version, address, port, from, to, missing,
  flows: [{ vendor, protocol, inside: { address, port }, egress: { address, port }, remote: { address, port },
            state, started, ended, reason }] }

`from` and `to`: the time that was asked for. `ended` and `reason` are null while the flow goes on, or if the log does not
say. `missing`: records that the log says it lost; if it is not 0, the answer may lack flows.";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// What the vendor saw, ADDRESS:PORT.
    #[arg(value_name = "ADDRESS:PORT", value_parser = end)]
    seen: SocketAddrV4,
    /// When: 14:03, 14:03:20 (today, or yesterday if that is yet to come), 2026-11-25T14:03, or RFC 3339 with a zone. Without
    /// one, in this machine's time zone. [default: now]
    #[arg(long, value_name = "TIME", value_parser = |text: &str| Span::parse(text, &Zoned::now()))]
    at: Option<Span>,
    /// Of this protocol only: tcp, udp, icmp or a number.
    #[arg(long, value_parser = protocol_number)]
    protocol: Option<u8>,
    /// Towards this destination only: the same port may serve several.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = end)]
    remote: Option<SocketAddrV4>,
    /// Read this log, and its rotated files, instead of the configured one; `-`: standard input, as from
    /// `journalctl -t vpnat-flow -o cat`.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Print JSON; its shape is in --help.
    #[arg(long, long_help = JSON_HELP)]
    json: bool,
    #[command(flatten)]
    pins: PinOptions,
}

/// From the first moment to the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    from: Timestamp,
    to: Timestamp,
}

impl Span {
    /// What somebody means who writes `text` at `now`: as long as the smallest unit that they wrote.
    fn parse(text: &str, now: &Zoned) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no time: write 14:03, 2026-11-25T14:03 or 2026-11-25T14:03:20Z");
        let seconds = text.rsplit(['T', ' ']).next().is_some_and(|time| {
            time.split(['Z', '+']).next().is_some_and(|time| time.matches(':').count() >= 2)
        });
        let length = SignedDuration::from_secs(if seconds { 1 } else { 60 });
        let from = if let Ok(moment) = text.parse::<Timestamp>() {
            moment
        } else if text.contains(['T', ' ']) || text.parse::<Date>().is_ok_and(|_| text.contains('-')) {
            let local: DateTime = text.parse().map_err(|_| wrong())?;
            local.to_zoned(now.time_zone().clone()).map_err(|_| wrong())?.timestamp()
        } else {
            let time: Time = text.parse().map_err(|_| wrong())?;
            let at =
                |date: Date| date.to_datetime(time).to_zoned(now.time_zone().clone()).map_err(|_| wrong());
            let today = at(now.date())?;
            if today > *now { at(now.date().yesterday().map_err(|_| wrong())?)? } else { today }.timestamp()
        };
        let to = from.checked_add(length).map_err(|_| wrong())?;
        Ok(Self { from, to })
    }

    /// This second.
    fn now() -> Self {
        let now = Timestamp::now();
        Self { from: now, to: now }
    }
}

/// A flow that had the address and port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    flow: Tuple,
    started: Timestamp,
    ended: Option<Timestamp>,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Document {
    /// Raised when a field is renamed or removed.
    version: u32,
    address: Ipv4Addr,
    port: u16,
    from: Timestamp,
    to: Timestamp,
    /// Records that the log says it lost.
    missing: u64,
    flows: Vec<Found>,
}

/// What is looked for.
struct Question {
    seen: SocketAddrV4,
    span: Span,
    protocol: Option<String>,
    remote: Option<SocketAddrV4>,
}

impl Question {
    fn is_about(&self, flow: &Tuple) -> bool {
        SocketAddrV4::new(flow.egress.address, flow.egress.port) == self.seen
            && self.protocol.as_ref().is_none_or(|protocol| *protocol == flow.protocol)
            && self
                .remote
                .is_none_or(|remote| SocketAddrV4::new(flow.remote.address, flow.remote.port) == remote)
    }
}

fn end(text: &str) -> Result<SocketAddrV4, String> {
    text.parse().map_err(|_| format!("`{text}` is no address with a port: write it as in 10.0.1.10:40123"))
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let question = Question {
        seen: options.seen,
        span: options.at.unwrap_or_else(Span::now),
        protocol: options.protocol.map(protocol_name),
        remote: options.remote,
    };
    let mut search = Search::new(&question);
    let mut read = Vec::new();
    let waiting = Waiting::of("reading the flow log");
    for path in logs(options)? {
        let source: Box<dyn Read> = if path.as_os_str() == "-" {
            Box::new(std::io::stdin())
        } else {
            Box::new(File::open(&path).map_err(|error| {
                anyhow::anyhow!("cannot read the flow log ({error}): {}: name one with --log", path.display())
            })?)
        };
        search.read(BufReader::new(source))?;
        read.push(path);
    }
    let pins = options.pins.pins()?;
    let live = live(&pins, &question);
    drop(waiting);
    if let (Err(error), true) = (&live, read.is_empty()) {
        anyhow::bail!("there is no flow log to read, and the flow table cannot be read either: {error}");
    }
    let document = Document {
        version: 1,
        address: *question.seen.ip(),
        port: question.seen.port(),
        from: question.span.from,
        to: question.span.to,
        missing: search.missing,
        flows: search.answer(live.unwrap_or_default()),
    };
    if options.json {
        say_json(&document)?;
    } else {
        print(&document, &read)?;
    }
    Ok(if document.flows.is_empty() { ExitCode::from(NOBODY_HAD_IT) } else { ExitCode::SUCCESS })
}

/// The files to read, oldest first.
fn logs(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(path) = &options.log {
        if path.as_os_str() == "-" {
            return Ok(vec![path.clone()]);
        }
        let files = all_of(path);
        if files.is_empty() {
            anyhow::bail!("there is no such flow log: {}: name an existing one with --log", path.display());
        }
        return Ok(files);
    }
    let default = PathBuf::from(super::DEFAULT_CONFIG);
    let config = match &options.pins.config {
        Some(path) => Config::load(path)?,
        None if default.exists() => Config::load(&default)?,
        None => return Ok(Vec::new()),
    };
    match config.flow_log.and_then(|log| log.json) {
        Some(FlowLogTarget::File(path)) => Ok(all_of(&path)),
        Some(FlowLogTarget::Journal) => {
            say(
                "note: the flow log is in the journal: journalctl -t vpnat-flow -o cat | vpnat who … --log -",
            )?;
            Ok(Vec::new())
        }
        _ => Ok(Vec::new()),
    }
}

/// Flows of now that have the address and port.
fn live(pins: &Pins, question: &Question) -> anyhow::Result<Vec<Found>> {
    let names = names(pins)?;
    let now = clock::now(&pins.program(PROBE_CLOCK))?;
    let table = Table::flows(pins)?;
    let mut found = Vec::new();
    let wanted = |flow: &Flow| question.is_about(&Tuple::of(flow, String::new())) && flow.expires_in(now) > 0;
    visit(&table, kind::FLOW, wanted, |flow| {
        let age = SignedDuration::from_secs(flow.age(now).into());
        let name = super::flows::vendor_name(&names, flow.vendor());
        let started = Timestamp::now().checked_sub(age)?;
        found.push(Found { flow: Tuple::of(&flow, name), started, ended: None, reason: None });
        anyhow::Ok(())
    })?;
    Ok(found)
}

/// Identifies a flow among those with the same egress address and port.
type Key = (String, End, End);

fn key(flow: &Tuple) -> Key {
    (flow.protocol.clone(), flow.inside, flow.remote)
}

/// A walk through the log, which keeps only what is looked for.
struct Search<'q> {
    question: &'q Question,
    /// As every line in question has it.
    address: String,
    open: HashMap<Key, Found>,
    over: Vec<Found>,
    missing: u64,
}

impl<'q> Search<'q> {
    fn new(question: &'q Question) -> Self {
        let address = format!("\"{}\"", question.seen.ip());
        Self { question, address, open: HashMap::new(), over: Vec::new(), missing: 0 }
    }

    fn read(&mut self, mut log: impl BufRead) -> anyhow::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if log.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let Ok(text) = std::str::from_utf8(&line) else { continue };
            if !text.contains(&self.address) && !text.contains("\"lost\"") {
                continue;
            }
            // Half a line of an agent that was killed.
            let Ok(record) = serde_json::from_str::<Record>(text) else { continue };
            self.take(record);
        }
    }

    fn take(&mut self, record: Record) {
        self.missing += record.records.unwrap_or(0);
        let Some(flow) = record.flow.filter(|flow| self.question.is_about(flow)) else { return };
        let key = key(&flow);
        match record.event {
            What::Start => {
                let found = Found { flow, started: record.time, ended: None, reason: None };
                // Of an older one with the same ends the log has no end.
                self.over.extend(
                    self.open.insert(key, found).map(|old| Found { ended: Some(record.time), ..old }),
                );
            }
            What::End => {
                let Some(end) = record.ended else { return };
                let started = self.open.remove(&key).map_or(end.started, |start| start.started);
                self.over.push(Found { flow, started, ended: Some(record.time), reason: Some(end.reason) });
            }
            _ => {}
        }
    }

    /// Those of the time in question, and of `live` those that the log does not have.
    fn answer(mut self, live: Vec<Found>) -> Vec<Found> {
        for found in live {
            // The log's start is the more exact one.
            self.open.entry(key(&found.flow)).or_insert(found);
        }
        let span = self.question.span;
        let mut flows: Vec<Found> = self
            .over
            .into_iter()
            .chain(self.open.into_values())
            .filter(|found| found.started <= span.to && found.ended.is_none_or(|ended| ended >= span.from))
            .collect();
        flows.sort_by_key(|found| found.started);
        flows
    }
}

fn print(document: &Document, read: &[PathBuf]) -> std::io::Result<()> {
    let seen = SocketAddrV4::new(document.address, document.port);
    let local = |moment: Timestamp| {
        moment.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    };
    for found in &document.flows {
        let flow = &found.flow;
        let end = match (&found.ended, &found.reason) {
            (Some(ended), Some(reason)) => format!("to {} ({reason})", local(*ended)),
            (Some(ended), None) => format!("to {} at the latest", local(*ended)),
            (None, _) => "and no end is known".into(),
        };
        say(format_args!(
            "{seen} was {}:{} ({} to {}:{}, vendor {}) from {} {end}",
            flow.inside.address,
            flow.inside.port,
            flow.protocol,
            flow.remote.address,
            flow.remote.port,
            flow.vendor,
            local(found.started),
        ))?;
    }
    if document.flows.is_empty() {
        say(format_args!("nobody had {seen} at {}", local(document.from)))?;
    }
    if document.missing > 0 {
        say(format_args!("note: the log lacks {} records that were lost", document.missing))?;
    }
    if read.is_empty() {
        say("note: no flow log was read, so only flows of now are known")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::assert_help_names;
    use crate::flow_log::record::{Ended, RECORD_VERSION, Traffic};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn tuple(inside: u16) -> Tuple {
        let end = |text: &str, port| End { address: text.parse().unwrap(), port };
        Tuple {
            vendor: "vendor-a".into(),
            protocol: "tcp".into(),
            inside: end("10.0.2.7", inside),
            egress: end("10.0.1.10", 40123),
            remote: end("192.0.2.10", 443),
            state: "init".into(),
        }
    }

    fn start(inside: u16, time: &str) -> Record {
        let flow = Some(tuple(inside));
        Record {
            version: RECORD_VERSION,
            time: at(time),
            event: What::Start,
            flow,
            ended: None,
            records: None,
        }
    }

    fn end(inside: u16, started: &str, time: &str) -> Record {
        let traffic = Traffic { packets: 1, bytes: 100 };
        let ended = Ended {
            started: at(started),
            duration_s: 1,
            reason: "closed".into(),
            outbound: traffic,
            inbound: traffic,
        };
        Record { event: What::End, time: at(time), ended: Some(ended), ..start(inside, time) }
    }

    fn ask(records: &[Record], time: &str) -> Vec<u16> {
        let now: Zoned = "2026-11-25T18:00:00[UTC]".parse().unwrap();
        let question = Question {
            seen: "10.0.1.10:40123".parse().unwrap(),
            span: Span::parse(time, &now).unwrap(),
            protocol: None,
            remote: None,
        };
        let mut search = Search::new(&question);
        let mut text: Vec<String> =
            records.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
        // What an agent leaves that is killed while it writes, and other people's flows.
        text.insert(1, "{\"version\":1,\"time\":\"2026-11-25T14:0".into());
        search.read(text.join("\n").as_bytes()).unwrap();
        search.answer(Vec::new()).iter().map(|found| found.flow.inside.port).collect()
    }

    #[test]
    fn the_log_says_who_it_was() {
        let log = [
            start(1, "2026-11-25T14:00:00Z"),
            end(1, "2026-11-25T14:00:00Z", "2026-11-25T14:02:30Z"),
            start(2, "2026-11-25T14:02:50Z"),
            end(2, "2026-11-25T14:02:50Z", "2026-11-25T14:03:10Z"),
            // Its start is older than the log.
            end(3, "2026-11-25T13:00:00Z", "2026-11-25T15:00:00Z"),
            start(4, "2026-11-25T16:00:00Z"),
        ];
        assert_eq!(ask(&log, "14:03"), [3, 2]);
        assert_eq!(ask(&log, "14:02:40"), [3]);
        assert_eq!(ask(&log, "14:01"), [3, 1]);
        assert_eq!(ask(&log, "2026-11-25T17:00:00Z"), [4], "its end is not known");
        assert!(ask(&log, "12:00").is_empty());
    }

    #[test]
    fn times_are_written_in_many_ways() {
        let now: Zoned = "2026-11-25T18:00:00[Europe/Berlin]".parse().unwrap();
        for (text, from, seconds) in [
            ("14:03", "2026-11-25T13:03:00Z", 60),
            ("14:03:20", "2026-11-25T13:03:20Z", 1),
            ("19:00", "2026-11-24T18:00:00Z", 60),
            ("2026-11-20T14:03", "2026-11-20T13:03:00Z", 60),
            ("2026-11-20 14:03:20", "2026-11-20T13:03:20Z", 1),
            ("2026-11-20T14:03:20Z", "2026-11-20T14:03:20Z", 1),
            ("2026-11-20T14:03Z", "2026-11-20T14:03:00Z", 60),
            ("2026-11-20T14:03:20+02:00", "2026-11-20T12:03:20Z", 1),
        ] {
            let span = Span::parse(text, &now).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                (span.from, span.to.as_second() - span.from.as_second()),
                (at(from), seconds),
                "{text}"
            );
        }
        for text in ["", "noon", "25:00", "2026-13-01T00:00"] {
            assert!(Span::parse(text, &now).is_err(), "{text}");
        }
    }

    #[test]
    fn help_names_every_field() {
        let found = Found { flow: tuple(1), started: Timestamp::UNIX_EPOCH, ended: None, reason: None };
        let (from, to) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let address = Ipv4Addr::new(10, 0, 1, 10);
        let document = Document { version: 1, address, port: 1, from, to, missing: 0, flows: vec![found] };
        assert_help_names(JSON_HELP, &document);
    }
}
