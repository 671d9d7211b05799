//! The flow table: two entries per flow, one per direction, each ready to apply.

use super::clock::Moment;
use crate::addr::{Ip4, Port};

/// IP protocol numbers that are translated (IANA protocol numbers).
pub mod protocol {
    use network_types::ip::IpProto;

    /// ICMP.
    pub const ICMP: u8 = IpProto::Icmp as u8;
    /// TCP.
    pub const TCP: u8 = IpProto::Tcp as u8;
    /// UDP.
    pub const UDP: u8 = IpProto::Udp as u8;
}

/// What the entries of a key are.
pub mod kind {
    /// A packet's 5-tuple.
    pub const FLOW: u8 = 0;
    /// An endpoint-independent mapping (RFC 4787 REQ-1): the pod's end and, as the far end, its egress address with port 0.
    pub const BINDING: u8 = 1;
}

/// The 5-tuple of a packet as it arrives, before any translation.
///
/// For an ICMP query the identifier stands where the inside port would be (`src_port` outbound, `dst_port`
/// inbound) and the other port is 0 (RFC 5508 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct FlowKey {
    /// Source address.
    pub src: Ip4,
    /// Destination address.
    pub dst: Ip4,
    /// Source port or query identifier.
    pub src_port: Port,
    /// Destination port or query identifier.
    pub dst_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`kind`]: what no packet's key can be is told apart here.
    pub kind: u8,
    /// Padding, 0: keys are compared as bytes.
    pub _pad: u16,
}

impl FlowKey {
    /// A key with its padding zeroed.
    #[inline(always)]
    pub const fn new(src: Ip4, src_port: Port, dst: Ip4, dst_port: Port, protocol: u8) -> Self {
        Self { src, dst, src_port, dst_port, protocol, kind: kind::FLOW, _pad: 0 }
    }

    /// The same ends, as an entry of this `kind`.
    #[inline(always)]
    pub const fn of_kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }

    /// As two words: its bytes as they lie in memory.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        // SAFETY: as long as the key, which has no bytes that are not part of a field (its padding is one).
        unsafe { core::mem::transmute(self) }
    }

    /// The key whose words these are.
    #[inline(always)]
    pub const fn of_words(words: &[u64; 2]) -> &Self {
        // SAFETY: as long as the key and aligned for more; any bytes are a key.
        unsafe { &*core::ptr::from_ref(words).cast() }
    }

    /// Sixteen bits that an entry in `direction` holds which makes this `addr`:`port`. By them is noticed that the kernel has
    /// given the slot to another flow between our lookup and our use of it (preallocated hash slots are reused at once),
    /// and that the entry is spoiled.
    #[inline(always)]
    pub const fn check(&self, direction: Direction, addr: Ip4, port: Port) -> u16 {
        let [addresses, rest] = self.words();
        let rest = rest ^ (direction as u64) << 48;
        let target = addr.to_ne() as u64 | (port.number as u64) << 32;
        // The uppermost bits of a product depend on all bits of its factors. One for each word, which do not wait for
        // each other.
        let mixed = addresses
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(rest.wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
            .wrapping_add(target.wrapping_mul(0x1656_67b1_9e37_79f9));
        (mixed >> 48) as u16
    }
}

/// Which way a flow entry translates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// Pod to vendor: the source is rewritten.
    Outbound = 1,
    /// Vendor to pod: the destination is restored.
    Inbound = 2,
}

impl Direction {
    /// The other one.
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Outbound => Self::Inbound,
            Self::Inbound => Self::Outbound,
        }
    }

    /// The direction that a map byte stands for; map bytes are never trusted to be one.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Outbound),
            2 => Some(Self::Inbound),
            _ => None,
        }
    }
}

/// Where a flow is in its life. TCP's names follow RFC 7857 section 2 (from RFC 6146 section 3.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Phase {
    /// A UDP mapping (RFC 4787).
    Udp = 1,
    /// An ICMP query (RFC 5508).
    IcmpQuery = 2,
    /// TCP: a SYN was sent, the handshake is not complete.
    TcpInit = 3,
    /// TCP: both sides have acknowledged.
    TcpEstablished = 4,
    /// TCP: the pod has sent its FIN; half-closed, still open the other way.
    TcpClientFin = 5,
    /// TCP: the vendor has sent its FIN; half-closed, still open the other way.
    TcpServerFin = 6,
    /// TCP: both FINs were seen.
    TcpBothFin = 7,
    /// TCP: a reset was seen; a later packet other than a reset brings the connection back.
    TcpTrans = 8,
    /// No flow, but an endpoint-independent mapping that flows share.
    Binding = 9,
}

impl Phase {
    /// The phase that a map byte stands for; map bytes are never trusted to be one.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Udp),
            2 => Some(Self::IcmpQuery),
            3 => Some(Self::TcpInit),
            4 => Some(Self::TcpEstablished),
            5 => Some(Self::TcpClientFin),
            6 => Some(Self::TcpServerFin),
            7 => Some(Self::TcpBothFin),
            8 => Some(Self::TcpTrans),
            9 => Some(Self::Binding),
            _ => None,
        }
    }

    /// The name in listings and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::IcmpQuery => "icmp-query",
            Self::TcpInit => "init",
            Self::TcpEstablished => "established",
            Self::TcpClientFin => "client-fin",
            Self::TcpServerFin => "server-fin",
            Self::TcpBothFin => "both-fin",
            Self::TcpTrans => "trans",
            Self::Binding => "binding",
        }
    }
}

/// What one side of a TCP connection has sent so far: bits of [`FlowEntry::sent`].
pub mod sent {
    /// A SYN (with or without ACK).
    pub const SYN: u8 = 1;
    /// A segment with ACK.
    pub const ACK: u8 = 2;
    /// A FIN that belongs to the connection.
    pub const FIN: u8 = 4;
    /// A RST that belongs to the connection.
    pub const RST: u8 = 8;
    /// The acknowledgement of the other side's FIN.
    pub const FIN_ACKED: u8 = 16;
    /// Its first FIN only after the other side's: the vendor's end then remembers nothing of the connection.
    pub const CLOSED_SECOND: u8 = 32;
    /// Its RST came with exactly the sequence number that the other side expected.
    pub const RST_EXPECTED: u8 = 64;
}

/// One direction of a flow. One cache line: with the kernel's 48 bytes and the key's 16 in front of it, an
/// entry is two lines and a lookup that hits touches both once.
///
/// The other direction's key follows from this entry and its key: swap the addresses and ports after the
/// rewrite. Fields are in host byte order unless their type says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
pub struct FlowEntry {
    /// Bytes translated in this direction, IP header included.
    #[cfg(not(feature = "layout-next"))]
    pub bytes: u64,
    /// Packets translated in this direction.
    pub packets: u64,
    /// Bytes translated in this direction, IP header included.
    #[cfg(feature = "layout-next")]
    pub bytes: u64,
    /// [`FlowKey::check`] of this entry's own key. In front of the rewrite, so that whoever reads the rewrite
    /// and then this of a slot that is being given away sees the new flow's.
    pub check: u16,
    /// Vendor slot, index into the policies.
    pub vendor: u8,
    /// Way of translation.
    pub direction: Direction,
    /// This side's timer. The flow lives as long as either side's runs.
    pub expires: Moment,
    /// When the flow was made.
    pub created: Moment,
    /// The address to write: source when outbound, destination when inbound.
    pub new_addr: Ip4,
    /// The port or query identifier to write, likewise.
    pub new_port: Port,
    /// Folded one's complement difference of the address rewrite (RFC 1624), constant for the flow.
    pub addr_delta: u16,
    /// Shared by both entries of a flow.
    pub phase: Phase,
    /// TCP: what this side has sent, see [`sent`].
    pub sent: u8,
    /// TCP: this side's window scale (RFC 7323), 0 if it sent none.
    pub window_scale: u8,
    /// XDP slot of the device to send through; 0 while unknown.
    pub out_slot: u8,
    /// TCP: the sequence number after the last byte this side has sent.
    #[cfg(not(feature = "layout-next"))]
    pub seq_end: u32,
    /// TCP: the highest acknowledgement number this side has sent. A binding: the flows that it has.
    pub ack: u32,
    /// TCP: the last timestamp value (RFC 7323) this side has sent.
    pub ts_val: u32,
    /// TCP: the sequence number after the last byte this side has sent.
    #[cfg(feature = "layout-next")]
    pub seq_end: u32,
    /// TCP: the last window this side has advertised, not scaled.
    pub window: u16,
    /// [`crate::engine::Clock::stamp`] of when next hop and other half were last looked at.
    pub stamp: u16,
    /// Ethernet address of the next hop.
    pub out_mac: [u8; 6],
    /// Largest packet the next hop takes, bytes from the IP header on; 0 while nobody has looked for it.
    pub mtu: u16,
}

impl FlowEntry {
    /// An entry that says nothing yet.
    pub const EMPTY: Self = Self {
        bytes: 0,
        packets: 0,
        check: 0,
        vendor: 0,
        direction: Direction::Outbound,
        expires: Moment::new(0),
        created: Moment::new(0),
        new_addr: Ip4::UNSPECIFIED,
        new_port: Port::new(0),
        addr_delta: 0,
        phase: Phase::Udp,
        sent: 0,
        window_scale: 0,
        out_slot: 0,
        seq_end: 0,
        ack: 0,
        ts_val: 0,
        window: 0,
        stamp: 0,
        out_mac: [0; 6],
        mtu: 0,
    };
}

const _: () = assert!(size_of::<FlowKey>() == 16);
const _: () = assert!(size_of::<FlowEntry>() == 64);

/// Names the datagram that a fragment belongs to (RFC 791), as it arrives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub src: Ip4,
    /// Destination address.
    pub dst: Ip4,
    /// IP identification, host byte order.
    pub id: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Padding, 0.
    pub _pad: u8,
}

impl FragmentKey {
    /// What an entry that makes this `addr` repeats of its key, and of that.
    #[inline(always)]
    pub const fn check(&self, addr: Ip4) -> u32 {
        let rest = (self.id as u32) << 16 | self.protocol as u32;
        let key = self.src.to_ne() ^ self.dst.to_ne().rotate_left(7) ^ rest.rotate_left(13);
        key ^ addr.to_ne().rotate_left(19)
    }
}

/// What the first fragment of a datagram decided for the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FragmentEntry {
    /// The address to write: source when outbound, destination when inbound.
    pub new_addr: Ip4,
    /// When this decision ends.
    pub expires: Moment,
    /// Folded difference of the address rewrite.
    pub addr_delta: u16,
    /// Vendor slot.
    pub vendor: u8,
    /// Way of translation, a [`Direction`] as its byte.
    pub direction: u8,
    /// [`FragmentKey::check`] of this entry's own key: the kernel reuses slots while they are read.
    pub check: u32,
    /// The identification that all fragments leave with, host byte order.
    pub id: u16,
    /// Length of the first fragment's transport header, bytes; no other may lie over it.
    pub transport_len: u8,
    /// Padding, 0.
    pub _pad: u8,
}

/// Counters from which identifications are drawn, each shared by the address pairs and protocols that fall on it.
pub const IDENTIFICATION_COUNTERS: u32 = 4096;
