//! What readers are told about flows, and what is counted about them whether anybody reads or not.

use super::MAX_VENDORS;
use super::clock::Moment;
use super::flow::{Direction, FlowKey, Phase, protocol};
use crate::addr::{Ip4, Port};
use crate::flow_ref::FlowRef;

/// Version of [`FlowEvent`], in each of them: events may wait in the buffer for a newer agent.
pub const EVENT_VERSION: u8 = 1;

/// Bytes of the event buffer unless the configuration says otherwise; a power of two and a multiple of every page size.
pub const EVENT_BUFFER: u32 = 4 << 20;

/// A note about the same exhaustion is made once in so many seconds (RFC 8158 section 4.6.6 asks for a limit).
pub const EXHAUSTED_EVERY_S: u32 = 1;

/// Why a flow ended, as far as the datapath knows; [`FlowEvent::phase`] tells the rest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Cause {
    /// Its timers had run out.
    Expired = 1,
    /// An operator asked for it.
    Killed = 2,
    /// The configuration has taken its egress address away.
    Policy = 3,
    /// Its connection was closed, and another flow needed its port.
    Recycled = 4,
    /// Only a half of it was left, and the other half's place is another flow's.
    Leftover = 5,
}

impl Cause {
    /// The cause that a byte stands for.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Expired),
            2 => Some(Self::Killed),
            3 => Some(Self::Policy),
            4 => Some(Self::Recycled),
            5 => Some(Self::Leftover),
            _ => None,
        }
    }
}

/// What an event tells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A flow was made.
    Started = 1,
    /// A flow was removed.
    Ended = 2,
    /// A flow was refused: every port towards this remote endpoint is taken.
    PortsExhausted = 3,
    /// A flow was refused: the flow table is full.
    TableFull = 4,
}

impl Kind {
    /// The kind that a byte stands for.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Started),
            2 => Some(Self::Ended),
            3 => Some(Self::PortsExhausted),
            4 => Some(Self::TableFull),
            _ => None,
        }
    }
}

/// One note in the event buffer. Host byte order unless a type says otherwise; bytes of the directions and causes are not
/// trusted to be one by readers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FlowEvent {
    /// When it was written, CLOCK_MONOTONIC in nanoseconds: the reader adds the difference to the clock on the wall.
    pub time_ns: u64,
    /// Bytes from the pod, IP header included; 0 unless [`Kind::Ended`].
    pub out_bytes: u64,
    /// Packets from the pod.
    pub out_packets: u64,
    /// Bytes to the pod.
    pub in_bytes: u64,
    /// Packets to the pod.
    pub in_packets: u64,
    /// The pod's address.
    pub inside: Ip4,
    /// What the vendor sees.
    pub egress: Ip4,
    /// The vendor's address.
    pub remote: Ip4,
    /// The datapath's time when this was written.
    pub now: Moment,
    /// The datapath's time when the flow was made.
    pub created: Moment,
    /// The pod's port or query identifier.
    pub inside_port: Port,
    /// The port or query identifier that the vendor sees; 0 if there is none.
    pub egress_port: Port,
    /// The vendor's port; 0 for ICMP.
    pub remote_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Vendor slot.
    pub vendor: u8,
    /// [`EVENT_VERSION`].
    pub version: u8,
    /// A [`Kind`] as its byte.
    pub kind: u8,
    /// [`Kind::Ended`]: a [`Cause`] as its byte.
    pub cause: u8,
    /// The flow's [`Phase`] as its byte, 0 if it had none.
    pub phase: u8,
}

const _: () = assert!(size_of::<FlowEvent>() == 72);

impl FlowEvent {
    /// Makes this a note of `kind` about the flow with the outbound `key`. Field by field, as all that follow: an event put
    /// together elsewhere would need room on a 512-byte stack.
    #[inline(always)]
    pub fn fill(&mut self, kind: Kind, key: &FlowKey, egress: Ip4, egress_port: Port, vendor: u8) {
        self.inside = key.src;
        self.egress = egress;
        self.remote = key.dst;
        self.inside_port = key.src_port;
        self.egress_port = egress_port;
        self.remote_port = key.dst_port;
        self.protocol = key.protocol;
        self.vendor = vendor;
        self.version = EVENT_VERSION;
        self.kind = kind as u8;
    }

    /// Makes this the start of the flow with the outbound `key` and the outbound half `entry`.
    #[inline(always)]
    pub fn fill_started(&mut self, key: &FlowKey, entry: &FlowRef<'_>) {
        self.fill(Kind::Started, key, entry.new_addr(), entry.new_port(), entry.vendor());
        self.created = entry.created();
        self.phase = entry.phase().map_or(0, |phase| phase as u8);
    }

    /// Makes this the end of the flow with `entry`, of either direction, under `key`, and its `other` half.
    #[inline(always)]
    pub fn fill_ended(
        &mut self,
        key: &FlowKey,
        entry: &FlowRef<'_>,
        other: Option<FlowRef<'_>>,
        cause: Cause,
    ) {
        let inbound = matches!(entry.direction(), Some(Direction::Inbound));
        self.fill(Kind::Ended, key, entry.new_addr(), entry.new_port(), entry.vendor());
        self.out_bytes = entry.bytes();
        self.out_packets = entry.packets();
        if let Some(other) = other {
            self.in_bytes = other.bytes();
            self.in_packets = other.packets();
        }
        if inbound {
            // As seen from outside: the other way round.
            core::mem::swap(&mut self.out_bytes, &mut self.in_bytes);
            core::mem::swap(&mut self.out_packets, &mut self.in_packets);
            self.inside = entry.new_addr();
            self.inside_port = entry.new_port();
            self.egress = key.dst;
            self.egress_port = key.dst_port;
            self.remote = key.src;
            self.remote_port = key.src_port;
        }
        self.created = entry.created();
        self.cause = cause as u8;
        self.phase = entry.phase().map_or(0, |phase| phase as u8);
    }
}

/// A refusal that was noted, so that it is not noted for every packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct ExhaustedKey {
    /// The address that had no port left.
    pub egress: Ip4,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`Kind`] as its byte.
    pub kind: u8,
    /// Vendor slot.
    pub vendor: u8,
    /// Padding, 0.
    pub _pad: u8,
}

macro_rules! tallies {
    ($($(#[doc = $doc:literal])+ $variant:ident = $value:literal;)+) => {
        /// What is counted about flows, by vendor slot, always.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Tally {
            $($(#[doc = $doc])+ $variant = $value,)+
        }

        impl Tally {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// One sentence for people.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

tallies! {
    /// TCP flows made.
    OpenedTcp = 0;
    /// UDP flows made.
    OpenedUdp = 1;
    /// ICMP flows made.
    OpenedIcmp = 2;
    /// TCP connections whose handshake was completed.
    Established = 3;
    /// Flows removed because nothing came for the length of their timer.
    EndedIdle = 4;
    /// TCP flows removed some time after both FINs.
    EndedClosed = 5;
    /// TCP flows removed some time after a reset.
    EndedReset = 6;
    /// TCP flows removed before their handshake was completed.
    EndedUnanswered = 7;
    /// Flows removed by an operator.
    EndedKilled = 8;
    /// Flows removed because their egress address was taken away.
    EndedPolicy = 9;
    /// Flows removed because another one needed their port.
    EndedRecycled = 10;
    /// Halves of flows removed because their other half was another flow's.
    EndedLeftover = 11;
    /// Events lost because the buffer was full.
    EventsLost = 12;
    /// Lost events that a log has told of; written by the agent.
    LossesReported = 13;
}

/// Tallies kept for each vendor slot; more than there are, so that adding one does not move the others.
pub const TALLY_SLOTS: u32 = 16;

/// Entries of the tally array.
pub const TALLIES: u32 = MAX_VENDORS * TALLY_SLOTS;

impl Tally {
    /// Where it is counted for the vendor in `slot`.
    #[inline(always)]
    pub const fn index(self, slot: u8) -> u32 {
        (slot as u32 % MAX_VENDORS) * TALLY_SLOTS + self as u32
    }

    /// What counts flows of `protocol` that are made.
    #[inline(always)]
    pub const fn opened(protocol: u8) -> Self {
        match protocol {
            protocol::TCP => Self::OpenedTcp,
            protocol::UDP => Self::OpenedUdp,
            _ => Self::OpenedIcmp,
        }
    }

    /// What counts flows that end for `cause` in `phase` (a [`Phase`] as its byte).
    #[inline(always)]
    pub const fn ended(cause: Cause, phase: u8) -> Self {
        match cause {
            Cause::Killed => Self::EndedKilled,
            Cause::Policy => Self::EndedPolicy,
            Cause::Recycled => Self::EndedRecycled,
            Cause::Leftover => Self::EndedLeftover,
            Cause::Expired if phase == Phase::TcpBothFin as u8 => Self::EndedClosed,
            Cause::Expired if phase == Phase::TcpTrans as u8 => Self::EndedReset,
            Cause::Expired if phase == Phase::TcpInit as u8 => Self::EndedUnanswered,
            Cause::Expired => Self::EndedIdle,
        }
    }

    /// Why a flow ended, in metrics and records; `None` for what is no end.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::EndedIdle => Some("idle"),
            Self::EndedClosed => Some("closed"),
            Self::EndedReset => Some("reset"),
            Self::EndedUnanswered => Some("unanswered"),
            Self::EndedKilled => Some("killed"),
            Self::EndedPolicy => Some("policy"),
            Self::EndedRecycled => Some("recycled"),
            Self::EndedLeftover => Some("leftover"),
            _ => None,
        }
    }
}

const _: () = assert!((Tally::LossesReported as u32) < TALLY_SLOTS);
