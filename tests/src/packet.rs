//! IPv4 packets for tests: taken apart, put together, and their checksums computed from scratch.
//!
//! Deliberately independent of the product's own header and checksum code, which these tests judge.

use std::fmt;
use std::net::Ipv4Addr;

/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// GRE's protocol number.
pub const GRE: u8 = 47;

/// The Internet checksum of `bytes` (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(0, bytes)
}

fn sum(start: u32, bytes: &[u8]) -> u16 {
    let mut total = u64::from(start);
    for pair in bytes.chunks(2) {
        total += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The sum over the pseudo-header of TCP and UDP, not inverted.
fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: usize) -> u16 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&source.octets());
    bytes[4..].copy_from_slice(&destination.octets());
    sum(u32::from(protocol) + length as u32, &bytes)
}

/// A view of an IPv4 packet, from its IP header on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes`, if there is an IPv4 header.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= 20 && bytes[0] >> 4 == 4 && bytes[0] & 15 >= 5).then_some(Self { bytes })
    }

    /// Source address.
    pub fn source(&self) -> Ipv4Addr {
        let b = self.bytes;
        Ipv4Addr::new(b[12], b[13], b[14], b[15])
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv4Addr {
        let b = self.bytes;
        Ipv4Addr::new(b[16], b[17], b[18], b[19])
    }

    /// Protocol number.
    pub fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    /// Time to live.
    pub fn ttl(&self) -> u8 {
        self.bytes[8]
    }

    /// Length of the header with its options.
    pub fn header_length(&self) -> usize {
        usize::from(self.bytes[0] & 15) * 4
    }

    /// Length that the header claims.
    pub fn total_length(&self) -> usize {
        usize::from(u16::from_be_bytes([self.bytes[2], self.bytes[3]]))
    }

    /// Whether this is a part of a larger datagram.
    pub fn is_fragment(&self) -> bool {
        u16::from_be_bytes([self.bytes[6], self.bytes[7]]) & 0x3fff != 0
    }

    /// Whether this is a part without transport header.
    fn is_later_fragment(&self) -> bool {
        u16::from_be_bytes([self.bytes[6], self.bytes[7]]) & 0x1fff != 0
    }

    /// What follows the header, as far as it was captured; Ethernet padding is not part of it.
    pub fn payload(&self) -> &'a [u8] {
        // A segmentation-offload packet of 64 KiB and more has no length in its header.
        let claimed = if self.total_length() == 0 { self.bytes.len() } else { self.total_length() };
        let end = claimed.min(self.bytes.len());
        self.bytes.get(self.header_length()..end).unwrap_or(&[])
    }

    /// Source and destination port of TCP and UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        if !matches!(self.protocol(), TCP | UDP) || self.is_later_fragment() {
            return None;
        }
        let payload = self.payload();
        (payload.len() >= 4).then(|| {
            (u16::from_be_bytes([payload[0], payload[1]]), u16::from_be_bytes([payload[2], payload[3]]))
        })
    }

    /// ICMP's type and code.
    pub fn icmp_type(&self) -> Option<(u8, u8)> {
        let payload = self.payload();
        (self.protocol() == ICMP && !self.is_later_fragment() && payload.len() >= 8)
            .then(|| (payload[0], payload[1]))
    }

    /// The packet that an ICMP error quotes.
    pub fn quoted(&self) -> Option<Packet<'a>> {
        match self.icmp_type()? {
            (3 | 4 | 5 | 11 | 12, _) => Packet::new(&self.payload()[8..]),
            _ => None,
        }
    }

    /// Verifies every checksum of the packet from scratch. `sums` says whether the transport checksum is
    /// final or has been left for a device to complete.
    pub fn verify(&self, sums: Sums) -> Result<(), WrongChecksum> {
        let header = self.bytes.get(..self.header_length()).ok_or(WrongChecksum {
            layer: "IPv4 header cut short",
            found: 0,
            expected: 0,
        })?;
        check("IPv4 header", header, 10, 0)?;
        if self.is_fragment() {
            return Ok(());
        }
        let payload = self.payload();
        let pseudo = pseudo_header(self.source(), self.destination(), self.protocol(), payload.len());
        let (layer, offset, start) = match self.protocol() {
            TCP => ("TCP", 16, pseudo),
            UDP => ("UDP", 6, pseudo),
            ICMP => ("ICMP", 2, 0),
            _ => return Ok(()),
        };
        let Some(found) = payload.get(offset..offset + 2) else {
            return Err(WrongChecksum { layer: "transport header cut short", found: 0, expected: 0 });
        };
        let found = u16::from_be_bytes([found[0], found[1]]);
        match (sums, layer) {
            (_, "UDP") if found == 0 => {}
            // Linux leaves the pseudo-header's sum in the field for the device to go on from.
            (Sums::Partial, "TCP" | "UDP") if found == pseudo => {}
            (Sums::Partial, "TCP" | "UDP") => {
                return Err(WrongChecksum { layer: "unfinished transport", found, expected: pseudo });
            }
            _ => check(layer, payload, offset, start)?,
        }
        match self.quoted() {
            Some(quoted) if quoted.header_length() <= quoted.bytes.len() => {
                let header = &quoted.bytes[..quoted.header_length()];
                check("quoted IPv4 header", header, 10, 0)
                    .or_else(|wrong| if is_counted_again(header) { Ok(()) } else { Err(wrong) })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a header with a timestamp option (RFC 791) would be right with one overflow less: Linux goes through the options once more for an error
/// about an unreachable neighbour (`ipv4_send_dest_unreach`), which counts in a full one, and leaves the checksum.
fn is_counted_again(header: &[u8]) -> bool {
    const TIMESTAMP: u8 = 68;
    let mut before = header.to_vec();
    let Some([TIMESTAMP, _, _, overflow]) = before.get_mut(20..24) else { return false };
    *overflow = overflow.wrapping_sub(1 << 4);
    check("", &before, 10, 0).is_ok()
}

fn check(layer: &'static str, bytes: &[u8], offset: usize, start: u16) -> Result<(), WrongChecksum> {
    let found = u16::from_be_bytes([bytes[offset], bytes[offset + 1]]);
    let mut without = bytes.to_vec();
    without[offset..offset + 2].fill(0);
    let mut expected = !sum(u32::from(start), &without);
    if layer == "UDP" && expected == 0 {
        expected = 0xffff;
    }
    // A receiver cannot tell the two zeros of one's complement apart in TCP, and Linux, completing a
    // checksum in software, writes the other one (CSUM_MANGLED_0).
    let equal = found == expected || (layer == "TCP" && (found, expected) == (0xffff, 0));
    if equal { Ok(()) } else { Err(WrongChecksum { layer, found, expected }) }
}

impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = (self.source(), self.destination());
        match (self.ports(), self.icmp_type()) {
            (Some((from, to)), _) => {
                let name = if self.protocol() == TCP { "TCP" } else { "UDP" };
                write!(f, "{name} {source}:{from} > {destination}:{to}")?;
            }
            (_, Some((kind, code))) => {
                write!(f, "ICMP {source} > {destination} type {kind} code {code}")?;
                if let Some(quoted) = self.quoted() {
                    write!(f, " quoting [{quoted:?}]")?;
                }
            }
            _ => write!(f, "protocol {} {source} > {destination}", self.protocol())?,
        }
        write!(f, " ttl {} length {}", self.ttl(), self.total_length())
    }
}

/// Whether a packet's transport checksum is what will be on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sums {
    /// Final.
    Complete,
    /// Only the pseudo-header's sum is there; a device, or nobody between two veths, completes it.
    Partial,
}

/// A checksum that is not what the bytes add up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongChecksum {
    /// Which checksum.
    pub layer: &'static str,
    /// What the packet holds.
    pub found: u16,
    /// What it should hold.
    pub expected: u16,
}

impl fmt::Display for WrongChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checksum {:#06x}, expected {:#06x}", self.layer, self.found, self.expected)
    }
}

/// An IPv4 packet around `payload`, not a fragment, don't-fragment set, as Linux sends.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, ttl, protocol, 0, 0];
    packet[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// The packet with its header checksum made right, and nothing else touched.
pub fn with_header_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    let length = header_length(&packet);
    packet[10..12].fill(0);
    let sum = checksum(&packet[..length]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Length of the IP header.
pub fn header_length(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

/// The datagram in fragments that carry `sizes` bytes each (the last one carries the rest); `id` tells it
/// from others.
pub fn fragments(packet: &[u8], id: u16, sizes: &[usize]) -> Vec<Vec<u8>> {
    let start = header_length(packet);
    let payload = &packet[start..];
    let mut at = 0;
    let mut parts = Vec::new();
    while at < payload.len() {
        let left = payload.len() - at;
        let size = sizes.get(parts.len()).map_or(left, |size| (*size).min(left));
        let more = if at + size < payload.len() { 0x2000u16 } else { 0 };
        let mut part = [&packet[..start], &payload[at..at + size]].concat();
        let total = part.len() as u16;
        part[2..4].copy_from_slice(&total.to_be_bytes());
        part[4..6].copy_from_slice(&id.to_be_bytes());
        part[6..8].copy_from_slice(&(more | (at / 8) as u16).to_be_bytes());
        parts.push(with_header_checksum(part));
        at += size;
    }
    parts
}

/// Clears don't-fragment in a packet without options and gives it an identification.
pub fn may_fragment(mut packet: Vec<u8>, id: u16) -> Vec<u8> {
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6] &= !0x40;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A UDP datagram in its IPv4 packet.
pub fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), ttl: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = Vec::from(from.1.to_be_bytes());
    segment.extend(to.1.to_be_bytes());
    segment.extend(((8 + data.len()) as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(data);
    let found = !sum(u32::from(pseudo_header(from.0, to.0, UDP, segment.len())), &segment);
    segment[6..8].copy_from_slice(&(if found == 0 { 0xffff } else { found }).to_be_bytes());
    ipv4(from.0, to.0, UDP, ttl, &segment)
}

/// A TCP segment without options in its IPv4 packet. `flags` as in the header: FIN 1, SYN 2, RST 4, ACK 16.
pub fn tcp(
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    flags: u8,
    numbers: (u32, u32),
    data: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::from(from.1.to_be_bytes());
    segment.extend(to.1.to_be_bytes());
    segment.extend(numbers.0.to_be_bytes());
    segment.extend(numbers.1.to_be_bytes());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(data);
    let found = !sum(u32::from(pseudo_header(from.0, to.0, TCP, segment.len())), &segment);
    segment[16..18].copy_from_slice(&found.to_be_bytes());
    ipv4(from.0, to.0, TCP, 64, &segment)
}

/// An ICMP message in its IPv4 packet: type, code, the four bytes that follow the checksum, the rest.
pub fn icmp(source: Ipv4Addr, destination: Ipv4Addr, kind: (u8, u8), rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut message = vec![kind.0, kind.1, 0, 0];
    message.extend(rest);
    message.extend(data);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(source, destination, ICMP, 64, &message)
}

/// An echo request in its IPv4 packet.
pub fn echo_request(source: Ipv4Addr, destination: Ipv4Addr, id: u16, sequence: u16) -> Vec<u8> {
    let (id, sequence) = (id.to_be_bytes(), sequence.to_be_bytes());
    icmp(source, destination, (8, 0), [id[0], id[1], sequence[0], sequence[1]], b"abcdefghijklmnop")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 7);
    const VENDOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

    fn samples() -> Vec<Vec<u8>> {
        let query = udp((POD, 40000), (VENDOR, 7), 1, b"odd");
        vec![
            tcp((POD, 40000), (VENDOR, 443), 2, (7, 0), b""),
            tcp((POD, 40000), (VENDOR, 443), 16, (8, 9), b"some data"),
            query.clone(),
            echo_request(POD, VENDOR, 17, 1),
            icmp(VENDOR, POD, (11, 0), [0; 4], &query),
        ]
    }

    #[test]
    fn only_an_overflow_may_be_counted_after_the_checksum() {
        let query = udp((POD, 40000), (VENDOR, 7), 63, b"odd");
        // A timestamp option that is full, between header and datagram.
        let mut full = [&query[..20], &[68, 8, 9, 0x10, 0, 0, 0, 0], &query[20..]].concat();
        full[0] = 0x47;
        full[3] += 8;
        let full = with_header_checksum(full);
        let verify = |at: usize, more: u8| {
            let mut quote = full.clone();
            quote[at] = quote[at].wrapping_add(more);
            let error = icmp(VENDOR, POD, (3, 1), [0; 4], &quote);
            Packet::new(&error).expect("an IPv4 packet").verify(Sums::Complete)
        };
        assert!(verify(23, 0).is_ok() && verify(23, 0x10).is_ok());
        assert!(verify(23, 0x20).is_err() && verify(22, 0x10).is_err() && verify(15, 1).is_err());
    }

    /// The example of RFC 1071 section 3.
    #[test]
    fn sum_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn what_is_built_verifies() {
        for bytes in samples() {
            let packet = Packet::new(&bytes).expect("an IPv4 packet");
            packet.verify(Sums::Complete).unwrap_or_else(|wrong| panic!("{packet:?}: {wrong}"));
        }
    }

    /// The rule that a wrong checksum fails a test must notice every bit of every packet.
    #[test]
    fn every_flipped_bit_is_noticed() {
        for bytes in samples() {
            for bit in 0..bytes.len() * 8 {
                let mut wrong = bytes.clone();
                wrong[bit / 8] ^= 0x80 >> (bit % 8);
                let noticed = match Packet::new(&wrong) {
                    Some(packet) => packet.verify(Sums::Complete).is_err() || packet.is_fragment(),
                    None => true,
                };
                assert!(noticed, "bit {bit} of {:?}", Packet::new(&bytes));
            }
        }
    }

    /// A rewritten address without the matching change of the transport checksum is the classic fault.
    #[test]
    fn forgotten_pseudo_header_is_noticed() {
        let mut bytes = tcp((POD, 40000), (VENDOR, 443), 2, (7, 0), b"");
        bytes[12..16].copy_from_slice(&[10, 0, 1, 10]);
        bytes[10..12].fill(0);
        let sum = checksum(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        let wrong = Packet::new(&bytes).expect("an IPv4 packet").verify(Sums::Complete);
        assert_eq!(wrong.map_err(|wrong| wrong.layer), Err("TCP"));
    }

    /// An unfinished checksum must hold the sum of the pseudo-header as it is now, and nothing else passes.
    #[test]
    fn unfinished_checksums_are_verified_too() {
        let mut bytes = udp((POD, 40000), (VENDOR, 7), 64, b"data");
        let packet = Packet::new(&bytes).expect("an IPv4 packet");
        assert!(packet.verify(Sums::Partial).is_err());
        let pseudo = pseudo_header(POD, VENDOR, UDP, 12);
        bytes[26..28].copy_from_slice(&pseudo.to_be_bytes());
        let packet = Packet::new(&bytes).expect("an IPv4 packet");
        assert_eq!(packet.verify(Sums::Partial), Ok(()));
        assert!(packet.verify(Sums::Complete).is_err());
    }

    #[test]
    fn udp_without_checksum_is_right() {
        let mut bytes = udp((POD, 40000), (VENDOR, 7), 64, b"data");
        bytes[26..28].fill(0);
        let packet = Packet::new(&bytes).expect("an IPv4 packet");
        assert_eq!(packet.verify(Sums::Complete), Ok(()));
    }
}
