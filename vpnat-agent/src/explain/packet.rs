//! The packet that is asked about, byte for byte.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::Serialize;
use vpnat_common::addr::Port;
use vpnat_common::layout::flow::{FlowKey, protocol};

/// What pods on a jumbo network offer, bytes: so that a clamp shows.
const OFFERED_MSS: u16 = 8961;
/// Offset of the MSS in a SYN made here: IP header, TCP header, kind and length of the option.
const MSS_AT: usize = 20 + 20 + 2;

/// A protocol that is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP: a SYN, or an ACK if its flow is known.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo; the port is the identifier.
    Icmp,
}

impl Protocol {
    /// Its number (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Icmp => protocol::ICMP,
        }
    }
}

/// An address, with a port where the protocol has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Address.
    pub address: Ipv4Addr,
    /// Port, or query identifier.
    pub port: Option<u16>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, port) = match text.split_once(':') {
            Some((address, port)) => (address, Some(port)),
            None => (text, None),
        };
        let address = address.parse().map_err(|_| format!("`{address}` is no IPv4 address"))?;
        let port = port.map(|port| {
            port.parse().map_err(|_| format!("`{port}` is no port: write a number from 0 to 65535"))
        });
        Ok(Self { address, port: port.transpose()? })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// Which packet of a flow it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// TCP: asks for a connection.
    Syn,
    /// TCP: belongs to one.
    Ack,
    /// A UDP datagram.
    Datagram,
    /// An ICMP echo request.
    EchoRequest,
    /// An ICMP echo reply.
    EchoReply,
}

/// A packet as it is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Source.
    pub from: Place,
    /// Destination.
    pub to: Place,
    /// Which kind.
    pub kind: Kind,
    /// Whole length from the IP header on, bytes; what is missing is filled with zeros.
    pub size: usize,
}

impl Packet {
    /// The protocol's number.
    pub const fn protocol(&self) -> u8 {
        match self.kind {
            Kind::Syn | Kind::Ack => protocol::TCP,
            Kind::Datagram => protocol::UDP,
            Kind::EchoRequest | Kind::EchoReply => protocol::ICMP,
        }
    }

    /// What the flow table knows it by.
    pub fn key(&self) -> FlowKey {
        let port = |place: Place| Port::new(place.port.unwrap_or(0));
        FlowKey::new(
            self.from.address.into(),
            port(self.from),
            self.to.address.into(),
            port(self.to),
            self.protocol(),
        )
    }

    /// The bytes from the IP header on, checksums and all; not to be fragmented (DF).
    pub fn bytes(&self) -> Vec<u8> {
        let (source, destination) = (self.from.port.unwrap_or(0), self.to.port.unwrap_or(0));
        let mut payload = match self.kind {
            Kind::Syn | Kind::Ack => {
                let mut tcp = [source.to_be_bytes(), destination.to_be_bytes()].concat();
                let syn = self.kind == Kind::Syn;
                let (length, flags, ack) = if syn { (6, 2, 0u32) } else { (5, 16, 1) };
                tcp.extend(1u32.to_be_bytes());
                tcp.extend(ack.to_be_bytes());
                tcp.extend([length << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
                if syn {
                    tcp.extend([2, 4]);
                    tcp.extend(OFFERED_MSS.to_be_bytes());
                }
                tcp
            }
            Kind::Datagram => {
                let length = (self.size.max(28) - 20) as u16;
                [source, destination, length, 0].map(u16::to_be_bytes).concat()
            }
            Kind::EchoRequest => [&[8, 0, 0, 0][..], &source.to_be_bytes(), &[0, 1]].concat(),
            Kind::EchoReply => [&[0, 0, 0, 0][..], &destination.to_be_bytes(), &[0, 1]].concat(),
        };
        payload.resize(payload.len().max(self.size.saturating_sub(20)), 0);
        let addresses = [self.from.address.octets(), self.to.address.octets()].concat();
        let pseudo = [&addresses[..], &[0, self.protocol()], &(payload.len() as u16).to_be_bytes()].concat();
        let (at, sum) = match self.kind {
            Kind::Syn | Kind::Ack => (16, checksum(&[&pseudo, &payload])),
            Kind::Datagram => (6, checksum(&[&pseudo, &payload])),
            Kind::EchoRequest | Kind::EchoReply => (2, checksum(&[&payload])),
        };
        payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut header = vec![0x45, 0];
        header.extend((20 + payload.len() as u16).to_be_bytes());
        header.extend([0, 1, 0x40, 0, 64, self.protocol(), 0, 0]);
        header.extend(addresses);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(payload);
        header
    }
}

/// The Internet checksum (RFC 1071) of parts that are, but for the last, of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What the ends of a packet are, as far as `bytes` (from the IP header on, without options) say.
pub fn ends(bytes: &[u8]) -> Option<(Place, Place)> {
    let octets = |at: usize| -> Option<Ipv4Addr> {
        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(octets.into())
    };
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (source, destination) = match *bytes.get(9)? {
        protocol::ICMP if bytes.get(20) == Some(&0) => (None, word(24)),
        protocol::ICMP => (word(24), None),
        _ => (word(20), word(22)),
    };
    Some((Place { address: octets(12)?, port: source }, Place { address: octets(16)?, port: destination }))
}

/// The MSS that a SYN made here offers after it went through the programs.
pub fn mss(bytes: &[u8]) -> Option<u16> {
    let syn = *bytes.get(9)? == protocol::TCP && bytes.get(33)? & 2 != 0;
    syn.then(|| Some(u16::from_be_bytes(bytes.get(MSS_AT..MSS_AT + 2)?.try_into().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_read() {
        assert_eq!(place("10.0.2.7:40000").to_string(), "10.0.2.7:40000");
        assert_eq!(place("10.0.2.7").port, None);
        for text in ["", "10.0.2", "10.0.2.7:", "10.0.2.7:65536", "pod:1", "::1"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_packet_is_whole() {
        for (kind, size) in [
            (Kind::Syn, 0),
            (Kind::Ack, 0),
            (Kind::Datagram, 0),
            (Kind::Datagram, 1401),
            (Kind::EchoRequest, 0),
            (Kind::EchoReply, 64),
        ] {
            let (from, to) = (place("10.0.2.7:40000"), place("192.0.2.10:443"));
            let bytes = Packet { from, to, kind, size }.bytes();
            assert!(bytes.len() >= size);
            assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len());
            assert_eq!(checksum(&[&bytes[..20]]), 0, "{kind:?}");
            let length = (bytes.len() as u16 - 20).to_be_bytes();
            let pseudo = [&bytes[12..20], &[0, bytes[9]], &length].concat();
            let over: &[&[u8]] =
                if bytes[9] == protocol::ICMP { &[&bytes[20..]] } else { &[&pseudo, &bytes[20..]] };
            assert_eq!(checksum(over), 0, "{kind:?}");
            let (source, destination) = ends(&bytes).unwrap();
            assert_eq!((source.address, destination.address), (from.address, to.address));
            assert_eq!(mss(&bytes), (kind == Kind::Syn).then_some(OFFERED_MSS));
        }
    }
}
