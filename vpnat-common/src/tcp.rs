//! TCP as a NAT sees it: RFC 7857 section 2 (after RFC 6146 section 3.5.2), with RFC 5382's rule that a
//! connection is established once both sides have acknowledged.
//!
//! Each side's entry records what that side has sent, and only packets of that side write it, but for a reset
//! taken back and a tuple used again; the phase follows from both. So two CPUs that see both sides' FINs at
//! once cannot lose one.

use crate::flow_ref::FlowRef;
use crate::layout::flow::{Direction, Phase, sent};
use crate::packet::TcpRest;

/// TCP's control bits (RFC 9293 section 3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is significant.
    pub const ACK: u8 = 0x10;
}

/// A segment, as much of it as tracking needs. Host byte order.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Sequence number after the last, SYN and FIN counted.
    pub seq_end: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window, not scaled.
    pub window: u16,
    /// Control bits.
    pub flags: u8,
    /// Header length, bytes.
    pub header_len: u8,
}

impl Segment {
    /// Where there is none.
    pub const NONE: Self = Self { seq: 0, seq_end: 0, ack: 0, window: 0, flags: 0, header_len: 0 };

    /// The segment that starts with `seq` and goes on with `rest`, `transport_len` bytes with its header.
    #[inline(always)]
    pub const fn new(seq: u32, rest: &TcpRest, transport_len: u32) -> Self {
        let header_len = (rest.data_offset >> 4) * 4;
        let payload = transport_len.wrapping_sub(header_len as u32);
        let phantom = (rest.flags & flags::SYN != 0) as u32 + (rest.flags & flags::FIN != 0) as u32;
        Self {
            seq,
            seq_end: seq.wrapping_add(payload).wrapping_add(phantom),
            ack: u32::from_be(rest.ack),
            window: u16::from_be(rest.window),
            flags: rest.flags,
            header_len,
        }
    }

    /// A SYN that opens: not the answer to one.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
    }

    /// Anything that can change a connection's phase.
    #[inline(always)]
    pub const fn is_control(&self) -> bool {
        self.flags & (flags::SYN | flags::FIN | flags::RST) != 0
    }
}

/// Largest window scale (RFC 7323 section 2.3): taken where the handshake was not seen.
pub const MAX_WINDOW_SCALE: u8 = 14;

/// Whether `seq` lies where the side behind `receiver` expects it: nothing before its acknowledgement,
/// nothing beyond its window. True as long as that side has acknowledged nothing.
#[inline(always)]
fn in_window(seq: u32, receiver: &FlowRef<'_>) -> bool {
    if receiver.sent() & sent::ACK == 0 {
        return true;
    }
    let scale = receiver.window_scale() & 0xf;
    let window = (receiver.window() as u32) << scale;
    seq.wrapping_sub(receiver.ack()) <= window
}

/// The phase that follows from what both sides have sent.
#[inline(always)]
pub const fn phase_of(client: u8, server: u8) -> Phase {
    if (client | server) & sent::RST != 0 {
        return Phase::TcpTrans;
    }
    match (client & sent::FIN != 0, server & sent::FIN != 0) {
        (true, true) => return Phase::TcpBothFin,
        (true, false) => return Phase::TcpClientFin,
        (false, true) => return Phase::TcpServerFin,
        (false, false) => {}
    }
    if client & sent::ACK != 0 && server & (sent::SYN | sent::ACK) != 0 {
        Phase::TcpEstablished
    } else {
        Phase::TcpInit
    }
}

/// What tracking found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tracked {
    /// The phase from now on.
    pub phase: Phase,
    /// Whether the timers of both sides start anew.
    pub refresh: bool,
}

/// Takes note of a data segment or acknowledgement of an established connection: the hot path.
#[inline(always)]
pub fn progress(own: &FlowRef<'_>, segment: &Segment) {
    own.set_seq_end(segment.seq_end);
    own.set_ack(segment.ack);
    own.set_window(segment.window);
}

/// Takes note of a segment where the phase may change.
#[inline(always)]
pub fn track(direction: Direction, own: &FlowRef<'_>, other: &FlowRef<'_>, segment: &Segment) -> Tracked {
    let before = own.phase().unwrap_or(Phase::TcpInit);
    let outbound = matches!(direction, Direction::Outbound);
    let joint = |own: u8, other: u8| if outbound { phase_of(own, other) } else { phase_of(other, own) };

    if segment.flags & flags::RST != 0 {
        // In INIT a reset changes nothing: the SYN may be answered yet. A reset never refreshes
        // (RFC 7857 section 7.1), and one that the receiver would not believe is only forwarded.
        let believed = !matches!(before, Phase::TcpInit | Phase::TcpTrans) && in_window(segment.seq, other);
        if !believed {
            return Tracked { phase: before, refresh: false };
        }
        let expected = if segment.seq == other.ack() { sent::RST_EXPECTED } else { 0 };
        own.set_sent(own.sent() | sent::RST | expected);
        return Tracked { phase: Phase::TcpTrans, refresh: true };
    }

    if segment.opens() && outbound {
        if matches!(before, Phase::TcpBothFin | Phase::TcpTrans) {
            // The same tuple again (RFC 5382 REQ-2): a new connection on the old mapping.
            other.set_sent(0);
            own.set_sent(sent::SYN);
            progress(own, segment);
            return Tracked { phase: Phase::TcpInit, refresh: true };
        }
        if !matches!(before, Phase::TcpInit) {
            // A SYN on a live connection draws a challenge ACK (RFC 5961 section 4); the state stays.
            return Tracked { phase: before, refresh: false };
        }
    }

    if segment.flags & (flags::SYN | flags::ACK) == flags::SYN | flags::ACK
        && !outbound
        && !matches!(before, Phase::TcpInit | Phase::TcpEstablished)
    {
        // The vendor has taken a SYN that we did not believe: its old connection was gone.
        other.set_sent(sent::SYN);
        own.set_sent(sent::SYN | sent::ACK);
        progress(own, segment);
        return Tracked { phase: Phase::TcpInit, refresh: true };
    }

    let mut own_sent = own.sent();
    let mut other_sent = other.sent();
    if matches!(before, Phase::TcpTrans) {
        // Life after a reset: the reset was not believed by its receiver (RFC 7857 section 2.2).
        own_sent &= !(sent::RST | sent::RST_EXPECTED);
        other_sent &= !(sent::RST | sent::RST_EXPECTED);
        other.set_sent(other_sent);
    }
    let closed_before = own_sent & other_sent & sent::FIN != 0;

    if segment.flags & flags::SYN != 0 {
        own_sent |= sent::SYN;
    }
    if segment.flags & flags::ACK != 0 {
        own_sent |= sent::ACK;
        let covers_fin = segment.ack.wrapping_sub(other.seq_end()) as i32 >= 0;
        if other_sent & sent::FIN != 0 && covers_fin {
            own_sent |= sent::FIN_ACKED;
        }
    }
    // The FIN itself must be in the window; what lies before it may be sent again.
    let fin = segment.flags & flags::FIN != 0 && in_window(segment.seq_end.wrapping_sub(1), other);
    if fin {
        if own_sent & (sent::FIN | sent::FIN_ACKED) == sent::FIN_ACKED {
            own_sent |= sent::CLOSED_SECOND;
        }
        own_sent |= sent::FIN;
    }
    own.set_sent(own_sent);
    // A segment from before the FIN must not move the mark that the FIN set.
    if own_sent & sent::FIN == 0 || fin {
        own.set_seq_end(segment.seq_end);
    }
    if segment.flags & flags::ACK != 0 {
        own.set_ack(segment.ack);
    }
    own.set_window(segment.window);

    let phase = joint(own_sent, other_sent);
    let settled = own_sent & other_sent & sent::FIN_ACKED != 0;
    // In INIT, too, what does not open the connection keeps nothing.
    let idle = matches!((before, phase), (Phase::TcpInit, Phase::TcpInit)) && segment.flags & flags::SYN == 0;
    Tracked { phase, refresh: !(closed_before && settled || idle) }
}
