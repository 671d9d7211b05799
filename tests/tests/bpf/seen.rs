//! What became of a packet, and the sentences in which a test says what should have.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use tests::packet::Packet;
use vpnat_common::layout::outcome::{Fate, Hook, OUTCOME_SLOTS, Outcome};

use crate::case::counter;
use crate::model;
use crate::plan::{GATEWAY, mac_of};

/// Verdicts of the kernel's uapi.
mod verdict {
    pub const XDP_DROP: u32 = 1;
    pub const XDP_PASS: u32 = 2;
    pub const XDP_REDIRECT: u32 = 4;
    pub const TC_UNSPEC: u32 = u32::MAX;
    pub const TC_SHOT: u32 = 2;
    pub const TC_REDIRECT: u32 = 7;
}

/// A packet before and after a program's run.
pub struct Seen {
    pub title: String,
    pub hook: Hook,
    /// Whether what is translated is sent on past the stack.
    pub fast: bool,
    /// Inside and outside device: index and Ethernet address.
    pub devices: [(u32, [u8; 6]); 2],
    /// Length of the link layer's header.
    pub link: usize,
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    pub returned: u32,
    /// Counters that moved: packets and bytes.
    pub moved: BTreeMap<u32, (u64, u64)>,
}

impl Seen {
    /// It was not translated, for these reasons at TC and at XDP, and not a byte of it has changed.
    #[track_caller]
    pub fn ends(&self, tc: (u8, Outcome), xdp: (u8, Outcome)) {
        let (vendor, outcome) = if self.hook == Hook::Xdp { xdp } else { tc };
        let returned = match (self.hook, outcome.fate()) {
            (Hook::Xdp, Fate::Dropped) => verdict::XDP_DROP,
            (Hook::Xdp, _) => verdict::XDP_PASS,
            (_, Fate::Dropped | Fate::Held) => verdict::TC_SHOT,
            (_, _) => verdict::TC_UNSPEC,
        };
        assert_ne!(outcome.fate(), Fate::Translated, "use `becomes`");
        self.counted(vendor, outcome);
        self.returned(returned);
        self.holds(&self.input);
    }

    /// As [`Seen::ends`], for the same reason wherever it was seen.
    #[track_caller]
    pub fn ends_as(&self, vendor: u8, outcome: Outcome) {
        self.ends((vendor, outcome), (vendor, outcome));
    }

    /// It left for the vendor in `vendor` and is `expected` now, but for what the hop itself changes.
    #[track_caller]
    pub fn leaves_as(&self, vendor: u8, expected: &[u8]) {
        self.translated((vendor, Outcome::Outbound), expected, GATEWAY, self.devices[1]);
    }

    /// It went on to the pod and is `expected` now, but for what the hop itself changes.
    #[track_caller]
    pub fn arrives_as(&self, vendor: u8, expected: &[u8]) {
        let pod = Packet::new(expected).expect("a packet").destination();
        self.translated((vendor, Outcome::Inbound), expected, pod, self.devices[0]);
    }

    /// It was refused and has become `answer`, but for an identification of its own, on its way back.
    #[track_caller]
    pub fn is_answered(&self, vendor: u8, outcome: Outcome, answer: &[u8]) {
        self.counted(vendor, outcome);
        self.returned(verdict::TC_REDIRECT);
        // What the kernel's helper takes off again: the header that was there, or room for one.
        let link = if self.link == 0 { vec![0; 14] } else { self.input[..self.link].to_vec() };
        let id = u16::from_be_bytes([self.output[18], self.output[19]]);
        self.holds(&[link, model::with_id(answer, id)].concat());
    }

    /// Whether it was dropped, for whatever reason, and is otherwise as it was.
    pub fn was_dropped(&self) -> bool {
        let drop = if self.hook == Hook::Xdp { verdict::XDP_DROP } else { verdict::TC_SHOT };
        let packets: u64 = self.moved.values().map(|(packets, _)| packets).sum();
        self.returned == drop && self.output == self.input && packets == 1
    }

    /// The identification that it has now.
    pub fn id(&self) -> u16 {
        let packet = &self.output[self.link..];
        u16::from_be_bytes([packet[4], packet[5]])
    }

    /// It left for the vendor in `vendor` and is `expected` now, but for an identification of its own, which is returned.
    #[track_caller]
    pub fn leaves_renamed(&self, vendor: u8, expected: &[u8]) -> u16 {
        let id = self.id();
        self.leaves_as(vendor, &model::with_id(expected, id));
        id
    }

    /// How it ended, by the one counter that moved.
    #[track_caller]
    pub fn ended(&self) -> Outcome {
        let moved: Vec<_> = self.moved.iter().filter(|(_, (packets, _))| *packets != 0).collect();
        assert_eq!(moved.len(), 1, "{}: one counter moves", self.title);
        let number = *moved[0].0 % OUTCOME_SLOTS;
        *Outcome::ALL.iter().find(|outcome| **outcome as u32 == number).expect("an outcome")
    }

    /// The source address that it has now.
    pub fn source(&self) -> Ipv4Addr {
        Packet::new(&self.output[self.link..]).expect("a packet").source()
    }

    /// The source port (or query identifier) that it has now.
    pub fn port(&self) -> u16 {
        let packet = &self.output[self.link..];
        let at = model::header_length(packet) + if packet[9] == tests::packet::ICMP { 4 } else { 0 };
        u16::from_be_bytes([packet[at], packet[at + 1]])
    }

    #[track_caller]
    fn translated(
        &self,
        (vendor, outcome): (u8, Outcome),
        expected: &[u8],
        next_hop: Ipv4Addr,
        device: (u32, [u8; 6]),
    ) {
        self.counted(vendor, outcome);
        if !self.fast {
            // The stack's part: link layer, time to live, and the way on.
            self.returned(verdict::TC_UNSPEC);
            let mut expected = [&self.input[..self.link], expected].concat();
            expected.resize(self.input.len(), 0);
            self.holds(&expected);
            return;
        }
        self.returned(if self.hook == Hook::Xdp { verdict::XDP_REDIRECT } else { verdict::TC_REDIRECT });
        self.holds(&[&mac_of(next_hop)[..], &device.1, &[8, 0], &model::hop(expected)].concat());
    }

    /// Exactly one counter has moved, by this packet.
    #[track_caller]
    fn counted(&self, vendor: u8, outcome: Outcome) {
        let bytes = (self.input.len() - self.link) as u64;
        let expected = BTreeMap::from([(counter(vendor, self.hook, outcome), (1, bytes))]);
        if self.moved != expected {
            let names = |moved: &BTreeMap<u32, (u64, u64)>| {
                moved
                    .iter()
                    .map(|(index, change)| format!("{} by {change:?}", name(*index)))
                    .collect::<Vec<_>>()
            };
            panic!(
                "{}: counted {:?}, expected {:?}\n{}",
                self.title,
                names(&self.moved),
                names(&expected),
                side_by_side(&self.input, &self.output)
            );
        }
    }

    #[track_caller]
    fn returned(&self, expected: u32) {
        assert_eq!(self.returned as i32, expected as i32, "{}: verdict", self.title);
    }

    #[track_caller]
    fn holds(&self, expected: &[u8]) {
        assert!(
            self.output == expected,
            "{}: found and expected\n{}",
            self.title,
            side_by_side(&self.output, expected)
        );
    }
}

/// A counter's name.
fn name(index: u32) -> String {
    let (vendor, hook) = (index / OUTCOME_SLOTS / 4, index / OUTCOME_SLOTS % 4);
    let outcome = Outcome::ALL.iter().find(|outcome| **outcome as u32 == index % OUTCOME_SLOTS);
    format!("vendor {vendor}, {}: {:?}", Hook::ALL[hook as usize].name(), outcome)
}

/// Two packets in hexadecimal, with the bytes marked in which they differ. Behind the headers, rows that are
/// the same on both sides are left out.
pub fn side_by_side(left: &[u8], right: &[u8]) -> String {
    let mut text = format!("  {} and {} bytes\n", left.len(), right.len());
    for at in (0..left.len().max(right.len())).step_by(16) {
        let same = left.get(at..at + 16).is_some_and(|row| right.get(at..at + 16) == Some(row));
        if at >= 96 && same {
            continue;
        }
        let row = |bytes: &[u8], other: &[u8]| {
            (at..at + 16).fold(String::new(), |mut row, place| {
                let mark = if bytes.get(place) == other.get(place) { ' ' } else { '*' };
                match bytes.get(place) {
                    Some(byte) => write!(row, "{mark}{byte:02x}").expect("a string"),
                    None => row += "   ",
                }
                row
            })
        };
        writeln!(text, "  {at:4}: {}  |  {}", row(left, right), row(right, left)).expect("a string");
    }
    text
}
