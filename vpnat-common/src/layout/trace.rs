//! What a tracer asks of the traced programs, and what it gets. These maps are never pinned: they belong to the agent that
//! attached those programs.

use super::clock::Moment;
use super::flow::FlowKey;
use crate::addr::{Ip4, Port};

/// Bytes of the buffer of [`TraceEvent`]s; a power of two and a multiple of every page size.
pub const TRACE_BUFFER: u32 = 512 << 10;

/// Most events a second that can be asked for: what a [`super::refusal::Budget`] counts to.
pub const MOST_EVENTS_PER_S: u32 = u16::MAX as u32;

/// Programs that can run on a CPU one within the other: a first fragment's sends those held for it.
pub const TRACE_DEPTH: u32 = 4;

/// An end of a packet that is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TraceEnd {
    /// The prefix's address, its other bits 0.
    pub address: Ip4,
    /// The prefix's bits; 0.0.0.0 for any address.
    pub mask: Ip4,
    /// Port or query identifier, 0 for any.
    pub port: Port,
    /// Padding, 0.
    pub _pad: u16,
}

/// Which packets are wanted. Written whole by the agent before it attaches the traced programs. Host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TraceFilter {
    /// Bit `n` is set if outcome number `n` is wanted.
    pub outcomes: u64,
    /// The source, as the packet came or as it left.
    pub from: TraceEnd,
    /// The destination, likewise.
    pub to: TraceEnd,
    /// Either of them, likewise.
    pub host: TraceEnd,
    /// Which tracer it is for: in its events.
    pub session: u32,
    /// Until when: the programs outlive an agent that is killed, and then do nothing more than the others.
    pub until: Moment,
    /// Most events in a second of the clock, up to [`MOST_EVENTS_PER_S`].
    pub per_second: u32,
    /// Bit `n` is set if hook number `n` is wanted.
    pub hooks: u8,
    /// IP protocol number, 0 for any.
    pub protocol: u8,
    /// Vendor slot, 0 for any and for packets that are no vendor's.
    pub vendor: u8,
    /// Padding, 0.
    pub _pad: u8,
}

/// One decision. Host byte order unless a type says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TraceEvent {
    /// When, CLOCK_MONOTONIC in nanoseconds.
    pub time_ns: u64,
    /// The packet as it came; ports that cannot be read are 0.
    pub before: FlowKey,
    /// The packet as it left the program.
    pub after: FlowKey,
    /// [`super::outcome::counter_index`]: vendor, hook and outcome.
    pub counter: u32,
    /// Interface index.
    pub ifindex: u32,
    /// Bytes from the IP header on, as it came; of a GSO packet, all of them.
    pub bytes: u32,
    /// [`TraceFilter::session`].
    pub session: u32,
}

/// A packet as it came, kept until its verdict. Host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TraceArrival {
    /// What its headers say.
    pub key: FlowKey,
    /// Interface index.
    pub ifindex: u32,
    /// Bytes from the IP header on.
    pub bytes: u32,
    /// Hook number.
    pub hook: u32,
    /// 1 if anything may have to be told of it: otherwise the rest is another packet's.
    pub wanted: u32,
}

/// What a CPU counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TraceCpu {
    /// Wanted packets without an event because that second's were spent.
    pub suppressed: u64,
    /// Events that found no room in the buffer.
    pub lost: u64,
    /// Programs running on this CPU that have noted an arrival.
    pub depth: u32,
    /// Padding, 0.
    pub _pad: u32,
}
