//! IPv4 packets put together and judged from scratch, without the product's own arithmetic.

use std::net::Ipv4Addr;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// An address and a port or query identifier.
pub type End = (Ipv4Addr, u16);

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 =
        bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Where the transport checksum lies, from the start of its header.
fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP => Some(2),
        _ => None,
    }
}

/// Length of the IP header.
pub fn header_length(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

/// What a transport checksum covers, with the checksum itself.
fn covered(packet: &[u8]) -> Vec<u8> {
    let transport = &packet[header_length(packet)..];
    if packet[9] == ICMP {
        return transport.to_vec();
    }
    let length = (transport.len() as u16).to_be_bytes();
    [&packet[12..20], &[0, packet[9]], &length, transport].concat()
}

/// The packet with all its checksums made right. UDP without checksum stays so.
pub fn finished(mut packet: Vec<u8>) -> Vec<u8> {
    let start = header_length(&packet);
    packet[10..12].fill(0);
    let sum = checksum(&packet[..start]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let Some(at) = checksum_at(packet[9]).map(|at| start + at) else { return packet };
    if packet[9] == UDP && packet[at..at + 2] == [0, 0] {
        return packet;
    }
    packet[at..at + 2].fill(0);
    let mut sum = checksum(&covered(&packet));
    if packet[9] == UDP && sum == 0 {
        sum = 0xffff;
    }
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A packet of `protocol` around a transport header and its payload, checksums made.
fn packet(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, transport: &[u8]) -> Vec<u8> {
    let length = (20 + transport.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(transport);
    finished(packet)
}

/// A UDP datagram.
pub fn udp(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let head = [from.1, to.1, length, 0xffff].map(u16::to_be_bytes).concat();
    packet(UDP, from.0, to.0, &[&head, payload].concat())
}

/// A TCP segment with its control bits and its sequence and acknowledgement numbers.
pub fn tcp(from: End, to: End, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Vec<u8> {
    let mut head = [from.1, to.1].map(u16::to_be_bytes).concat();
    head.extend(numbers.0.to_be_bytes());
    head.extend(numbers.1.to_be_bytes());
    head.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet(TCP, from.0, to.0, &[&head, payload].concat())
}

/// An ICMP echo request (8) or reply (0).
pub fn echo(kind: u8, from: Ipv4Addr, to: Ipv4Addr, id: u16, payload: &[u8]) -> Vec<u8> {
    let head = [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat();
    packet(ICMP, from, to, &[&head, payload].concat())
}

/// The packet with another source (`side` 0) or destination (`side` 1), and every checksum computed anew.
pub fn rewritten(packet: &[u8], side: usize, end: End) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let transport = header_length(&packet);
    let address = 12 + side * 4;
    packet[address..address + 4].copy_from_slice(&end.0.octets());
    let port = transport + if packet[9] == ICMP { 4 } else { side * 2 };
    packet[port..port + 2].copy_from_slice(&end.1.to_be_bytes());
    finished(packet)
}

/// The end that a TCP or UDP packet goes to.
pub fn destination(packet: &[u8]) -> End {
    let at = header_length(packet);
    let address: [u8; 4] = packet[16..20].try_into().expect("four bytes");
    (address.into(), u16::from_be_bytes([packet[at + 2], packet[at + 3]]))
}

/// Source address, and source port or identifier.
pub fn source(packet: &[u8]) -> End {
    let at = header_length(packet) + if packet[9] == ICMP { 4 } else { 0 };
    let address = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
    (address, u16::from_be_bytes([packet[at], packet[at + 1]]))
}

/// Fails with both packets side by side, the bytes marked in which they differ.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8]) {
    let show = |bytes: &[u8], other: &[u8]| {
        let mark = |place: usize| if bytes.get(place) == other.get(place) { ' ' } else { '*' };
        bytes.iter().enumerate().map(|(place, byte)| format!("{}{byte:02x}", mark(place))).collect::<String>()
    };
    assert!(found == expected, "\n   found: {}\nexpected: {}", show(found, expected), show(expected, found));
}
