//! Internet checksum arithmetic (RFC 1071), by difference where a header changes (RFC 1624 equation 3).
//!
//! Sums are kept in the byte order of the packet as loaded by the host ("native" words): one's complement
//! addition does not care, as long as every term is loaded the same way.

/// A running one's complement sum, not yet folded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(pub u32);

impl Sum {
    /// Adds a 16-bit word.
    #[inline(always)]
    pub const fn add16(self, word: u16) -> Self {
        Self(self.0.wrapping_add(word as u32))
    }

    /// Adds a 32-bit word as its two halves.
    #[inline(always)]
    pub const fn add32(self, word: u32) -> Self {
        Self(self.0.wrapping_add(word & 0xffff).wrapping_add(word >> 16))
    }

    /// Folds the carries back in.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let once = (self.0 & 0xffff) + (self.0 >> 16);
        ((once & 0xffff) + (once >> 16)) as u16
    }
}

/// The folded difference `~old + new` of a 32-bit field, native order.
#[inline(always)]
pub const fn delta32(old: u32, new: u32) -> u16 {
    Sum(0).add32(!old).add32(new).fold()
}

/// The folded difference `~old + new` of a 16-bit field, native order.
#[inline(always)]
pub const fn delta16(old: u16, new: u16) -> u16 {
    difference(old, new).fold()
}

/// The difference `~old + new` of a 16-bit field, native order, not folded yet.
#[inline(always)]
pub const fn difference(old: u16, new: u16) -> Sum {
    Sum(0).add16(!old).add16(new)
}

/// The checksum field after the words it covers changed by `delta`: `~(~HC + delta)`.
#[inline(always)]
pub const fn apply(check: u16, delta: Sum) -> u16 {
    !delta.add16(!check).fold()
}

/// The checksum of `bytes` from scratch: the value that goes into a header whose checksum field was 0.
/// Native word order, for the host's side and for short headers.
pub fn of_bytes(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    let mut pairs = bytes.chunks_exact(2);
    for pair in &mut pairs {
        sum += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    if let [last] = pairs.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
