//! Packets sent through the engine's hooks, each checked for what every packet must keep.

use std::net::Ipv4Addr;

use vpnat_common::engine::{Decision, egress, fast, ingress};
use vpnat_common::layout::device::role;
use vpnat_common::layout::outcome::{Fate, Outcome};

use crate::frame::Frame;
use crate::tables::{INSIDE, World};
use crate::wire::assert_same;

/// Which hook a packet meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// The fast path.
    Xdp,
    /// The one with the stack around.
    Tc,
}

/// Both.
pub const PATHS: [Path; 2] = [Path::Xdp, Path::Tc];

impl World {
    /// A pod's packet on its way to the vendor: how it ended, and what it is now.
    pub fn out(&mut self, path: Path, packet: &[u8]) -> (Outcome, Vec<u8>) {
        self.run(path, packet, |world, frame| match path {
            Path::Xdp => fast::forward::<_, _, { role::INSIDE }>(world, frame),
            Path::Tc => egress::translate(world, frame, INSIDE),
        })
    }

    /// A packet from outside.
    pub fn back(&mut self, path: Path, packet: &[u8]) -> (Outcome, Vec<u8>) {
        self.run(path, packet, |world, frame| match path {
            Path::Xdp => fast::forward::<_, _, { role::OUTSIDE }>(world, frame),
            Path::Tc => ingress::restore::<_, _, { role::OUTSIDE }>(world, frame),
        })
    }

    /// A pod's packet, at the fast path first or not; what that leaves to the stack meets the other hook next.
    pub fn all_the_way_out(&mut self, path: Path, packet: &[u8]) -> (Outcome, Vec<u8>) {
        let (outcome, found) = self.out(path, packet);
        let passed = path == Path::Xdp && outcome.fate() == Fate::Passed;
        if passed { self.out(Path::Tc, packet) } else { (outcome, found) }
    }

    /// As [`World::all_the_way_out`], for a packet from outside.
    pub fn all_the_way_back(&mut self, path: Path, packet: &[u8]) -> (Outcome, Vec<u8>) {
        let (outcome, found) = self.back(path, packet);
        let passed = path == Path::Xdp && outcome.fate() == Fate::Passed;
        if passed { self.back(Path::Tc, packet) } else { (outcome, found) }
    }

    /// Runs a hook. A packet that is not translated must be the very same afterwards; the hop that the fast
    /// path is, is taken back, so that both paths' packets compare.
    fn run(
        &mut self,
        path: Path,
        packet: &[u8],
        hook: impl FnOnce(&Self, &mut Frame) -> Decision,
    ) -> (Outcome, Vec<u8>) {
        let mut frame = Frame::new(packet);
        frame.kept = self.kept.clone();
        let decision = hook(self, &mut frame);
        self.again.append(&mut frame.again);
        self.settle();
        if !decision.is_translated() {
            assert_same(&frame.bytes, packet);
        } else if path == Path::Xdp {
            assert_eq!(frame.bytes[8], packet[8] - 1, "the time to live");
            assert!(frame.slot.is_some_and(|slot| slot != 0), "a way out");
            let header = usize::from(packet[0] & 15) * 4;
            assert_eq!(crate::wire::checksum(&frame.bytes[..header]), 0, "the header's checksum");
            frame.bytes[8] += 1;
            frame.bytes[10..12].fill(0);
            let sum = crate::wire::checksum(&frame.bytes[..header]);
            frame.bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (decision.outcome(), frame.bytes)
    }
}

/// The pod with this last octet.
pub fn pod(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, number)
}

/// The vendor's server with this last octet.
pub fn server(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}
