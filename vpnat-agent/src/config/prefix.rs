//! IPv4 prefixes as people write them. The arithmetic is ipnet's, the complaints are ours.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;

/// Why a text is not a prefix.
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
        network: Ipv4Net,
    },
}

/// Reads `a.b.c.d/n`, with all host bits zero.
pub fn parse(text: &str) -> Result<Ipv4Net, PrefixError> {
    let malformed = || PrefixError::Malformed(text.to_owned());
    // ipnet's own reader takes leading zeros, which are octal elsewhere; the standard library's does not.
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    if address.parse::<Ipv6Addr>().is_ok() {
        return Err(PrefixError::Ipv6(text.to_owned()));
    }
    if !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
    let length = length.parse().map_err(|_| malformed())?;
    let prefix = Ipv4Net::new(address, length).map_err(|_| malformed())?;
    let network = prefix.trunc();
    if network == prefix { Ok(prefix) } else { Err(PrefixError::HostBits { text: text.to_owned(), network }) }
}

/// Whether the two have an address in common.
pub fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Ipv4Net {
        parse(text).expect(text)
    }

    #[test]
    fn reads_and_prints_the_same() {
        for text in ["192.0.2.0/24", "10.0.1.10/32", "0.0.0.0/0", "198.51.100.128/25"] {
            assert_eq!(prefix(text).to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_prefix() {
        for text in [
            "",
            "/",
            "192.0.2.0",
            "192.0.2.0/",
            "192.0.2.0/33",
            "192.0.2/24",
            "192.0.2.0/+8",
            "192.0.02.0/24",
            "a/8",
        ] {
            assert_eq!(parse(text), Err(PrefixError::Malformed(text.into())), "{text}");
        }
    }

    #[test]
    fn tells_host_bits_and_the_network() {
        let error = parse("192.0.2.7/24").unwrap_err();
        assert_eq!(
            error,
            PrefixError::HostBits { text: "192.0.2.7/24".into(), network: prefix("192.0.2.0/24") }
        );
    }

    #[test]
    fn tells_ipv6_apart() {
        assert_eq!(parse("::/0"), Err(PrefixError::Ipv6("::/0".into())));
    }

    #[test]
    fn overlap_is_containment_either_way() {
        assert!(overlap(prefix("192.0.2.0/24"), prefix("192.0.2.128/25")));
        assert!(overlap(prefix("192.0.2.128/25"), prefix("192.0.2.0/24")));
        assert!(!overlap(prefix("192.0.2.0/25"), prefix("192.0.2.128/25")));
        assert!(overlap(prefix("0.0.0.0/0"), prefix("10.0.0.0/8")));
        assert!(overlap(prefix("192.0.2.0/24"), prefix("192.0.2.0/24")));
    }
}
