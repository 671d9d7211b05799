//! Reading packets for the judge. Written from the RFCs and not with the product's own header code.

use std::net::Ipv4Addr;
use std::ops::Range;

use tests::packet::{ICMP, TCP, UDP};

/// An address and a port or query identifier.
pub type End = (Ipv4Addr, u16);

/// Protocol, source, destination. A query's identifier stands at its sender, a reply's at its receiver.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    pub protocol: u8,
    pub source: End,
    pub destination: End,
}

/// An IPv4 header that a router accepts (RFC 1812 section 5.2.2), but for its checksum.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub id: u16,
    pub length: usize,
    pub total: usize,
    pub fragment: u16,
}

pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

impl Header {
    /// Reads the header at the start of `ip`. `big`: a total length of 0 stands for all that is there.
    pub fn read(ip: &[u8], big: bool) -> Option<Self> {
        if ip.len() < 20 {
            return None;
        }
        let length = usize::from(ip[0] & 15) * 4;
        let mut total = usize::from(be16(ip, 2));
        if total == 0 && big {
            total = ip.len();
        }
        let sound = ip[0] >> 4 == 4 && length >= 20 && total >= length && total <= ip.len();
        sound.then(|| Self::fields(ip, length, total))
    }

    /// Reads a quoted header: the total length is of the packet that was quoted, not of the quote.
    pub fn quoted(ip: &[u8]) -> Option<Self> {
        if ip.len() < 20 || ip[0] >> 4 != 4 || ip[0] & 15 < 5 {
            return None;
        }
        Some(Self::fields(ip, usize::from(ip[0] & 15) * 4, usize::from(be16(ip, 2))))
    }

    fn fields(ip: &[u8], length: usize, total: usize) -> Self {
        Self {
            source: address(ip, 12),
            destination: address(ip, 16),
            protocol: ip[9],
            id: be16(ip, 4),
            length,
            total,
            fragment: be16(ip, 6) & 0x3fff,
        }
    }

    /// What the parts of a datagram have in common (RFC 791 section 3.2): addresses, protocol, identification.
    pub fn datagram(&self) -> (u32, u32, u8, u16) {
        (self.source.to_bits(), self.destination.to_bits(), self.protocol, self.id)
    }

    pub fn is_later_fragment(&self) -> bool {
        self.fragment & 0x1fff != 0
    }

    /// The flow that the packet names by its own transport header.
    pub fn tuple(&self, ip: &[u8]) -> Option<Tuple> {
        let transport = ip.get(self.length..)?;
        if transport.len() < 8 || self.is_later_fragment() {
            return None;
        }
        let (from, to) = match self.protocol {
            TCP | UDP => (be16(transport, 0), be16(transport, 2)),
            ICMP => match transport[0] {
                8 | 13 => (be16(transport, 4), 0),
                0 | 14 => (0, be16(transport, 4)),
                _ => return None,
            },
            _ => return None,
        };
        Some(Tuple {
            protocol: self.protocol,
            source: (self.source, from),
            destination: (self.destination, to),
        })
    }

    /// Where the port or identifier of the source (or, if not `source`, of the destination) lies.
    pub fn port_at(&self, source: bool) -> usize {
        self.length
            + if self.protocol == ICMP {
                4
            } else if source {
                0
            } else {
                2
            }
    }

    /// Where the transport checksum lies.
    pub fn check_at(&self) -> usize {
        self.length
            + match self.protocol {
                TCP => 16,
                UDP => 6,
                _ => 2,
            }
    }

    /// Whether it is an ICMP error, that is judged by what it quotes.
    pub fn is_icmp_error(&self, ip: &[u8]) -> bool {
        self.protocol == ICMP
            && !self.is_later_fragment()
            && ip.get(self.length).is_some_and(|kind| matches!(kind, 3 | 11 | 12))
    }
}

impl Tuple {
    pub fn turned(self) -> Self {
        Self { protocol: self.protocol, source: self.destination, destination: self.source }
    }
}

/// The one's complement sum of `bytes`, reduced modulo 0xffff, so that both zeros are one.
pub fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0u64;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    (total % 0xffff) as u32
}

/// The sum over `range` of the packet and, for TCP and UDP, the addresses of the pseudo-header.
pub fn sum_with_addresses(ip: &[u8], header: &Header, range: Range<usize>) -> u32 {
    let addresses = if header.protocol == ICMP { 0 } else { sum(&ip[12..20]) };
    (addresses + sum(&ip[range])) % 0xffff
}
