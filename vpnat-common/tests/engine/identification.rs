//! Identifications of what leaves (RFC 6864 section 5.3.1).

use vpnat_common::engine::egress;
use vpnat_common::layout::outcome::Outcome;

use crate::frame::Frame;
use crate::life::{PATHS, pod, server};
use crate::tables::{INSIDE, World};
use crate::wire::{finished, udp};

/// A datagram of the pod that may be fragmented.
fn datagram(number: u8) -> Vec<u8> {
    let mut packet = udp((pod(number), 40000 + u16::from(number)), (server(10), 53), b"datagram");
    packet[4..8].copy_from_slice(&[0, 77, 0, 0]);
    finished(packet)
}

fn id(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[4], packet[5]])
}

/// The kernel counts up from one segment to the next: the datagram after a GSO packet must not meet them.
#[test]
fn a_large_packet_takes_one_for_each_segment() {
    let mut world = World::new();
    let mut next = || {
        let mut frame = Frame::new(&datagram(1));
        frame.segments = 45;
        assert!(egress::translate(&world, &mut frame, INSIDE).is_translated());
        world.settle();
        id(&frame.bytes)
    };
    let (first, second) = (next(), next());
    assert_eq!(second.wrapping_sub(first), 45);
}

/// None repeats before the counter has gone round, whichever pod and hook.
#[test]
fn none_repeats() {
    let mut world = World::new();
    let mut seen = vec![false; 1 << 16];
    for round in 0..(1 << 16) {
        let path = PATHS[round % 2];
        let (outcome, packet) = world.all_the_way_out(path, &datagram(1 + (round % 3) as u8));
        assert_eq!(outcome, Outcome::Outbound);
        let before = std::mem::replace(&mut seen[usize::from(id(&packet))], true);
        assert!(!before, "identification {} again, after {round}", id(&packet));
    }
}
