//! `vpnat trace`.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufWriter, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use vpnat_common::addr::{Ip4, Port};
use vpnat_common::layout::flow::FlowKey;
use vpnat_common::layout::outcome::Fate;

use super::PinOptions;
use crate::datapath::flows::protocol_name;
use crate::datapath::kernel;
use crate::datapath::maps::StateMaps;
use crate::explain::packet::Protocol;
use crate::flow_log::record::wall_offset;
use crate::metrics::fate_name;
use crate::netlink::links;
use crate::stop::Stop;
use crate::trace::event::{Decided, Events, Missed};
use crate::trace::request::{End, HookName, LONGEST_S, Request, Wanted, reason, verdict};
use crate::trace::wire::{self, Running};

/// How long one wait lasts, milliseconds: a signal between two of them is noticed then.
const PATIENCE_MS: u16 = 200;

/// Lines printed before the output is flushed and the end looked for.
const BATCH: usize = 1024;

/// Version of the lines; raised when a field is renamed or removed.
const VERSION: u32 = 1;

/// The shape of the JSON. A test compares it with what is printed.
pub(super) const JSON_HELP: &str =
    "Print one JSON object per line. Fields are added over time; `version` is raised when one is renamed or removed.

{ version, time, hook: xdp|tc-ingress|tc-egress|tc-guard, device, vendor, protocol: tcp|udp|icmp|NUMBER,
  before: { from: { address, port }, to: { address, port } },
  after:  { from: { address, port }, to: { address, port } } or null,
  verdict: translated|passed|dropped|held, reason, bytes }

`time`: RFC 3339, UTC. `vendor`: null for packets that are no vendor's. `port`: the identifier of an ICMP query; null where
there is none or it cannot be read. `after`: null unless the hook has translated the packet. `reason`: an outcome.
`bytes`: from the IP header on, as the packet came; a GSO packet counts as one.";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only this vendor's packets.
    #[arg(long, value_name = "NAME")]
    vendor: Option<String>,
    /// Only packets from here, before translation or after it: 10.0.2.7, 10.0.2.0/24, 10.0.2.7:40000 or :443.
    #[arg(long, value_name = "END")]
    from: Option<End>,
    /// Only packets to here, likewise.
    #[arg(long, value_name = "END")]
    to: Option<End>,
    /// Only packets from or to here, likewise: a pod's, both ways.
    #[arg(long, value_name = "END")]
    host: Option<End>,
    /// Only this protocol.
    #[arg(long, value_enum)]
    proto: Option<Protocol>,
    /// Only at this hook: xdp, tc-ingress, tc-egress or tc-guard. Several are alternatives, as of --verdict and --reason.
    #[arg(long, value_name = "HOOK", value_delimiter = ',')]
    hook: Vec<HookName>,
    /// Only with this verdict: translated, passed, dropped or held.
    #[arg(long, value_name = "VERDICT", value_delimiter = ',', value_parser = verdict)]
    verdict: Vec<Wanted>,
    /// Only with this reason, an outcome such as source-not-allowed. Packets that vpnat has nothing to do with are shown only by
    /// `--reason not-ours`.
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = reason)]
    reason: Vec<Wanted>,
    /// End after so many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so long, at most an hour.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=i64::from(LONGEST_S)))]
    seconds: u32,
    /// Most packets that are told of in a second; more are counted.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=65535))]
    rate: u32,
    /// Print JSON, one object per line; its shape is in --help.
    #[arg(long, long_help = JSON_HELP)]
    json: bool,
    #[command(flatten)]
    pins: PinOptions,
}

impl Options {
    fn request(&self) -> Request {
        Request {
            vendor: self.vendor.clone(),
            from: self.from,
            to: self.to,
            host: self.host,
            protocol: self.proto.map(Protocol::number),
            hooks: self.hook.clone(),
            outcomes: [&self.verdict[..], &self.reason].concat(),
            per_second: self.rate,
            seconds: self.seconds,
        }
    }
}

#[derive(Debug, Serialize)]
struct Line {
    version: u32,
    time: Timestamp,
    hook: &'static str,
    device: String,
    vendor: Option<String>,
    protocol: String,
    before: Ends,
    after: Option<Ends>,
    verdict: &'static str,
    reason: &'static str,
    bytes: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Ends {
    from: Place,
    to: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Place {
    address: Ipv4Addr,
    port: Option<u16>,
}

impl From<FlowKey> for Ends {
    fn from(key: FlowKey) -> Self {
        let place = |address: Ip4, port: Port| Place {
            address: address.into(),
            port: (port.number != 0).then_some(port.number),
        };
        Self { from: place(key.src, key.src_port), to: place(key.dst, key.dst_port) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.from, self.to)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.to_zoned(TimeZone::system()).strftime("%H:%M:%S%.6f").to_string();
        let (vendor, before) = (self.vendor.as_deref().unwrap_or("-"), self.before);
        let (protocol, bytes) = (&self.protocol, self.bytes);
        write!(f, "{time} {:<10} {:<8} {vendor} {protocol} {before}", self.hook, self.device)?;
        if let Some(after) = self.after {
            write!(f, " => {after}")?;
        }
        write!(f, " {bytes} B: {} ({})", self.verdict, self.reason)
    }
}

/// Names of what events number.
struct Names {
    vendors: HashMap<u8, String>,
    devices: HashMap<u32, String>,
    offset: SignedDuration,
}

impl Names {
    fn device(&mut self, index: u32) -> String {
        if !self.devices.contains_key(&index) {
            // It may have come after the others.
            let links = links::dump().unwrap_or_default();
            self.devices.extend(links.into_iter().map(|link| (link.index, link.name)));
        }
        // And it may have gone.
        self.devices.entry(index).or_insert_with(|| format!("device-{index}")).clone()
    }

    fn line(&mut self, decided: &Decided) -> Line {
        let Decided { raw, vendor, hook, outcome } = decided;
        let fate = outcome.fate();
        let name = self.vendors.get(vendor).cloned();
        let since_boot = SignedDuration::from_nanos(i64::try_from(raw.time_ns).unwrap_or(i64::MAX));
        Line {
            version: VERSION,
            time: Timestamp::from_duration(self.offset + since_boot).unwrap_or_default(),
            hook: hook.name(),
            device: self.device(raw.ifindex),
            vendor: (*vendor != 0).then(|| name.unwrap_or_else(|| format!("slot-{vendor}"))),
            protocol: protocol_name(raw.before.protocol),
            before: raw.before.into(),
            after: (fate == Fate::Translated).then(|| raw.after.into()),
            verdict: fate_name(fate),
            reason: outcome.name(),
            bytes: raw.bytes,
        }
    }
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let (pins, run_dir) = (options.pins.pins()?, options.pins.run_dir()?);
    kernel::check_privileges()?;
    let vendors = StateMaps::open(&pins)?.vendors()?;
    let stop = Stop::on_signals()?;
    let mut names = Names {
        vendors: vendors.into_iter().map(|vendor| (vendor.slot, vendor.name)).collect(),
        devices: HashMap::new(),
        offset: wall_offset(),
    };
    eprintln!("vpnat: the agent loads the programs that tell");
    let (mut running, readable) = match wire::begin(&run_dir, &options.request())? {
        Ok(begun) => begun,
        Err(errors) => {
            for error in errors {
                eprintln!("vpnat: error: {error}");
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut events = Events::open(readable)?;
    eprintln!("vpnat: tracing, for {} s at most; end it with ^C", options.seconds);
    let (shown, why) = show(&mut running, &mut events, &mut names, options, &stop)?;
    let Missed { suppressed, lost } = events.missed()?;
    eprintln!(
        "vpnat: {shown} shown, {suppressed} above the limit of {} a second, {lost} lost because this was too slow; {why}",
        options.rate
    );
    Ok(ExitCode::SUCCESS)
}

/// Prints events until it is told to end; how many, and why it ended.
fn show(
    running: &mut Running,
    events: &mut Events,
    names: &mut Names,
    options: &Options,
    stop: &Stop,
) -> anyhow::Result<(u64, String)> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut shown = 0;
    let mut ended = None;
    loop {
        let mut printed = 0;
        while printed < BATCH
            && let Some(decided) = events.take()
        {
            let line = names.line(&decided);
            if options.json {
                serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
                writeln!(out)?;
            } else {
                writeln!(out, "{line}")?;
            }
            printed += 1;
            shown += 1;
            if options.count.is_some_and(|count| shown >= count) {
                out.flush()?;
                return Ok((shown, "as many as were asked for".into()));
            }
        }
        out.flush()?;
        if stop.is_set() {
            return Ok((shown, "ended by a signal".into()));
        }
        if printed == BATCH {
            continue;
        }
        // Everything that came before the end has been read.
        if let Some(why) = ended {
            return Ok((shown, why));
        }
        let mut waiting =
            [PollFd::new(events.as_fd(), PollFlags::POLLIN), PollFd::new(running.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(PATIENCE_MS)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let [_, told] = waiting;
        if told.any() == Some(true) {
            ended = Some(running.why_ended().unwrap_or_else(|_| "the agent has gone".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::assert_help_names;
    use vpnat_common::layout::flow::protocol;
    use vpnat_common::layout::outcome::{Hook, Outcome, counter_index};
    use vpnat_common::layout::trace::TraceEvent;

    fn line(outcome: Outcome) -> Line {
        let key = |src, port| {
            let (vendor, https) = (Ip4::new(192, 0, 2, 10), Port::new(443));
            FlowKey::new(src, Port::new(port), vendor, https, protocol::TCP)
        };
        let raw = TraceEvent {
            time_ns: 1_500_000_000,
            before: key(Ip4::new(10, 0, 2, 7), 40000),
            after: key(Ip4::new(10, 0, 1, 10), 41000),
            counter: counter_index(1, Hook::TcEgress, outcome as u32),
            ifindex: 3,
            bytes: 60,
            session: 1,
        };
        // SAFETY: plain data without padding.
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const raw).cast::<u8>(), size_of::<TraceEvent>()) };
        let decided = Decided::read(bytes).expect("an event");
        assert_eq!(Decided::read(&bytes[1..]), None);
        let mut names = Names {
            vendors: [(1, "vendor-a".into())].into(),
            devices: [(3, "eth0".into())].into(),
            offset: SignedDuration::ZERO,
        };
        names.line(&decided)
    }

    #[test]
    fn help_names_every_field() {
        assert_help_names(JSON_HELP, &line(Outcome::Outbound));
    }

    #[test]
    fn a_line_shows_before_and_after_and_why() {
        let text = |outcome| line(outcome).to_string().split_once(' ').expect("a time").1.to_owned();
        assert_eq!(
            text(Outcome::Outbound),
            "tc-egress  eth0     vendor-a tcp 10.0.2.7:40000 > 192.0.2.10:443 => 10.0.1.10:41000 > 192.0.2.10:443 60 B: \
             translated (outbound)"
        );
        assert_eq!(
            text(Outcome::SourceNotAllowed),
            "tc-egress  eth0     vendor-a tcp 10.0.2.7:40000 > 192.0.2.10:443 60 B: dropped (source-not-allowed)"
        );
        assert_eq!(line(Outcome::Unsolicited).time.to_string(), "1970-01-01T00:00:01.5Z");
    }
}
