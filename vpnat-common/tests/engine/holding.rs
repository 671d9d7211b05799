//! Fragments in any order (RFC 4787 REQ-14), and what a flood of them can take.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use vpnat_common::layout::held::{SHARE_SLOTS, SLOTS};
use vpnat_common::layout::outcome::Outcome;

use crate::life::{Path, pod, server};
use crate::tables::{EGRESS, World};
use crate::wire::{finished, rewritten, udp};

/// The datagram in fragments of `size` bytes.
fn fragments(packet: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let parts = packet[20..].chunks(size).enumerate();
    let last = packet[20..].len().div_ceil(size) - 1;
    parts
        .map(|(place, part)| {
            let mut fragment = [&packet[..20], part].concat();
            let more = if place < last { 0x2000 } else { 0 };
            fragment[2..4].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
            fragment[4..6].copy_from_slice(&id.to_be_bytes());
            fragment[6..8].copy_from_slice(&(more | (place * size / 8) as u16).to_be_bytes());
            header(fragment)
        })
        .collect()
}

fn header(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].fill(0);
    let sum = crate::wire::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Sends the fragments and whatever the hook sends again; what left, whole datagrams by their identification.
fn send(world: &mut World, outbound: bool, fragments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut left = Vec::new();
    for fragment in fragments {
        let mut queue = vec![fragment.clone()];
        while let Some(packet) = queue.pop() {
            let (outcome, found) =
                if outbound { world.out(Path::Tc, &packet) } else { world.back(Path::Tc, &packet) };
            match outcome {
                Outcome::Outbound | Outcome::Inbound => left.push(found),
                Outcome::FragmentHeld => {}
                other => panic!("{other:?}"),
            }
            queue.append(&mut world.again);
        }
    }
    left
}

/// The datagram that the fragments are of; they bear one identification and cover it once.
fn reassembled(fragments: &[Vec<u8>], count: usize) -> Vec<u8> {
    let ids: BTreeSet<_> = fragments.iter().map(|fragment| fragment[4..6].to_vec()).collect();
    assert_eq!((fragments.len(), ids.len()), (count, 1));
    let offset =
        |fragment: &Vec<u8>| usize::from(u16::from_be_bytes([fragment[6], fragment[7]]) & 0x1fff) * 8;
    let mut sorted = fragments.to_vec();
    sorted.sort_by_key(offset);
    let mut whole = sorted[0][..20].to_vec();
    for fragment in &sorted {
        assert_eq!(crate::wire::checksum(&fragment[..20]), 0, "the header's checksum");
        assert_eq!(whole.len() - 20, offset(fragment));
        whole.extend(&fragment[20..]);
    }
    let total = whole.len() as u16;
    whole[2..4].copy_from_slice(&total.to_be_bytes());
    whole[6..8].fill(0);
    header(whole)
}

fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), length: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..length).map(|byte| (byte * 7) as u8).collect();
    let mut packet = udp(from, to, &payload);
    packet[6..8].fill(0);
    finished(packet)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two pods' datagrams, with one identification, shuffled together, there and back.
    #[test]
    fn any_order_will_do(length in 1usize..4000, size in 1usize..60, shuffle in any::<u64>()) {
        let size = size.max(length.div_ceil(400)) * 8;
        let mut world = World::new();
        let to = (server(10), 53);
        let mut mixed = Vec::new();
        let mut count = 0;
        for number in [1, 2] {
            let parts = fragments(&datagram((pod(number), 40000), to, length), 77, size);
            count = parts.len();
            mixed.extend(parts);
        }
        let mut state = shuffle;
        for place in (1..mixed.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            mixed.swap(place, (state >> 33) as usize % (place + 1));
        }
        prop_assume!(count <= SHARE_SLOTS as usize / 2);
        let left = send(&mut world, true, &mixed);
        prop_assert_eq!(left.len(), 2 * count);
        let ids: BTreeSet<_> = left.iter().map(|fragment| fragment[4..6].to_vec()).collect();
        prop_assert_eq!(ids.len(), 2);
        for id in ids {
            let of: Vec<_> = left.iter().filter(|fragment| fragment[4..6] == id[..]).cloned().collect();
            let whole = reassembled(&of, count);
            let port = u16::from_be_bytes([whole[20], whole[21]]);
            let number = if world.owner(port) == pod(1) { 1 } else { 2 };
            let mut expected = rewritten(&datagram((pod(number), 40000), to, length), 0, (EGRESS, port));
            expected[4..6].copy_from_slice(&id);
            prop_assert_eq!(&whole, &header(expected));

            let answer = datagram(to, (EGRESS, port), length);
            let mut parts = fragments(&answer, 78 + u16::from(number), size);
            parts.reverse();
            let back = reassembled(&send(&mut world, false, &parts), count);
            let mut expected = rewritten(&answer, 1, (pod(number), 40000));
            expected[4..6].copy_from_slice(&(78 + u16::from(number)).to_be_bytes());
            prop_assert_eq!(back, header(expected));
        }
    }
}

/// 4787-REQ-14a: fragments without a first push out their own source's only, and everything else goes on.
#[test]
fn a_flood_without_firsts_takes_its_own_share() {
    let mut world = World::new();
    let to = (server(10), 53);
    let parts = |number, id| fragments(&datagram((pod(number), 40000), to, 1000), id, 512);
    assert!(send(&mut world, true, &parts(1, 7)[1..]).is_empty());
    for flood in 0..10_000u32 {
        assert!(send(&mut world, true, &parts(2, flood as u16)[1..2]).is_empty());
        if flood.is_multiple_of(100) {
            let order = fragments(&datagram((pod(3), 40000), to, 1000), flood as u16, 512);
            assert_eq!(send(&mut world, true, &order).len(), order.len(), "in order");
            let whole = datagram((pod(3), 40001), to, 100);
            assert_eq!(world.out(Path::Tc, &whole).0, Outcome::Outbound, "unfragmented");
        }
    }
    assert!(world.kept.borrow().len() <= 2 * SHARE_SLOTS as usize, "of {SLOTS} slots");
    // Both sources' are where they were left: all of the first pod's, the last of the second's.
    assert_eq!(send(&mut world, true, &parts(1, 7)[..1]).len(), 2);
    assert_eq!(send(&mut world, true, &parts(2, 9_999)[..1]).len(), 2);
    assert_eq!(send(&mut world, true, &parts(2, 9_000)[..1]).len(), 1);
}

/// What is held ends with its time; strangers' fragments and those to nobody are not held at all.
#[test]
fn what_is_not_held() {
    let mut world = World::new();
    let to = (server(10), 53);
    let parts = fragments(&datagram((pod(1), 40000), to, 1000), 7, 512);
    assert!(send(&mut world, true, &parts[1..]).is_empty());
    world.now += 31;
    assert_eq!(send(&mut world, true, &parts[..1]).len(), 1);

    let stranger = fragments(&datagram((Ipv4Addr::new(10, 0, 3, 1), 40000), to, 1000), 7, 512);
    assert_eq!(world.out(Path::Tc, &stranger[1]).0, Outcome::FragmentUnknown);
    let addressed = fragments(&datagram(to, (pod(1), 40000), 1000), 7, 512);
    assert_eq!(world.back(Path::Tc, &addressed[1]).0, Outcome::FragmentUnknown);
    let large = fragments(&datagram((pod(1), 40000), to, 5000), 8, 2400);
    assert_eq!(world.out(Path::Tc, &large[1]).0, Outcome::FragmentUnknown);
}
