//! What packets must become, worked out from scratch: fields are written, then every checksum is computed
//! anew over the whole of what it covers.

use std::net::Ipv4Addr;

use tests::packet::{ICMP, TCP, UDP, checksum};
pub use tests::packet::{fragments, header_length, with_header_checksum};

use crate::plan::End;

/// The packet with another source address and port (or query identifier).
pub fn source(packet: &[u8], to: End) -> Vec<u8> {
    rewritten(packet, 12, 0, to)
}

/// The packet with another destination address and port (or query identifier).
pub fn destination(packet: &[u8], to: End) -> Vec<u8> {
    rewritten(packet, 16, 2, to)
}

fn rewritten(packet: &[u8], address: usize, port: usize, to: End) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let transport = header_length(&packet);
    packet[address..address + 4].copy_from_slice(&to.0.octets());
    let port = transport + if packet[9] == ICMP { 4 } else { port };
    packet[port..port + 2].copy_from_slice(&to.1.to_be_bytes());
    finished(packet)
}

/// The packet one hop further.
pub fn hop(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[8] -= 1;
    with_header_checksum(packet)
}

/// The packet with all its checksums made right. UDP without checksum stays so.
pub fn finished(packet: Vec<u8>) -> Vec<u8> {
    let mut packet = with_header_checksum(packet);
    let start = header_length(&packet);
    let end = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let (at, pseudo) = match packet[9] {
        TCP => (16, true),
        UDP => (6, true),
        ICMP => (2, false),
        _ => return packet,
    };
    if packet[9] == UDP && packet[start + at..start + at + 2] == [0, 0] {
        return packet;
    }
    packet[start + at..start + at + 2].fill(0);
    let mut covered = Vec::new();
    if pseudo {
        covered.extend(&packet[12..20]);
        covered.extend([0, packet[9]]);
        covered.extend(((end - start) as u16).to_be_bytes());
    }
    covered.extend(&packet[start..end]);
    let mut sum = checksum(&covered);
    if packet[9] == UDP && sum == 0 {
        sum = 0xffff;
    }
    packet[start + at..start + at + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The packet with IP options put in; `options` fill whole words.
pub fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0, "options fill whole words");
    let mut packet = [&packet[..20], options, &packet[20..]].concat();
    packet[0] += (options.len() / 4) as u8;
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    with_header_checksum(packet)
}

/// The packet with another time to live.
pub fn with_ttl(packet: &[u8], ttl: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[8] = ttl;
    with_header_checksum(packet)
}

/// The packet with another identification.
pub fn with_id(packet: &[u8], id: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    with_header_checksum(packet)
}

/// The UDP datagram without checksum.
pub fn without_udp_checksum(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let at = header_length(&packet) + 6;
    packet[at..at + 2].fill(0);
    packet
}

/// An ICMP error of `kind` from `from` to `to`, quoting the first `quoted` bytes of `quote`. `rest` is what
/// stands between checksum and quote, `behind` what follows the quote.
pub fn icmp_error(
    (from, to): (Ipv4Addr, Ipv4Addr),
    kind: (u8, u8),
    rest: [u8; 4],
    quote: &[u8],
    behind: &[u8],
) -> Vec<u8> {
    let data = [quote, behind].concat();
    tests::packet::icmp(from, to, kind, rest, &data)
}
