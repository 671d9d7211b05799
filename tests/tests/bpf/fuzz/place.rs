//! Where a packet meets vpnat, and under which conditions.

use vpnat_common::layout::outcome::Hook;

use super::random::Random;
use crate::plan::mac_of;
use crate::world::Site;

/// The mark of redirected packets in these runs.
pub const MARK: u32 = 0x7670_6e61;

/// A program on a device.
#[derive(Clone, Debug)]
pub struct Place {
    pub program: &'static str,
    pub hook: Hook,
    /// Length of the link layer's header.
    pub link: usize,
    /// Whether pods' packets may arrive here; vendors' packets.
    pub inside: bool,
    pub outside: bool,
    pub device: u32,
    /// The device that the packet came in by; 0: made on the instance.
    pub came_by: u32,
    /// The device's own Ethernet address.
    pub mac: [u8; 6],
}

/// What is the same for all packets of a round.
#[derive(Clone, Debug)]
pub struct Conditions {
    pub one_arm: bool,
    /// Whether TC ingress sends on what it can.
    pub redirect: bool,
    /// Whether the outside device's egress hook is said to be attached.
    pub guarded: bool,
    /// Whether the maps are said to be complete.
    pub ready: bool,
    pub pick_up: bool,
    /// Limits of vendor A's policy, 0: none.
    pub mss: u16,
    pub path_mtu: u16,
    /// How many ports there are.
    pub ports: u16,
}

impl Conditions {
    pub fn draw(random: &mut Random) -> Self {
        Self {
            one_arm: random.once_in(2),
            redirect: random.once_in(2),
            guarded: !random.once_in(8),
            ready: !random.once_in(12),
            pick_up: random.once_in(2),
            mss: random.pick(&[0, 0, 536, 1360]),
            path_mtu: random.pick(&[0, 0, 576, 1400]),
            ports: random.pick(&[64512, 64512, 64512, 3]),
        }
    }
}

impl Place {
    pub fn is_xdp(&self) -> bool {
        self.hook == Hook::Xdp
    }

    /// Whether packets leave here.
    pub fn is_egress(&self) -> bool {
        matches!(self.hook, Hook::TcEgress | Hook::TcGuard)
    }

    /// Whether pods' packets are what is mostly seen here.
    pub fn may_be_outbound(&self) -> bool {
        self.inside || matches!(self.hook, Hook::TcEgress | Hook::TcGuard)
    }

    /// Whether what is translated here is sent on past the stack.
    pub fn may_send(&self, conditions: &Conditions) -> bool {
        self.is_xdp()
            || self.hook == Hook::TcIngress
                && self.link != 0
                && !self.program.ends_with("_xfrm")
                && conditions.redirect
    }

    /// Every program on every device where the agent may put it, and some where it does not.
    pub fn all(site: &Site) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |program: &'static str, (inside, outside), (device, mac), came_by| {
            let hook = match program {
                _ if program.starts_with("xdp") => Hook::Xdp,
                _ if program.starts_with("ingress") => Hook::TcIngress,
                _ if program.starts_with("egress_outside") => Hook::TcEgress,
                _ => Hook::TcGuard,
            };
            let link = if program.ends_with("_l3") { 0 } else { 14 };
            all.push(Self { program, hook, link, inside, outside, device, came_by, mac });
        };
        let (inside, outside, other) = (site.inside, site.outside, (site.other, [2, 0, 0, 0, 0, 1]));
        if site.one_arm() {
            let twice = ["xdp_both", "ingress_both_l2"];
            for program in twice.into_iter().chain(twice).chain(["ingress_both_l3", "ingress_both_xfrm"]) {
                add(program, (true, true), inside, inside.0);
            }
        } else {
            for program in ["xdp_inside", "ingress_inside_l2", "ingress_inside_l3", "ingress_inside_xfrm"] {
                add(program, (true, false), inside, inside.0);
            }
            for program in ["xdp_outside", "ingress_outside_l2", "ingress_outside_l3", "ingress_outside_xfrm"]
            {
                add(program, (false, true), outside, outside.0);
            }
        }
        for program in ["egress_outside_l2", "egress_outside_l3"] {
            for came_by in [inside.0, inside.0, outside.0, other.0, 0] {
                add(program, (false, true), outside, came_by);
            }
        }
        for program in ["egress_guard_l2", "egress_guard_l3"] {
            for came_by in [inside.0, 0] {
                add(program, (false, false), other, came_by);
            }
        }
        add("egress_loopback_l2", (false, false), (1, [0; 6]), 0);
        all
    }

    /// Puts the link layer's header in front of the packet.
    pub fn frame(&self, random: &mut Random, ip: &[u8], frame: &mut Vec<u8>) {
        frame.clear();
        if self.link != 0 {
            let to = match random.below(24) {
                0 => [0xff; 6],
                1 => [1, 0, 0x5e, 0, 0, 1],
                2 => [2, 9, 9, 9, 9, 9],
                _ => self.mac,
            };
            frame.extend(to);
            frame.extend(mac_of(std::net::Ipv4Addr::new(8, 0, 0, 99)));
            let kind: u16 = match random.below(48) {
                0 => 0x86dd,
                1 => 0x8100,
                2 => 0x0806,
                3 => random.word(),
                _ => 0x0800,
            };
            frame.extend(kind.to_be_bytes());
            if kind == 0x8100 {
                // Before what is, mostly, an IPv4 packet.
                frame.extend([0, random.below(4) as u8]);
                frame.extend(if random.below(8) == 0 { [0x81, 0, 0, 0, 8, 0].as_slice() } else { &[8, 0] });
            }
        }
        frame.extend_from_slice(ip);
        // A test run wants a link layer's header, and an IP header behind what it takes for one.
        frame.resize(frame.len().clamp(34, 3200), 0);
    }

    /// Whether the program takes the frame for IPv4.
    pub fn is_ipv4(&self, frame: &[u8]) -> bool {
        // A test run takes the type from here also where the program knows of no link layer.
        frame[12..14] == [8, 0] && !(self.is_xdp() && frame[0] & 1 != 0)
    }
}
