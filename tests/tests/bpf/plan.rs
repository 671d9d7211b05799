//! Who is who in these tests.
//!
//! Every address starts with 8.0 for a reason: a test run takes the two bytes in front of the fifteenth for
//! an Ethernet type, and in a bare IP packet, as a tunnel delivers it, these are the first two of its source
//! address. 8.0 reads as IPv4 there, so that one set of packets serves programs for both kinds of device.

use std::net::Ipv4Addr;

use vpnat_common::layout::device::role;

/// An address and a port or query identifier.
pub type End = (Ipv4Addr, u16);

/// The first pod.
pub const POD: Ipv4Addr = Ipv4Addr::new(8, 0, 2, 7);
/// Another pod.
pub const POD_2: Ipv4Addr = Ipv4Addr::new(8, 0, 2, 8);
/// All pods that have a place on the network.
pub const PODS: [Ipv4Addr; 6] = [
    POD,
    POD_2,
    Ipv4Addr::new(8, 0, 2, 9),
    Ipv4Addr::new(8, 0, 2, 10),
    Ipv4Addr::new(8, 0, 2, 11),
    Ipv4Addr::new(8, 0, 2, 12),
];
/// A router between pods and the instance.
pub const INSIDE_ROUTER: Ipv4Addr = Ipv4Addr::new(8, 0, 2, 254);
/// A pod that no vendor admits.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(8, 0, 2, 200);
/// What every vendor admits: the lower half of the pods' network, and the inside router's own address not.
pub const ALLOWED: (Ipv4Addr, u32) = (Ipv4Addr::new(8, 0, 2, 0), 25);

/// Slot of the first vendor.
pub const A: u8 = 1;
/// Slot of the second vendor, whose prefix lies inside the first one's.
pub const B: u8 = 2;
/// A packet that no vendor claims.
pub const NOBODY: u8 = 0;

/// Vendor A's prefix.
pub const PREFIX_A: (Ipv4Addr, u32) = (Ipv4Addr::new(8, 0, 192, 0), 24);
/// Vendor B's prefix.
pub const PREFIX_B: (Ipv4Addr, u32) = (Ipv4Addr::new(8, 0, 192, 128), 25);
/// What vendor A's configuration exempts.
pub const EXEMPT: (Ipv4Addr, u32) = (Ipv4Addr::new(8, 0, 192, 64), 28);

/// A server of vendor A.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(8, 0, 192, 10);
/// Another server of vendor A.
pub const SERVER_2: Ipv4Addr = Ipv4Addr::new(8, 0, 192, 11);
/// A server of vendor B.
pub const SERVER_B: Ipv4Addr = Ipv4Addr::new(8, 0, 192, 130);
/// A server in the exempt prefix.
pub const EXEMPT_SERVER: Ipv4Addr = Ipv4Addr::new(8, 0, 192, 65);
/// Neither vendor nor pod: a router on the way, or somebody else.
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(8, 0, 77, 1);

/// What vendor A sees.
pub const EGRESS_A: Ipv4Addr = Ipv4Addr::new(8, 0, 1, 10);
/// What vendor B sees.
pub const EGRESS_B: Ipv4Addr = Ipv4Addr::new(8, 0, 1, 20);
/// The next hop towards everybody outside.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(8, 0, 1, 254);

/// The instance's address towards the pods, the first of [`INSTANCE`].
pub const INSTANCE_INSIDE: Ipv4Addr = Ipv4Addr::new(8, 0, 2, 1);

/// The instance's own addresses.
pub const INSTANCE: [&str; 2] = ["8.0.2.1/24", "8.0.1.1/24"];

/// The Ethernet address that belongs to an address beside the instance.
pub const fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [_, _, net, host] = address.octets();
    [2, 0, 0, 0, net, host]
}

/// XDP slot of the device towards the pods.
pub const INSIDE_SLOT: u8 = 1;
/// XDP slot of the device towards the vendors.
pub const OUTSIDE_SLOT: u8 = 2;

/// The part of a device that pods' and vendors' packets share.
pub const BOTH: u8 = role::INSIDE | role::OUTSIDE;
