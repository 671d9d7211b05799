//! IPv4 prefixes as people write them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use vpnat_common::addr::Ip4;

/// An IPv4 network: an address whose host bits are zero, and how many bits it has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: u32,
    length: u8,
}

/// Why a text is not a [`Prefix`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrefixError {
    /// Not of the form `a.b.c.d/n`.
    #[error("`{0}` is not an IPv4 prefix")]
    Malformed(String),
    /// An IPv6 prefix.
    #[error("`{0}` is IPv6, which vpnat does not translate")]
    Ipv6(String),
    /// The address has bits beyond the prefix length.
    #[error("`{text}` has host bits set")]
    HostBits {
        /// As written.
        text: String,
        /// The prefix that was probably meant.
        network: Prefix,
    },
}

impl Prefix {
    /// The prefix of `length` bits that holds `address`.
    ///
    /// Lengths above 32 count as 32.
    pub fn new(address: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        Self { address: u32::from(address) & mask(length), length }
    }

    /// The network address.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.address)
    }

    /// The network address as the map layouts have it.
    pub fn ip4(self) -> Ip4 {
        Ip4::from(self.address())
    }

    /// How many leading bits count.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` lies in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.length) == self.address
    }

    /// Whether all of `other` lies in it.
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address())
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let malformed = || PrefixError::Malformed(text.to_owned());
        let (address, length) = text.split_once('/').unwrap_or((text, ""));
        if address.parse::<Ipv6Addr>().is_ok() {
            return Err(PrefixError::Ipv6(text.to_owned()));
        }
        let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
        if length.is_empty() || length.len() > 2 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        let length: u8 = length.parse().map_err(|_| malformed())?;
        if length > 32 {
            return Err(malformed());
        }
        let prefix = Self::new(address, length);
        if prefix.address() == address {
            Ok(prefix)
        } else {
            Err(PrefixError::HostBits { text: text.to_owned(), network: prefix })
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect(text)
    }

    #[test]
    fn reads_and_prints_the_same() {
        for text in ["192.0.2.0/24", "10.0.1.10/32", "0.0.0.0/0", "198.51.100.128/25"] {
            assert_eq!(prefix(text).to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_prefix() {
        for text in ["", "/", "192.0.2.0", "192.0.2.0/", "192.0.2.0/33", "192.0.2/24", "192.0.2.0/+8", "a/8"]
        {
            assert_eq!(text.parse::<Prefix>(), Err(PrefixError::Malformed(text.into())), "{text}");
        }
    }

    #[test]
    fn tells_host_bits_and_the_network() {
        let error = "192.0.2.7/24".parse::<Prefix>().unwrap_err();
        assert_eq!(
            error,
            PrefixError::HostBits { text: "192.0.2.7/24".into(), network: prefix("192.0.2.0/24") }
        );
    }

    #[test]
    fn tells_ipv6_apart() {
        assert_eq!("::/0".parse::<Prefix>(), Err(PrefixError::Ipv6("::/0".into())));
    }

    #[test]
    fn overlap_is_containment_either_way() {
        assert!(prefix("192.0.2.0/24").overlaps(prefix("192.0.2.128/25")));
        assert!(prefix("192.0.2.128/25").overlaps(prefix("192.0.2.0/24")));
        assert!(!prefix("192.0.2.0/25").overlaps(prefix("192.0.2.128/25")));
        assert!(prefix("0.0.0.0/0").overlaps(prefix("10.0.0.0/8")));
        assert!(prefix("192.0.2.0/24").covers(prefix("192.0.2.0/24")));
    }
}
