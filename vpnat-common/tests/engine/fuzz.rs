//! Bytes that nobody meant as packets, and packets with a few bytes changed: nothing panics, nothing is half
//! translated, and no source leaves but the egress address.

use proptest::collection::vec;
use proptest::prelude::*;

use vpnat_common::engine::egress;
use vpnat_common::layout::outcome::{Fate, Outcome};

use crate::frame::Frame;
use crate::life::{PATHS, Path, pod, server};
use crate::tables::{EGRESS, VENDOR_NET, World};
use crate::wire::{echo, finished, rewritten, tcp, udp};

/// A world with a flow of each protocol, and their packets.
fn seeds() -> (World, Vec<Vec<u8>>) {
    let mut world = World::new();
    let (from, to, public) = ((pod(1), 40000), (server(10), 443), (EGRESS, 40000));
    let mut packets = vec![
        tcp(from, to, 2, (7, 0), b"data"),
        udp(from, to, b"datagram"),
        echo(8, from.0, to.0, from.1, b"payload"),
    ];
    for packet in &packets {
        assert_eq!(world.out(Path::Tc, packet).0, Outcome::Outbound);
    }
    packets.extend([
        tcp(to, public, 18, (9, 8), b"data"),
        udp(to, public, b"datagram"),
        echo(0, to.0, public.0, public.1, b"payload"),
    ]);
    // Errors about each of them, both ways.
    for quote in packets.clone() {
        let ours = quote[12..15] != VENDOR_NET;
        let seen = if ours { rewritten(&quote, 0, public) } else { rewritten(&quote, 1, from) };
        let (source, destination) = if ours { (to.0, EGRESS) } else { (from.0, to.0) };
        let mut error = echo(3, source, destination, 0, &seen);
        error[24..28].fill(0);
        packets.push(finished(error));
    }
    (world, packets)
}

/// Sends the bytes through every hook and checks what no packet may break.
fn judge(world: &mut World, bytes: &[u8]) {
    for path in PATHS {
        let (outcome, found) = world.out(path, bytes);
        if outcome == Outcome::Outbound {
            assert_eq!(found[12..16], EGRESS.octets(), "the source of a translated packet");
            assert_eq!(found[16..20], bytes[16..20], "its destination");
            assert_eq!(found.len(), bytes.len());
        }
        // To a vendor, TC egress translates or drops; there is no third.
        if path == Path::Tc && bytes.len() >= 20 && bytes[16..19] == VENDOR_NET {
            assert!(outcome.fate() != Fate::Passed, "{outcome:?}");
        }
        let (outcome, found) = world.back(path, bytes);
        if outcome == Outcome::Inbound {
            assert_eq!(found[16..20], pod(1).octets(), "the destination of a restored packet");
            assert_eq!(found[12..16], bytes[12..16], "its source");
        }
    }
    assert!(!egress::guard(world, &Frame::new(bytes)).is_translated());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..120)) {
        let (mut world, _) = seeds();
        judge(&mut world, &bytes);
    }

    #[test]
    fn packets_with_a_few_bytes_changed(
        seed: prop::sample::Index,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        more in vec(any::<u8>(), 0..8),
        right_header: bool,
    ) {
        let (mut world, packets) = seeds();
        let mut bytes = seed.get(&packets).clone();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        } else {
            bytes.extend(more);
        }
        let header = bytes.first().map_or(0, |first| usize::from(first & 15) * 4);
        if right_header && header >= 20 && bytes.len() >= header {
            bytes[10..12].fill(0);
            let sum = crate::wire::checksum(&bytes[..header]);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        judge(&mut world, &bytes);
    }
}
