//! Packets as the engine sees them, and the headers it reads.

use crate::addr::{Ip4, Mac, Port};
use crate::checksum::Sum;
use crate::layout::flow::{Direction, FlowKey, protocol};
use crate::layout::outcome::Outcome;
use crate::opaque::opaque;
use crate::tcp::Segment;

/// Something that can be copied out of and into a packet.
///
/// # Safety
/// The type has no padding, and every bit pattern is a value.
pub unsafe trait Wire: Copy {}

// SAFETY: arrays of words.
unsafe impl<const N: usize> Wire for [u32; N] {}
// SAFETY: arrays of bytes.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: an array of structs of words.
unsafe impl<const N: usize> Wire for [Mac; N] {}
// SAFETY: `repr(C)` structs of integers that fill them.
unsafe impl Wire for Ipv4Head {}
// SAFETY: as above.
unsafe impl Wire for TransportHead {}
// SAFETY: as above.
unsafe impl Wire for TcpRest {}

/// A packet under a program's hand. Offsets count bytes from the start of the IP header.
pub trait Packet {
    /// Copies out what lies at `offset`, a constant of the caller; `None` past the packet's end.
    fn load<T: Wire>(&self, offset: usize) -> Option<T>;

    /// As [`Packet::load`], for an offset that the packet itself decides.
    fn load_at<T: Wire>(&self, offset: usize) -> Option<T>;

    /// Writes at `offset`, a constant of the caller; false past the packet's end.
    #[must_use]
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> bool;

    /// As [`Packet::store`], for an offset that the packet itself decides.
    #[must_use]
    fn store_at<T: Wire>(&mut self, offset: usize, value: T) -> bool;

    /// Bytes from the IP header to the end of the frame.
    fn len(&self) -> u32;

    /// Whether there is nothing at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is to be cut into segments, so that a total length of 0 stands for one that does not fit its field ("BIG TCP",
    /// socket buffers only).
    #[inline(always)]
    fn is_big(&self) -> bool {
        false
    }

    /// How many packets will leave for this one: a GSO packet is cut into segments behind the programs.
    #[inline(always)]
    fn segments(&self) -> u32 {
        1
    }

    /// Changes the transport checksum at `at` by the difference of the address (part of the pseudo-header)
    /// and of the port, not folded yet. With `optional` (UDP), a field of 0 means "no checksum" and stays 0, and a result
    /// of 0 is written as 0xffff (RFC 768). `PLAIN` says that `at` is a constant of the caller.
    #[must_use]
    fn change_checksum<const PLAIN: bool>(
        &mut self,
        at: usize,
        addr_delta: u16,
        port_delta: Sum,
        optional: bool,
    ) -> bool;
}

/// An IPv4 header without options (RFC 791 section 3.1). Multi-byte fields are as loaded: network byte order
/// in the host's words.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv4Head {
    /// Version in the upper half, header length in 32-bit words in the lower.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Total length in bytes.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Header checksum.
    pub check: u16,
    /// Source address.
    pub src: Ip4,
    /// Destination address.
    pub dst: Ip4,
}

/// The first eight bytes of a TCP, UDP or ICMP header, as loaded.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TransportHead {
    /// Source port; ICMP: type and code.
    pub src: u16,
    /// Destination port; ICMP: checksum.
    pub dst: u16,
    /// TCP: sequence number; UDP: length and checksum; ICMP: identifier and sequence number of a query.
    pub rest: u32,
}

impl TransportHead {
    /// The first half of `rest`, as loaded.
    #[inline(always)]
    const fn rest_high(&self) -> u16 {
        let bytes = self.rest.to_ne_bytes();
        u16::from_ne_bytes([bytes[0], bytes[1]])
    }

    #[inline(always)]
    const fn icmp_type(&self) -> u8 {
        self.src.to_ne_bytes()[0]
    }

    #[inline(always)]
    fn key(&self, ip: &Ip) -> FlowKey {
        let (src, dst) = (u16::from_be(self.src), u16::from_be(self.dst));
        // The addresses are any to the verifier already.
        let [addresses, rest] =
            FlowKey::new(ip.src, Port::new(src), ip.dst, Port::new(dst), ip.protocol).words();
        *FlowKey::of_words(&[addresses, opaque(rest)])
    }
}

/// TCP's header from the acknowledgement number on, without options (RFC 9293 section 3.1), as loaded.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TcpRest {
    /// Acknowledgement number.
    pub ack: u32,
    /// Data offset in the upper half, in 32-bit words.
    pub data_offset: u8,
    /// Control bits.
    pub flags: u8,
    /// Window, not scaled.
    pub window: u16,
    /// Checksum.
    pub check: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

/// Where things lie in an IPv4 header (RFC 791), bytes.
pub mod ipv4 {
    /// Length of a header without options.
    pub const LEN: usize = 20;
    /// Offset of DSCP and ECN.
    pub const TOS: usize = 1;
    /// Offset of the identification.
    pub const ID: usize = 4;
    /// Offset of the time to live.
    pub const TTL: usize = 8;
    /// Offset of the protocol.
    pub const PROTOCOL: usize = 9;
    /// Offset of the header checksum.
    pub const CHECK: usize = 10;
    /// Offset of the source address.
    pub const SRC: usize = 12;
    /// Offset of the destination address.
    pub const DST: usize = 16;
    /// "Don't fragment" in the flags and fragment offset, host byte order.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// "More fragments" in the flags and fragment offset, host byte order.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// The fragment offset in the flags and fragment offset, host byte order, in units of 8 bytes.
    pub const FRAGMENT_OFFSET: u16 = 0x1fff;
}

/// Where things lie in the transport headers, bytes.
pub mod transport {
    /// Offset of the source port in TCP and UDP.
    pub const SRC_PORT: usize = 0;
    /// Offset of the destination port in TCP and UDP.
    pub const DST_PORT: usize = 2;
    /// Offset of [`super::TcpRest`] in TCP.
    pub const TCP_REST: usize = 8;
    /// Length of TCP's header without options.
    pub const TCP_LEN: usize = 20;
    /// Offset of TCP's checksum.
    pub const TCP_CHECK: usize = 16;
    /// Offset of UDP's checksum.
    pub const UDP_CHECK: usize = 6;
    /// Offset of ICMP's checksum.
    pub const ICMP_CHECK: usize = 2;
    /// Offset of an ICMP query's identifier.
    pub const ICMP_ID: usize = 4;
}

/// ICMP types (RFC 792).
pub mod icmp {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// A code of it: fragmentation needed, and not allowed.
    pub const TOO_LARGE: u8 = 4;
    /// Echo.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Timestamp.
    pub const TIMESTAMP: u8 = 13;
    /// Timestamp reply.
    pub const TIMESTAMP_REPLY: u8 = 14;
}

/// An IPv4 header, read and checked.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    /// Source address.
    pub src: Ip4,
    /// Destination address.
    pub dst: Ip4,
    /// IP protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Header checksum as loaded (native words).
    pub check: u16,
    /// Identification, host byte order.
    pub id: u16,
    /// Flags and fragment offset, host byte order.
    pub fragment: u16,
    /// Header length in bytes, 20 to 60: where the transport header starts.
    pub header_len: usize,
    /// Total length in bytes.
    pub total_len: u32,
}

impl Ip {
    /// Reads the header and checks what RFC 1812 section 5.2.2 asks, but for the checksum.
    ///
    /// # Errors
    /// [`Outcome::BadHeader`] if it is cut short or contradicts itself.
    #[inline(always)]
    pub fn read<P: Packet>(packet: &P) -> Result<Self, Outcome> {
        let header: Ipv4Head = packet.load(0).ok_or(Outcome::BadHeader)?;
        let header_len = ((header.version_ihl & 0xf) as usize) << 2;
        let mut total_len = u16::from_be(header.total_len) as u32;
        if total_len == 0 && packet.is_big() {
            total_len = packet.len();
        }
        if header.version_ihl >> 4 != 4
            || header_len < ipv4::LEN
            || total_len < header_len as u32
            || total_len > packet.len()
        {
            return Err(Outcome::BadHeader);
        }
        Ok(Self {
            src: header.src,
            dst: header.dst,
            protocol: header.protocol,
            ttl: header.ttl,
            check: header.check,
            id: u16::from_be(header.id),
            fragment: u16::from_be(header.fragment),
            header_len,
            total_len,
        })
    }

    /// Whether it is atomic (RFC 6864 section 4): neither a fragment nor ever to become one.
    #[inline(always)]
    pub const fn is_atomic(&self) -> bool {
        self.fragment & (ipv4::DONT_FRAGMENT | ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET)
            == ipv4::DONT_FRAGMENT
    }

    /// Reads the header of a whole packet without options and checks it, checksum included (RFC 1812 section 5.2.2);
    /// `None` for any other.
    #[inline(always)]
    pub fn read_plain<P: Packet>(packet: &P) -> Option<Self> {
        let [first, second, third, src, dst] = packet.load::<[u32; 5]>(0)?;
        let [version_ihl, _, length_high, length_low] = first.to_ne_bytes();
        let [id_high, id_low, fragment_high, fragment_low] = second.to_ne_bytes();
        let [ttl, protocol, check_high, check_low] = third.to_ne_bytes();
        let mut total_len = u16::from_be_bytes([length_high, length_low]) as u32;
        if total_len == 0 && packet.is_big() {
            total_len = packet.len();
        }
        let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
        if version_ihl != 4 << 4 | (ipv4::LEN / 4) as u8
            || fragment & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) != 0
            || total_len < ipv4::LEN as u32
            || total_len > packet.len()
        {
            return None;
        }
        // The sum of five words fits 35 bits, that of its parts 18, and one step more tells all ones from the rest.
        let sum = first as u64 + second as u64 + third as u64 + src as u64 + dst as u64;
        let sum = (sum >> 32) + (sum >> 16 & 0xffff) + (sum & 0xffff);
        if (sum >> 16) + (sum & 0xffff) != 0xffff {
            return None;
        }
        Some(Self {
            src: Ip4 { octets: src.to_ne_bytes() },
            dst: Ip4 { octets: dst.to_ne_bytes() },
            protocol,
            ttl,
            check: u16::from_ne_bytes([check_high, check_low]),
            id: u16::from_be_bytes([id_high, id_low]),
            fragment,
            header_len: ipv4::LEN,
            total_len,
        })
    }

    /// Whether it is any part of a fragmented datagram.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) != 0
    }

    /// Whether it is a fragment without a transport header.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment & ipv4::FRAGMENT_OFFSET != 0
    }
}

/// What kind of transport packet it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A TCP segment.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An ICMP query.
    Query,
    /// The answer to an ICMP query.
    Reply,
}

/// A packet that can belong to a flow, as its transport header tells.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Its 5-tuple.
    pub key: FlowKey,
    /// What it is.
    pub kind: Kind,
    /// TCP's segment; empty for the others.
    pub tcp: Segment,
}

/// Why a packet cannot belong to a flow by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoSubject {
    /// An ICMP error: it is judged by its quote.
    IcmpError,
    /// It is not translated, for this reason.
    Refused(Outcome),
}

impl From<Outcome> for NoSubject {
    fn from(outcome: Outcome) -> Self {
        Self::Refused(outcome)
    }
}

impl Subject {
    /// Reads the transport header of an unfragmented packet or of a first fragment. `PLAIN` is the caller's
    /// knowledge that the IP header has no options: the header is then read in place.
    ///
    /// # Errors
    /// [`NoSubject`].
    #[inline(always)]
    pub fn read<P: Packet, const PLAIN: bool>(packet: &P, ip: &Ip) -> Result<Self, NoSubject> {
        const BAD: NoSubject = NoSubject::Refused(Outcome::BadHeader);
        let at = ip.header_len;
        let room = ip.total_len - ip.header_len as u32;
        // All three transports fill eight bytes, and have what tells flows apart in them.
        let head: TransportHead =
            if PLAIN { packet.load(ipv4::LEN) } else { packet.load_at(at) }.ok_or(BAD)?;
        if room < 8 {
            return Err(BAD);
        }
        match ip.protocol {
            protocol::TCP => {
                let rest: TcpRest = if PLAIN {
                    packet.load(ipv4::LEN + transport::TCP_REST)
                } else {
                    packet.load_at(at + transport::TCP_REST)
                }
                .ok_or(BAD)?;
                let header_len = (rest.data_offset >> 4) as u32 * 4;
                if header_len < 20 || header_len > room || head.dst == 0 {
                    return Err(BAD);
                }
                let tcp = Segment::new(u32::from_be(head.rest), &rest, room);
                Ok(Self { key: head.key(ip), kind: Kind::Tcp, tcp })
            }
            protocol::UDP => {
                let len = u16::from_be(head.rest_high()) as u32;
                // The length of a first fragment is that of the whole datagram, and of a GSO packet may be 0.
                let fits = len <= room || ip.is_fragment();
                if (len != 0 && len < 8) || !fits || head.dst == 0 {
                    return Err(BAD);
                }
                Ok(Self { key: head.key(ip), kind: Kind::Udp, tcp: Segment::NONE })
            }
            protocol::ICMP => {
                let id = head.rest_high();
                let (src, dst, kind) = match head.icmp_type() {
                    icmp::ECHO | icmp::TIMESTAMP => (id, 0, Kind::Query),
                    icmp::ECHO_REPLY | icmp::TIMESTAMP_REPLY => (0, id, Kind::Reply),
                    icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM => {
                        return Err(NoSubject::IcmpError);
                    }
                    _ => return Err(NoSubject::Refused(Outcome::IcmpTypeRefused)),
                };
                let key = TransportHead { src, dst, rest: 0 }.key(ip);
                Ok(Self { key, kind, tcp: Segment::NONE })
            }
            _ => Err(NoSubject::Refused(Outcome::ProtocolUnsupported)),
        }
    }

    /// The port or identifier that a translation in `direction` rewrites.
    #[inline(always)]
    pub const fn rewritten_port(&self, direction: Direction) -> Port {
        match direction {
            Direction::Outbound => self.key.src_port,
            Direction::Inbound => self.key.dst_port,
        }
    }
}
