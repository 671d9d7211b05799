//! Addresses and ports as types, so that no bare integer travels in two byte orders.

use core::fmt;
use core::net::Ipv4Addr;

/// An IPv4 address as it stands on the wire. bpftool prints it as four octets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C, align(4))]
pub struct Ip4 {
    /// Most significant octet first (network byte order).
    pub octets: [u8; 4],
}

impl Ip4 {
    /// 0.0.0.0, "no address" in the map layouts.
    pub const UNSPECIFIED: Self = Self { octets: [0; 4] };

    /// The address `a.b.c.d`.
    #[inline(always)]
    pub const fn new(a: u8, b: u8, c: u8, d: u8) -> Self {
        Self { octets: [a, b, c, d] }
    }

    /// The four wire bytes in the host's own order: what checksums and hashes work on.
    #[inline(always)]
    pub const fn to_ne(self) -> u32 {
        u32::from_ne_bytes(self.octets)
    }
}

impl From<Ipv4Addr> for Ip4 {
    fn from(address: Ipv4Addr) -> Self {
        Self { octets: address.octets() }
    }
}

impl From<Ip4> for Ipv4Addr {
    fn from(address: Ip4) -> Self {
        address.octets.into()
    }
}

impl fmt::Display for Ip4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Ip4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(f)
    }
}

/// An Ethernet address, as three words so that it is moved in words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct Mac {
    /// The six octets in wire order, two to a word, as the host loads them.
    pub words: [u16; 3],
}

impl Mac {
    /// The address with these octets.
    #[inline(always)]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self {
            words: [
                u16::from_ne_bytes([octets[0], octets[1]]),
                u16::from_ne_bytes([octets[2], octets[3]]),
                u16::from_ne_bytes([octets[4], octets[5]]),
            ],
        }
    }

    /// The address whose first four octets are `head` and whose last two `tail`, as the host loads them.
    #[inline(always)]
    pub const fn from_parts(head: u32, tail: u16) -> Self {
        let [a, b, c, d] = head.to_ne_bytes();
        Self { words: [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), tail] }
    }

    /// The first four octets and the last two, as the host loads them.
    #[inline(always)]
    pub const fn parts(self) -> (u32, u16) {
        let ([a, b], [c, d]) = (self.words[0].to_ne_bytes(), self.words[1].to_ne_bytes());
        (u32::from_ne_bytes([a, b, c, d]), self.words[2])
    }
}

/// A TCP or UDP port, or the identifier of an ICMP query. In the host's byte order, so that bpftool
/// prints the number that people use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct Port {
    /// The number, host byte order.
    pub number: u16,
}

impl Port {
    /// Port `number` (host byte order).
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self { number }
    }

    /// Reads a port from its two wire bytes.
    #[inline(always)]
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self { number: u16::from_be_bytes(bytes) }
    }

    /// The two bytes that go on the wire.
    #[inline(always)]
    pub const fn to_wire(self) -> [u8; 2] {
        self.number.to_be_bytes()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}
