//! One scenario in one way of meeting vpnat.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use vpnat_common::addr::Ip4;
use vpnat_common::layout::flow::FlowEntry;
use vpnat_common::layout::outcome::{Hook, Outcome, counter_index};
use vpnat_common::layout::user::FlowEntryBytes;
use vpnat_common::layout::vendor::{EgressAddress, VendorPolicy};

use crate::plan::{End, mac_of};
use crate::seen::Seen;
use crate::world::{Site, World, key, tc_context, world, xdp_context};

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// A way in which packets meet the programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// At XDP, with a device for each side.
    Xdp,
    /// At XDP, with one device for both.
    XdpOneArm,
    /// At TC of Ethernet devices.
    TcEthernet,
    /// At TC of an Ethernet device for both sides.
    TcEthernetOneArm,
    /// At TC of devices without Ethernet header.
    TcTunnel,
    /// At TC of one such device for both sides.
    TcTunnelOneArm,
    /// At TC ingress, sent on by redirect past the stack.
    Redirect,
    /// The same with one device.
    RedirectOneArm,
}

/// Every way of translating what arrives, for packets of any shape.
pub const ALL: &[Way] =
    &[Way::Xdp, Way::XdpOneArm, Way::TcEthernet, Way::TcEthernetOneArm, Way::TcTunnel, Way::TcTunnelOneArm];

/// The fast path.
pub const XDP: &[Way] = &[Way::Xdp, Way::XdpOneArm];

/// The hooks that serve every shape of packet.
pub const TC: &[Way] = &[Way::TcEthernet, Way::TcEthernetOneArm, Way::TcTunnel, Way::TcTunnelOneArm];

/// Every way for packets that all hooks translate or drop: TC ingress with redirect, too.
pub const EVERY: &[Way] = &[
    Way::Xdp,
    Way::XdpOneArm,
    Way::TcEthernet,
    Way::TcEthernetOneArm,
    Way::TcTunnel,
    Way::TcTunnelOneArm,
    Way::Redirect,
    Way::RedirectOneArm,
];

/// The mark of redirected packets; any number but 0.
const MARK: u32 = 0x7670_6e61;

/// Which way a packet travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// From a pod towards a vendor.
    Out,
    /// From outside towards a pod.
    Back,
}

impl Way {
    /// Whether this is the fast path.
    pub fn is_xdp(self) -> bool {
        XDP.contains(&self)
    }

    /// Whether TC ingress sends on what it can.
    pub fn redirects(self) -> bool {
        matches!(self, Self::Redirect | Self::RedirectOneArm)
    }

    /// Whether pods and vendors share a device.
    pub fn one_arm(self) -> bool {
        matches!(self, Self::XdpOneArm | Self::TcEthernetOneArm | Self::TcTunnelOneArm | Self::RedirectOneArm)
    }

    /// Whether packets start with an Ethernet header.
    pub fn ethernet(self) -> bool {
        !matches!(self, Self::TcTunnel | Self::TcTunnelOneArm)
    }

    /// The program that does the translation.
    pub fn program(self, course: Course) -> &'static str {
        match (self, course) {
            (Self::Xdp, Course::Out) => "xdp_inside",
            (Self::Xdp, Course::Back) => "xdp_outside",
            (Self::XdpOneArm, _) => "xdp_both",
            (Self::TcEthernet | Self::TcEthernetOneArm, Course::Out) => "egress_outside_l2",
            (Self::TcTunnel | Self::TcTunnelOneArm, Course::Out) => "egress_outside_l3",
            (Self::Redirect, Course::Out) => "ingress_inside_l2",
            (Self::TcEthernet | Self::Redirect, Course::Back) => "ingress_outside_l2",
            (Self::TcEthernetOneArm, Course::Back) | (Self::RedirectOneArm, _) => "ingress_both_l2",
            (Self::TcTunnel, Course::Back) => "ingress_outside_l3",
            (Self::TcTunnelOneArm, Course::Back) => "ingress_both_l3",
        }
    }

    /// Where it counts.
    pub fn hook(self, course: Course) -> Hook {
        match course {
            _ if self.is_xdp() => Hook::Xdp,
            Course::Out if !self.redirects() => Hook::TcEgress,
            Course::Out | Course::Back => Hook::TcIngress,
        }
    }
}

/// A flow, as the packets at its three ends name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// IP protocol number.
    pub protocol: u8,
    /// The pod's end.
    pub pod: End,
    /// The vendor's end.
    pub remote: End,
    /// What the vendor sees of the pod.
    pub public: End,
}

/// A scenario under way.
pub struct Case<'w> {
    /// Programs and maps.
    pub world: &'w mut World,
    /// How packets meet the programs.
    pub way: Way,
}

/// Runs `scenario` afresh in each of `ways`.
pub fn each(ways: &[Way], scenario: impl Fn(&mut Case<'_>) + Sync) {
    let mut world = world();
    let world = &mut *world;
    for way in ways {
        let site = if way.one_arm() { &world.one_arm } else { &world.two_arms };
        let namespace = site.namespace.clone();
        // The kernel looks devices and routes up in the namespace of the thread that runs a program.
        namespace.enter(|| {
            let mut case = Case { world: &mut *world, way: *way };
            case.restart();
            scenario(&mut case);
        });
    }
}

impl Case<'_> {
    /// The namespace and devices.
    pub fn site(&self) -> &Site {
        if self.way.one_arm() { &self.world.one_arm } else { &self.world.two_arms }
    }

    /// Begins anew: empty tables, the configuration as at first.
    pub fn restart(&mut self) {
        self.world.prepare(self.way.one_arm());
        let redirect_mark = if self.way.redirects() { MARK } else { 0 };
        self.world
            .maps
            .change_settings(|settings| settings.redirect_mark = redirect_mark)
            .expect("the mark of redirected packets");
    }

    /// Sends an IP packet from a pod towards a vendor.
    pub fn out(&mut self, packet: &[u8]) -> Seen {
        self.send(Course::Out, packet)
    }

    /// Sends an IP packet from outside towards the instance.
    pub fn back(&mut self, packet: &[u8]) -> Seen {
        self.send(Course::Back, packet)
    }

    fn send(&mut self, course: Course, packet: &[u8]) -> Seen {
        let (inside, outside) = (self.site().inside.0, self.site().outside.0);
        let (ifindex, ingress) = match (self.way.is_xdp(), course) {
            (true, Course::Out) => (inside, 0),
            (true, Course::Back) => (outside, 0),
            (false, Course::Out) if self.way.redirects() => (inside, inside),
            (false, Course::Out) => (outside, inside),
            (false, Course::Back) => (outside, outside),
        };
        self.run(self.way.program(course), self.way.hook(course), (ifindex, ingress), packet)
    }

    /// Sends an IP packet that the instance made itself, by TC egress.
    pub fn local(&mut self, packet: &[u8]) -> Seen {
        let outside = self.site().outside.0;
        self.run(self.way.program(Course::Out), Hook::TcEgress, (outside, 0), packet)
    }

    /// Runs `program` on an IP packet, on the first of `devices`, having come in by the second.
    pub fn run(&mut self, program: &str, hook: Hook, devices: (u32, u32), packet: &[u8]) -> Seen {
        let input = self.frame(devices.0, packet);
        let xdp = program.starts_with("xdp_");
        let context =
            if xdp { xdp_context(devices.0, input.len()) } else { tc_context(devices.0, devices.1) };
        let before = self.world.counts();
        let (returned, output) = self.world.run(program, &input, &context);
        let after = self.world.counts();
        let mut moved = BTreeMap::new();
        for (index, count) in after {
            let earlier = before.get(&index).copied().unwrap_or_default();
            let change = (count.packets - earlier.packets, count.bytes - earlier.bytes);
            if change != (0, 0) {
                moved.insert(index, change);
            }
        }
        Seen {
            title: format!("{:?}, {program}", self.way),
            hook,
            fast: xdp || self.way.redirects(),
            devices: [self.site().inside, self.site().outside],
            link: if self.way.ethernet() { ETHERNET } else { 0 },
            input,
            output,
            returned,
            moved,
        }
    }

    /// The packet as it comes by the device `ifindex`, addressed to it.
    pub fn frame(&self, ifindex: u32, packet: &[u8]) -> Vec<u8> {
        if !self.way.ethernet() {
            // A test run wants an IP header behind what it takes for an Ethernet header.
            let mut padded = packet.to_vec();
            padded.resize(padded.len().max(ETHERNET + 20), 0);
            return padded;
        }
        let source = mac_of(std::net::Ipv4Addr::new(8, 0, 0, 99));
        let devices = [self.site().inside, self.site().outside];
        let own =
            devices.iter().find(|device| device.0 == ifindex).map_or([2, 0, 0, 0, 0, 1], |device| device.1);
        [&own[..], &source, &[8, 0], packet].concat()
    }

    /// Moves the datapath's clock on.
    pub fn wait(&mut self, seconds: u32) {
        self.world
            .maps
            .change_settings(|settings| {
                settings.clock_offset_s = settings.clock_offset_s.wrapping_add(seconds);
            })
            .expect("the clock's offset");
    }

    /// Changes a vendor's policy.
    pub fn change_policy(&mut self, slot: u8, change: impl FnOnce(&mut VendorPolicy)) {
        let vendors = &mut self.world.maps.vendors;
        let mut policy = vendors.get(&slot.into(), 0).expect("a vendor's policy");
        change(&mut policy);
        vendors.set(slot.into(), policy, 0).expect("a vendor's policy");
    }

    /// Gives the vendor in `slot` another egress address, as the agent does: known as one before the policy names it.
    pub fn move_egress(&mut self, slot: u8, address: Ipv4Addr) {
        let egress = &mut self.world.maps.egress;
        let address = Ip4::from(address);
        let known = egress.get(&address, 0).map_or(0, |known| known.vendors);
        egress.insert(address, EgressAddress { vendors: known | 1 << slot }, 0).expect("an egress address");
        self.change_policy(slot, |policy| policy.egress[0] = address);
    }

    /// How many entries the flow table has.
    pub fn entries(&self) -> usize {
        self.world.flows.keys().flatten().count()
    }

    /// The entries of a flow, outbound first, as they lie in the table.
    pub fn halves(&self, line: &Line) -> [Option<FlowEntryBytes>; 2] {
        line.keys().map(|key| self.world.flows.get(&key, 0).ok())
    }

    /// Both entries of a flow, outbound first. Each must translate to the other end and say so soundly.
    pub fn pair(&self, line: &Line) -> [FlowEntry; 2] {
        let [outbound, inbound] = line.keys();
        let decoded = self.halves(line).map(|half| {
            half.unwrap_or_else(|| panic!("{:?}: half of {line:?} is missing", self.way))
                .decode()
                .expect("an entry that can be read")
        });
        for (entry, own, new, old) in
            [(&decoded[0], outbound, line.public, line.pod), (&decoded[1], inbound, line.pod, line.public)]
        {
            assert_eq!((entry.new_addr, entry.new_port.number), (new.0.into(), new.1), "{line:?}");
            let check = own.check(entry.direction, entry.new_addr, entry.new_port);
            assert_eq!(entry.check, check, "{line:?}");
            // ~old + new over the address, RFC 1624.
            let words = |end: End| {
                end.0.octets().chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum::<u32>()
            };
            let difference = (words(new) + 2 * 0xffff - words(old)) % 0xffff;
            assert_eq!(u32::from(u16::from_be(entry.addr_delta)) % 0xffff, difference, "{line:?}");
        }
        assert_eq!(decoded[0].phase, decoded[1].phase, "{:?}: both halves share the phase", self.way);
        decoded
    }
}

impl Line {
    /// The keys of both entries, outbound first.
    pub fn keys(&self) -> [vpnat_common::layout::flow::FlowKey; 2] {
        [key(self.protocol, self.pod, self.remote), key(self.protocol, self.remote, self.public)]
    }
}

/// The counter of a packet that ended so.
pub fn counter(vendor: u8, hook: Hook, outcome: Outcome) -> u32 {
    counter_index(vendor, hook, outcome as u32)
}
