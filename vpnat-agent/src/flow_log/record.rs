//! A record: an event in words, with the time on the clock on the wall.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use vpnat_common::layout::event::{Cause, EVENT_VERSION, FlowEvent, Kind, Tally};
use vpnat_common::layout::flow::Phase;

use crate::datapath::flows::{Endpoint, Flow, protocol_name};

/// Version of the lines; raised when a field is renamed or removed.
pub const RECORD_VERSION: u32 = 1;

/// The shape of a line. A test compares it with what is written.
pub const LINE_HELP: &str = "One JSON object per line. Fields are added over time; `version` is raised when one is renamed or removed.

{ version, time, event: start|end|ports-exhausted|table-full|lost,
  vendor, protocol: tcp|udp|icmp|NUMBER,
  inside: { address, port }, egress: { address, port }, remote: { address, port },
  started, duration_s, reason: idle|closed|reset|unanswered|killed|policy|recycled|leftover,
  state, outbound: { packets, bytes }, inbound: { packets, bytes },
  records }

`time`: when it happened, RFC 3339, UTC. `port`: the query identifier of an ICMP flow. `started`, `duration_s`, `reason`,
`outbound` and `inbound` stand in `end` only; `started` is right to the second. `state`: the flow's, as in `flows list`. The
`egress` of `ports-exhausted` and `table-full` has port 0: there was none. `lost` says that so many `records` are missing at
about this time, and has none of the other fields.";

/// An end of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct End {
    /// Address.
    pub address: Ipv4Addr,
    /// Port or query identifier.
    pub port: u16,
}

/// What was sent one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP header included.
    pub bytes: u64,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A flow was made.
    Start,
    /// A flow ended.
    End,
    /// A flow was refused for want of a port.
    PortsExhausted,
    /// A flow was refused for want of room.
    TableFull,
    /// Records are missing.
    Lost,
}

/// A line of the flow log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    pub event: What,
    /// The flow; none of `lost`.
    #[serde(flatten)]
    pub flow: Option<Tuple>,
    /// What an end tells besides.
    #[serde(flatten)]
    pub ended: Option<Ended>,
    /// How many records are missing, of `lost`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
}

/// Who talks to whom, as whom.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tuple {
    /// The vendor's name.
    pub vendor: String,
    /// `tcp`, `udp`, `icmp` or a number.
    pub protocol: String,
    /// The pod's end.
    pub inside: End,
    /// What the vendor sees of it.
    pub egress: End,
    /// The vendor's end.
    pub remote: End,
    /// The state's name.
    pub state: String,
}

impl Tuple {
    /// Of a flow of the table.
    pub fn of(flow: &Flow, vendor: String) -> Self {
        let end = |end: &Endpoint| End { address: end.address.into(), port: end.port.number };
        Self {
            vendor,
            protocol: protocol_name(flow.protocol),
            inside: end(&flow.inside),
            egress: end(&flow.egress),
            remote: end(&flow.remote),
            state: flow.state().to_owned(),
        }
    }
}

/// What the end of a flow tells.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// When the flow was made, right to the second.
    pub started: Timestamp,
    /// Its age, seconds.
    pub duration_s: u32,
    /// Why it ended.
    pub reason: String,
    /// Pod to vendor.
    pub outbound: Traffic,
    /// Vendor to pod.
    pub inbound: Traffic,
}

/// The difference between the clock on the wall and CLOCK_MONOTONIC, now.
pub fn wall_offset() -> SignedDuration {
    use nix::time::{ClockId, clock_gettime};
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    let since_epoch = Timestamp::now().as_duration();
    since_epoch - SignedDuration::try_from(monotonic).unwrap_or_default()
}

/// An event that could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// As it was written.
    pub raw: FlowEvent,
    /// What it tells.
    pub kind: Kind,
    /// Of ends: why.
    pub cause: Option<Cause>,
    /// When it happened.
    pub time: Timestamp,
}

impl Event {
    /// Reads what the datapath has written; `None` if this agent does not understand it. `offset` is [`wall_offset`].
    pub fn read(bytes: &[u8], offset: SignedDuration) -> Option<Self> {
        if bytes.len() != size_of::<FlowEvent>() {
            return None;
        }
        // SAFETY: the length is compared; `FlowEvent` is plain data that takes any bytes, and the read is unaligned.
        let raw = unsafe { bytes.as_ptr().cast::<FlowEvent>().read_unaligned() };
        if raw.version != EVENT_VERSION {
            return None;
        }
        let kind = Kind::from_byte(raw.kind)?;
        let cause = Cause::from_byte(raw.cause);
        if kind == Kind::Ended && cause.is_none() {
            return None;
        }
        let since_boot = SignedDuration::try_from(Duration::from_nanos(raw.time_ns)).ok()?;
        let time = Timestamp::from_duration(offset + since_boot).ok()?;
        Some(Self { raw, kind, cause, time })
    }

    /// Seconds since the flow was made.
    pub fn age_s(&self) -> u32 {
        (self.raw.now.seconds.wrapping_sub(self.raw.created.seconds) as i32).max(0) as u32
    }

    /// Why the flow ended, if it did.
    pub fn reason(&self) -> Option<&'static str> {
        Tally::ended(self.cause?, self.raw.phase).reason()
    }

    /// The event in words; `names` has the vendors' names by slot.
    pub fn record(&self, names: &HashMap<u8, String>) -> Record {
        let raw = &self.raw;
        let end = |address: vpnat_common::addr::Ip4, port: vpnat_common::addr::Port| End {
            address: address.into(),
            port: port.number,
        };
        let flow = Tuple {
            vendor: names.get(&raw.vendor).cloned().unwrap_or_else(|| format!("slot-{}", raw.vendor)),
            protocol: protocol_name(raw.protocol),
            inside: end(raw.inside, raw.inside_port),
            egress: end(raw.egress, raw.egress_port),
            remote: end(raw.remote, raw.remote_port),
            state: Phase::from_byte(raw.phase).map_or("unknown", Phase::name).to_owned(),
        };
        let ended = self.reason().map(|reason| Ended {
            started: self
                .time
                .checked_sub(SignedDuration::from_secs(self.age_s().into()))
                .unwrap_or(Timestamp::MIN),
            duration_s: self.age_s(),
            reason: reason.to_owned(),
            outbound: Traffic { packets: raw.out_packets, bytes: raw.out_bytes },
            inbound: Traffic { packets: raw.in_packets, bytes: raw.in_bytes },
        });
        let event = match self.kind {
            Kind::Started => What::Start,
            Kind::Ended => What::End,
            Kind::PortsExhausted => What::PortsExhausted,
            Kind::TableFull => What::TableFull,
        };
        Record { version: RECORD_VERSION, time: self.time, event, flow: Some(flow), ended, records: None }
    }
}

impl Record {
    /// Says that `records` are missing.
    pub fn lost(records: u64) -> Self {
        Self {
            version: RECORD_VERSION,
            time: Timestamp::now(),
            event: What::Lost,
            flow: None,
            ended: None,
            records: Some(records),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use vpnat_common::addr::{Ip4, Port};
    use vpnat_common::layout::clock::Moment;
    use vpnat_common::layout::flow::protocol;

    /// An event of the flow 10.0.2.7:40000 to 192.0.2.10:443 as 10.0.1.10:40123, seven seconds old.
    pub fn event(kind: Kind, cause: Option<Cause>) -> FlowEvent {
        FlowEvent {
            time_ns: 1_500_000_000,
            out_bytes: 1000,
            out_packets: 10,
            in_bytes: 2000,
            in_packets: 20,
            inside: Ip4::new(10, 0, 2, 7),
            egress: Ip4::new(10, 0, 1, 10),
            remote: Ip4::new(192, 0, 2, 10),
            now: Moment::new(3),
            created: Moment::new(3u32.wrapping_sub(7)),
            inside_port: Port::new(40000),
            egress_port: Port::new(40123),
            remote_port: Port::new(443),
            protocol: protocol::TCP,
            vendor: 1,
            version: EVENT_VERSION,
            kind: kind as u8,
            cause: cause.map_or(0, |cause| cause as u8),
            phase: Phase::TcpBothFin as u8,
        }
    }

    pub fn bytes(event: &FlowEvent) -> &[u8] {
        // SAFETY: plain data without implicit padding, borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(event).cast(), size_of::<FlowEvent>()) }
    }

    pub fn read(kind: Kind, cause: Option<Cause>) -> Event {
        // 2026-11-25T14:03:00Z.
        Event::read(bytes(&event(kind, cause)), SignedDuration::from_secs(1_795_615_380)).unwrap()
    }

    fn names() -> HashMap<u8, String> {
        HashMap::from([(1, "vendor-a".into())])
    }

    #[test]
    fn an_end_in_words() {
        let line = serde_json::to_string(&read(Kind::Ended, Some(Cause::Expired)).record(&names())).unwrap();
        assert_eq!(
            line,
            r#"{"version":1,"time":"2026-11-25T14:03:01.5Z","event":"end","vendor":"vendor-a","protocol":"tcp","inside":{"address":"10.0.2.7","port":40000},"egress":{"address":"10.0.1.10","port":40123},"remote":{"address":"192.0.2.10","port":443},"state":"both-fin","started":"2026-11-25T14:02:54.5Z","duration_s":7,"reason":"closed","outbound":{"packets":10,"bytes":1000},"inbound":{"packets":20,"bytes":2000}}"#
        );
        let back: Record = serde_json::from_str(&line).unwrap();
        assert_eq!(back, read(Kind::Ended, Some(Cause::Expired)).record(&names()));
    }

    #[test]
    fn every_line_can_be_read_again_and_its_fields_are_documented() {
        for record in [
            read(Kind::Started, None).record(&names()),
            read(Kind::Ended, Some(Cause::Killed)).record(&names()),
            read(Kind::PortsExhausted, None).record(&HashMap::new()),
            read(Kind::TableFull, None).record(&names()),
            Record::lost(7),
        ] {
            let line = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record, "{line}");
            crate::cli::tests::assert_help_names(LINE_HELP, &record);
        }
    }

    #[test]
    fn what_is_not_understood_is_not_guessed() {
        let good = event(Kind::Ended, Some(Cause::Expired));
        let read = |event: &FlowEvent| Event::read(bytes(event), SignedDuration::ZERO);
        assert!(read(&good).is_some());
        assert!(read(&FlowEvent { version: EVENT_VERSION + 1, ..good }).is_none());
        assert!(read(&FlowEvent { kind: 9, ..good }).is_none());
        assert!(read(&FlowEvent { cause: 0, ..good }).is_none());
        assert!(Event::read(&bytes(&good)[1..], SignedDuration::ZERO).is_none());
    }
}
