//! Events as IPFIX (RFC 7011) with the NAT fields of RFC 8158, over UDP.
//!
//! UDP has no connection, so the templates are sent again now and then (RFC 7011 section 8.1), and what gets lost on the
//! way shows in the sequence numbers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use vpnat_common::layout::event::{Cause, Kind};
use vpnat_common::layout::flow::Phase;

use super::record::Event;

/// Templates are sent this often.
const TEMPLATES_EVERY: Duration = Duration::from_secs(60);

/// Largest message, bytes: with IP and UDP headers it fits the smallest VPN (RFC 7011 section 10.3.3).
const LARGEST: usize = 1300;

const VERSION: u16 = 10;
const HEADER: usize = 16;
const TEMPLATE_SET: u16 = 2;

/// Information elements (IANA registry "IPFIX Information Elements"), with their lengths here.
mod element {
    pub const PROTOCOL_IDENTIFIER: (u16, u16) = (4, 1);
    pub const SOURCE_TRANSPORT_PORT: (u16, u16) = (7, 2);
    pub const SOURCE_IPV4_ADDRESS: (u16, u16) = (8, 4);
    pub const DESTINATION_TRANSPORT_PORT: (u16, u16) = (11, 2);
    pub const DESTINATION_IPV4_ADDRESS: (u16, u16) = (12, 4);
    pub const FLOW_END_REASON: (u16, u16) = (136, 1);
    pub const FLOW_DURATION_MILLISECONDS: (u16, u16) = (161, 4);
    pub const POST_NAT_SOURCE_IPV4_ADDRESS: (u16, u16) = (225, 4);
    pub const POST_NAT_DESTINATION_IPV4_ADDRESS: (u16, u16) = (226, 4);
    pub const POST_NAPT_SOURCE_TRANSPORT_PORT: (u16, u16) = (227, 2);
    pub const POST_NAPT_DESTINATION_TRANSPORT_PORT: (u16, u16) = (228, 2);
    pub const NAT_EVENT: (u16, u16) = (230, 1);
    pub const INITIATOR_OCTETS: (u16, u16) = (231, 8);
    pub const RESPONDER_OCTETS: (u16, u16) = (232, 8);
    pub const INITIATOR_PACKETS: (u16, u16) = (298, 8);
    pub const RESPONDER_PACKETS: (u16, u16) = (299, 8);
    pub const OBSERVATION_TIME_MILLISECONDS: (u16, u16) = (323, 8);
    pub const NAT_QUOTA_EXCEEDED_EVENT: (u16, u16) = (466, 4);
    pub const MAX_SESSION_ENTRIES: (u16, u16) = (471, 4);
}
use element::*;

/// A template: its number and its fields.
struct Template {
    id: u16,
    /// Elements with their lengths in bytes, in two parts.
    fields: [&'static [(u16, u16)]; 2],
}

impl Template {
    fn fields(&self) -> impl Iterator<Item = &'static (u16, u16)> {
        self.fields.into_iter().flatten()
    }
}

/// What tells of a session.
const SESSION: &[(u16, u16)] = &[
    OBSERVATION_TIME_MILLISECONDS,
    NAT_EVENT,
    PROTOCOL_IDENTIFIER,
    SOURCE_IPV4_ADDRESS,
    POST_NAT_SOURCE_IPV4_ADDRESS,
    SOURCE_TRANSPORT_PORT,
    POST_NAPT_SOURCE_TRANSPORT_PORT,
    DESTINATION_IPV4_ADDRESS,
    POST_NAT_DESTINATION_IPV4_ADDRESS,
    DESTINATION_TRANSPORT_PORT,
    POST_NAPT_DESTINATION_TRANSPORT_PORT,
];

/// A NAT44 session was made (RFC 8158 section 5.5, table 5).
const CREATED: Template = Template { id: 256, fields: [SESSION, &[]] };

/// A NAT44 session ended: the same, and what it carried.
const DELETED: Template = Template {
    id: 257,
    fields: [
        SESSION,
        &[
            FLOW_DURATION_MILLISECONDS,
            FLOW_END_REASON,
            INITIATOR_OCTETS,
            RESPONDER_OCTETS,
            INITIATOR_PACKETS,
            RESPONDER_PACKETS,
        ],
    ],
};

/// An address has no port left for a protocol (RFC 8158 section 4.6.6).
const PORTS_EXHAUSTED: Template = Template {
    id: 258,
    fields: [
        &[OBSERVATION_TIME_MILLISECONDS, NAT_EVENT, POST_NAT_SOURCE_IPV4_ADDRESS, PROTOCOL_IDENTIFIER],
        &[],
    ],
};

/// The table is full: a quota (RFC 8158 section 4.6.7).
const QUOTA_EXCEEDED: Template = Template {
    id: 259,
    fields: [&[OBSERVATION_TIME_MILLISECONDS, NAT_EVENT, NAT_QUOTA_EXCEEDED_EVENT, MAX_SESSION_ENTRIES], &[]],
};

const TEMPLATES: [&Template; 4] = [&CREATED, &DELETED, &PORTS_EXHAUSTED, &QUOTA_EXCEEDED];

/// Values of natEvent (IANA registry "NAT Event Type").
mod nat_event {
    pub const NAT44_SESSION_CREATE: u8 = 4;
    pub const NAT44_SESSION_DELETE: u8 = 5;
    pub const PORTS_EXHAUSTED: u8 = 12;
    pub const QUOTA_EXCEEDED: u8 = 13;
}

/// natQuotaExceededEvent: maximum session entries.
const QUOTA_SESSION_ENTRIES: u32 = 1;

/// Puts messages together and sends them.
#[derive(Debug)]
pub struct Exporter {
    socket: UdpSocket,
    domain: u32,
    max_sessions: u32,
    templates: Option<Instant>,
    /// Data records sent before the message that is being made.
    sequence: u32,
    message: Message,
}

impl Exporter {
    /// To `collector`, as observation domain `domain`; the table takes `max_sessions` flows.
    pub fn new(collector: SocketAddr, domain: u32, max_sessions: u32) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(collector)?;
        // A collector that is slow must not stop the log.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, domain, max_sessions, templates: None, sequence: 0, message: Message::new() })
    }

    /// Sends `events`; returns how many could not be handed to the network, and why.
    pub fn send(&mut self, events: &[Event]) -> (u64, Option<io::Error>) {
        let (mut lost, mut reason) = (0, None);
        let mut note = |(records, error): (u32, Option<io::Error>)| {
            lost += u64::from(records);
            if error.is_some() {
                reason = error;
            }
        };
        for event in events {
            if self.templates.is_none_or(|sent| sent.elapsed() >= TEMPLATES_EVERY) {
                note(self.flush());
                self.message.add_templates();
                self.templates = Some(Instant::now());
            }
            let (template, data) = encode(event, self.max_sessions);
            if !self.message.has_room_for(data.len()) {
                note(self.flush());
            }
            self.message.add(template.id, &data);
        }
        note(self.flush());
        (lost, reason)
    }

    /// Sends what there is; how many records were lost if it cannot.
    fn flush(&mut self) -> (u32, Option<io::Error>) {
        let records = self.message.records;
        let Some(bytes) = self.message.finish(self.domain, self.sequence, now_s()) else { return (0, None) };
        // Sent or not: a gap in the sequence is how a collector notices.
        self.sequence = self.sequence.wrapping_add(records);
        match self.socket.send(&bytes) {
            Ok(_) => (0, None),
            // What an earlier message has met; this one was not sent. Templates may have been lost too.
            Err(error) => {
                self.templates = None;
                (records, Some(error))
            }
        }
    }
}

fn now_s() -> u32 {
    jiff::Timestamp::now().as_second() as u32
}

/// A message under way.
#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    /// The set that is open: its number, and where it begins.
    open: Option<(u16, usize)>,
    records: u32,
}

impl Message {
    fn new() -> Self {
        Self { bytes: vec![0; HEADER], open: None, records: 0 }
    }

    fn has_room_for(&self, record: usize) -> bool {
        self.bytes.len() + 4 + record <= LARGEST
    }

    fn begin_set(&mut self, id: u16) {
        if self.open.is_some_and(|(open, _)| open == id) {
            return;
        }
        self.end_set();
        self.open = Some((id, self.bytes.len()));
        self.bytes.extend(id.to_be_bytes());
        self.bytes.extend([0; 2]);
    }

    fn end_set(&mut self) {
        if let Some((_, start)) = self.open.take() {
            let length = (self.bytes.len() - start) as u16;
            self.bytes[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }

    fn add_templates(&mut self) {
        for template in TEMPLATES {
            self.begin_set(TEMPLATE_SET);
            self.bytes.extend(template.id.to_be_bytes());
            self.bytes.extend((template.fields().count() as u16).to_be_bytes());
            for (element, length) in template.fields() {
                self.bytes.extend(element.to_be_bytes());
                self.bytes.extend(length.to_be_bytes());
            }
        }
    }

    fn add(&mut self, template: u16, data: &[u8]) {
        self.begin_set(template);
        self.bytes.extend(data);
        self.records += 1;
    }

    /// The message, complete, if there is anything in it; a new one is begun.
    fn finish(&mut self, domain: u32, sequence: u32, export_time: u32) -> Option<Vec<u8>> {
        self.end_set();
        let mut bytes = std::mem::replace(self, Self::new()).bytes;
        if bytes.len() == HEADER {
            return None;
        }
        let length = bytes.len() as u16;
        bytes[0..2].copy_from_slice(&VERSION.to_be_bytes());
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes[4..8].copy_from_slice(&export_time.to_be_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_be_bytes());
        bytes[12..16].copy_from_slice(&domain.to_be_bytes());
        Some(bytes)
    }
}

/// The record of an event, by its template.
fn encode(event: &Event, max_sessions: u32) -> (&'static Template, Vec<u8>) {
    let raw = &event.raw;
    let (template, nat_event) = match event.kind {
        Kind::Started => (&CREATED, nat_event::NAT44_SESSION_CREATE),
        Kind::Ended => (&DELETED, nat_event::NAT44_SESSION_DELETE),
        Kind::PortsExhausted => (&PORTS_EXHAUSTED, nat_event::PORTS_EXHAUSTED),
        Kind::TableFull => (&QUOTA_EXCEEDED, nat_event::QUOTA_EXCEEDED),
    };
    let mut data = Vec::with_capacity(80);
    for (element, length) in template.fields() {
        let value: u64 = match (*element, *length) {
            OBSERVATION_TIME_MILLISECONDS => event.time.as_millisecond() as u64,
            NAT_EVENT => nat_event.into(),
            PROTOCOL_IDENTIFIER => raw.protocol.into(),
            SOURCE_IPV4_ADDRESS => u32::from_be_bytes(raw.inside.octets).into(),
            POST_NAT_SOURCE_IPV4_ADDRESS => u32::from_be_bytes(raw.egress.octets).into(),
            SOURCE_TRANSPORT_PORT => raw.inside_port.number.into(),
            POST_NAPT_SOURCE_TRANSPORT_PORT => raw.egress_port.number.into(),
            DESTINATION_IPV4_ADDRESS | POST_NAT_DESTINATION_IPV4_ADDRESS => {
                u32::from_be_bytes(raw.remote.octets).into()
            }
            DESTINATION_TRANSPORT_PORT | POST_NAPT_DESTINATION_TRANSPORT_PORT => {
                raw.remote_port.number.into()
            }
            FLOW_DURATION_MILLISECONDS => (u64::from(event.age_s()) * 1000).min(u32::MAX.into()),
            FLOW_END_REASON => end_reason(event).into(),
            INITIATOR_OCTETS => raw.out_bytes,
            RESPONDER_OCTETS => raw.in_bytes,
            INITIATOR_PACKETS => raw.out_packets,
            RESPONDER_PACKETS => raw.in_packets,
            NAT_QUOTA_EXCEEDED_EVENT => QUOTA_SESSION_ENTRIES.into(),
            MAX_SESSION_ENTRIES => max_sessions.into(),
            _ => 0,
        };
        data.extend(&value.to_be_bytes()[8 - usize::from(*length)..]);
    }
    (template, data)
}

/// flowEndReason (RFC 5102 section 5.11.3).
fn end_reason(event: &Event) -> u8 {
    const IDLE_TIMEOUT: u8 = 1;
    const END_OF_FLOW_DETECTED: u8 = 3;
    const FORCED_END: u8 = 4;
    const LACK_OF_RESOURCES: u8 = 5;
    let closed = [Phase::TcpBothFin as u8, Phase::TcpTrans as u8].contains(&event.raw.phase);
    match event.cause {
        Some(Cause::Killed | Cause::Policy | Cause::Leftover) => FORCED_END,
        Some(Cause::Recycled) if !closed => LACK_OF_RESOURCES,
        Some(Cause::Recycled) => END_OF_FLOW_DETECTED,
        _ if closed => END_OF_FLOW_DETECTED,
        _ => IDLE_TIMEOUT,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::read;
    use super::*;
    use std::collections::HashMap;

    /// A decoder after RFC 7011 section 3 that knows nothing of the encoder.
    #[derive(Default)]
    struct Decoder {
        templates: HashMap<u16, Vec<(u16, u16)>>,
    }

    /// A data record: values by element.
    type Data = HashMap<u16, u64>;

    impl Decoder {
        fn message(&mut self, bytes: &[u8]) -> (u32, u32, Vec<Data>) {
            let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let u32_at = |at: usize| u32::from(u16_at(at)) << 16 | u32::from(u16_at(at + 2));
            assert_eq!(u16_at(0), 10, "version");
            assert_eq!(usize::from(u16_at(2)), bytes.len(), "length");
            let mut data = Vec::new();
            let mut at = 16;
            while at < bytes.len() {
                let (id, length) = (u16_at(at), usize::from(u16_at(at + 2)));
                assert!(length >= 4 && at + length <= bytes.len(), "a set's length");
                let (mut place, end) = (at + 4, at + length);
                if id == 2 {
                    while place < end {
                        let (template, count) = (u16_at(place), usize::from(u16_at(place + 2)));
                        let field = |index: usize| place + 4 + index * 4;
                        let fields = (0..count).map(|i| (u16_at(field(i)), u16_at(field(i) + 2))).collect();
                        place = field(count);
                        self.templates.insert(template, fields);
                    }
                } else {
                    let fields = &self.templates[&id];
                    while place < end {
                        let mut record = Data::new();
                        for (element, length) in fields {
                            let value = bytes[place..place + usize::from(*length)]
                                .iter()
                                .fold(0, |value, byte| value << 8 | u64::from(*byte));
                            record.insert(*element, value);
                            place += usize::from(*length);
                        }
                        data.push(record);
                    }
                    assert_eq!(place, end);
                }
                at = end;
            }
            (u32_at(8), u32_at(12), data)
        }
    }

    fn pair() -> (UdpSocket, Exporter) {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        collector.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let exporter = Exporter::new(collector.local_addr().unwrap(), 7, 1000).unwrap();
        (collector, exporter)
    }

    fn receive(collector: &UdpSocket) -> Vec<u8> {
        let mut bytes = vec![0; 65536];
        let length = collector.recv(&mut bytes).expect("a message");
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn a_collector_reads_what_rfc_8158_wants() {
        let (collector, mut exporter) = pair();
        let events = [
            read(Kind::Started, None),
            read(Kind::Ended, Some(Cause::Expired)),
            read(Kind::PortsExhausted, None),
            read(Kind::TableFull, None),
        ];
        assert_eq!(exporter.send(&events).0, 0);
        let mut decoder = Decoder::default();
        let (sequence, domain, data) = decoder.message(&receive(&collector));
        assert_eq!((sequence, domain, data.len()), (0, 7, 4));
        let pod = u64::from(u32::from(Ipv4Addr::new(10, 0, 2, 7)));
        let egress = u64::from(u32::from(Ipv4Addr::new(10, 0, 1, 10)));
        let remote = u64::from(u32::from(Ipv4Addr::new(192, 0, 2, 10)));
        for (record, event) in data[..2].iter().zip([4, 5]) {
            for (element, value) in [
                (323, 1_795_615_381_500),
                (230, event),
                (4, 6),
                (8, pod),
                (225, egress),
                (7, 40000),
                (227, 40123),
                (12, remote),
                (226, remote),
                (11, 443),
                (228, 443),
            ] {
                assert_eq!(record[&element], value, "element {element}");
            }
        }
        let end = &data[1];
        assert_eq!([end[&161], end[&136]], [7000, 3]);
        assert_eq!([end[&231], end[&232], end[&298], end[&299]], [1000, 2000, 10, 20]);
        assert_eq!([data[2][&230], data[2][&225], data[2][&4]], [12, egress, 6]);
        assert_eq!([data[3][&230], data[3][&466], data[3][&471]], [13, 1, 1000]);
    }

    #[test]
    fn long_batches_are_cut_and_counted_and_templates_come_again() {
        let (collector, mut exporter) = pair();
        let events = vec![read(Kind::Ended, Some(Cause::Expired)); 100];
        assert_eq!(exporter.send(&events).0, 0);
        let mut decoder = Decoder::default();
        let mut seen = 0;
        while seen < 100 {
            let bytes = receive(&collector);
            assert!(bytes.len() <= LARGEST);
            let (sequence, _, data) = decoder.message(&bytes);
            assert_eq!(sequence, seen, "records before this message (RFC 7011 section 3.1)");
            seen += data.len() as u32;
        }
        assert_eq!(seen, 100);
        exporter.templates = Some(Instant::now() - TEMPLATES_EVERY);
        exporter.send(&events[..1]);
        // A collector that has just started understands it.
        assert_eq!(Decoder::default().message(&receive(&collector)).2.len(), 1);
    }

    #[test]
    fn a_collector_that_is_away_loses_records_and_they_are_counted() {
        let (collector, mut exporter) = pair();
        drop(collector);
        let event = [read(Kind::Started, None)];
        // The first is answered "port unreachable", and the next one learns of it.
        let lost: u64 = (0..4)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(20));
                exporter.send(&event).0
            })
            .sum();
        assert!(lost > 0);
    }
}
