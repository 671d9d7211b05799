//! The rules that no packet may break, checked from scratch.

use std::collections::HashMap;

use vpnat_common::engine::egress;
use vpnat_common::layout::flow::Direction;
use vpnat_common::layout::outcome::{Fate, Outcome};

use crate::frame::Frame;
use crate::life::Path;
use crate::tables::{EGRESS, POD_NET, VENDOR_NET, World};
use crate::template::TCP_CHECKSUM;
use crate::wire::{ICMP, TCP, UDP, assert_same, finished, header_length};

/// A packet's end at a hook: `found` is what `packet` has become.
pub fn packet(path: Path, outbound: bool, packet: &[u8], outcome: Outcome, found: &[u8]) {
    if outcome.fate() != Fate::Translated {
        // To a vendor, TC egress translates or drops; there is no third.
        if outbound && path == Path::Tc && packet.len() >= 20 && packet[16..19] == VENDOR_NET {
            assert_ne!(outcome.fate(), Fate::Passed, "{outcome:?}");
        }
        return;
    }
    assert_eq!(found.len(), packet.len());
    match outcome {
        Outcome::Outbound => {
            assert!(outbound);
            assert_eq!(found[12..16], EGRESS.octets(), "the source of a translated packet");
            assert_eq!(found[16..20], packet[16..20], "its destination");
            assert_eq!(packet[16..19], VENDOR_NET, "only a vendor's");
        }
        Outcome::Inbound => {
            assert!(!outbound);
            assert_eq!(found[16..19], POD_NET, "the destination of a restored packet");
            assert_eq!(found[12..16], packet[12..16], "its source");
            assert_eq!(packet[16..20], EGRESS.octets(), "only the egress address's");
        }
        other => panic!("translated, and ended as {other:?}"),
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]])).min(packet.len());
    assert_eq!(found[total..], packet[total..], "what lies behind the packet");
    contents(outbound, &packet[..total], &found[..total]);
}

/// Checksums stay right, and nothing has changed that is not an address, a port or a checksum.
fn contents(outbound: bool, packet: &[u8], found: &[u8]) {
    let header = header_length(packet);
    let part = u16::from_be_bytes([packet[6], packet[7]]);
    if header_right(packet) {
        assert!(header_right(found), "the header's checksum");
    }
    // Addresses, identification (RFC 6864) and checksum of the header.
    same_but(packet, found, header, &[4, 5, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19], "the header");
    if part & 0x1fff != 0 {
        assert_eq!(found[header..], packet[header..], "a later fragment carries data only");
        return;
    }
    let (before, after) = (&packet[header..], &found[header..]);
    if part & 0x2000 == 0 && right(packet) {
        assert!(right(found), "the transport's checksum");
    }
    match packet[9] {
        TCP => {
            let sum = [TCP_CHECKSUM, TCP_CHECKSUM + 1];
            same_but(before, after, before.len(), &[&sum[..], &[0, 1, 2, 3]].concat(), "TCP");
        }
        UDP => {
            same_but(before, after, before.len(), &[0, 1, 2, 3, 6, 7], "UDP");
            assert_eq!(
                before[6..8] == [0, 0],
                after[6..8] == [0, 0],
                "no checksum stays none, and one stays one"
            );
        }
        ICMP if matches!(before[0], 3 | 11 | 12) => quote(outbound, before, after),
        ICMP => same_but(before, after, before.len(), &[2, 3, 4, 5], "a query"),
        other => panic!("protocol {other} is not translated"),
    }
}

/// An error's quote: whoever is told sees a packet of its own.
fn quote(outbound: bool, before: &[u8], after: &[u8]) {
    same_but(before, after, 8, &[2, 3], "an error's own header");
    let (before, after) = (&before[8..], &after[8..]);
    let header = header_length(before);
    if outbound {
        assert_eq!(after[16..20], EGRESS.octets(), "the vendor has sent to the egress address");
        assert_eq!(after[12..16], before[12..16]);
    } else {
        assert_eq!(after[12..15], POD_NET, "the pod is shown its own packet");
        assert_eq!(after[16..20], before[16..20]);
    }
    same_but(before, after, header, &[10, 11, 12, 13, 14, 15, 16, 17, 18, 19], "the quoted header");
    if header_right(before) {
        assert!(header_right(after), "the quoted header's checksum");
    }
    let may: &[usize] = match before[9] {
        TCP => &[0, 1, 2, 3, TCP_CHECKSUM, TCP_CHECKSUM + 1],
        UDP => &[0, 1, 2, 3, 6, 7],
        _ => &[2, 3, 4, 5],
    };
    same_but(&before[header..], &after[header..], before.len() - header, may, "the quoted transport");
}

/// Nothing differs in the first `length` bytes but at the places `may`.
fn same_but(before: &[u8], after: &[u8], length: usize, may: &[usize], what: &str) {
    for place in (0..length).filter(|place| !may.contains(place)) {
        if before[place] != after[place] {
            eprintln!("{what}: byte {place}");
            assert_same(after, before);
        }
    }
}

fn header_right(packet: &[u8]) -> bool {
    let header = header_length(packet);
    header >= 20 && packet.len() >= header && crate::wire::checksum(&packet[..header]) == 0
}

/// Whether the transport's checksum is right; a TCP checksum has two zeros.
fn right(packet: &[u8]) -> bool {
    let mut expected = packet.to_vec();
    let header = header_length(packet);
    expected = finished(expected);
    // The header's own is judged apart.
    expected[header..] == packet[header..]
}

/// Every device that plays no part lets nothing out that is on its way to a vendor.
pub fn guard(world: &World, packet: &[u8]) {
    let decision = egress::guard(world, &Frame::new(packet));
    assert!(!decision.is_translated());
    if packet.len() >= 20 && packet[16..19] == VENDOR_NET {
        assert_eq!(decision.outcome().fate(), Fate::Dropped);
    }
}

/// No port is two flows': each outbound entry has an end of its own outside, and its inbound half is its own.
pub fn table(world: &mut World) {
    let mut ends = HashMap::new();
    let table = world.table();
    for (key, entry) in table.values().filter(|(_, entry)| entry.direction == Direction::Outbound) {
        let end = format!(
            "{} {:?}:{:?} {:?}:{:?}",
            key.protocol, entry.new_addr, entry.new_port, key.dst, key.dst_port
        );
        if let Some(other) = ends.insert(end, *key) {
            panic!("{other:?} and {key:?} share a port");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::{pod, server};
    use crate::wire::{rewritten, tcp};

    /// The rules notice every flipped bit of a translated packet, but for the address and port themselves (which
    /// the checksum gives away) and the identification.
    #[test]
    fn every_flipped_bit_is_noticed() {
        let sent = tcp((pod(1), 40000), (server(10), 443), 2, (7, 0), b"data");
        let right = rewritten(&sent, 0, (EGRESS, 41000));
        packet(Path::Tc, true, &sent, Outcome::Outbound, &right);
        for bit in 0..right.len() * 8 {
            let mut wrong = right.clone();
            wrong[bit / 8] ^= 0x80 >> (bit % 8);
            let noticed =
                std::panic::catch_unwind(|| packet(Path::Tc, true, &sent, Outcome::Outbound, &wrong));
            assert!(noticed.is_err(), "bit {bit}");
        }
    }
}
