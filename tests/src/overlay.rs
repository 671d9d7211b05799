//! Tunnels with Ethernet headers inside, which the kernel makes alone: VXLAN and GRETAP.

use std::net::Ipv4Addr;

use crate::netns::Namespace;
use crate::topology::{NAT, VENDOR_GATEWAY};

/// The tunnel's device, at both ends.
pub const DEVICE: &str = "overlay0";

/// A bridge that the near end's device may be a port of.
pub const BRIDGE: &str = "br-ext";

/// The near end's address inside.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(172, 31, 255, 1);

/// The far end's.
pub const FAR: Ipv4Addr = Ipv4Addr::new(172, 31, 255, 2);

/// Makes a tunnel of this `kind` from the NAT instance to the vendor's gateway, and the routes through it. `mtu` is what Linux takes
/// for right on an underlay of 1,500 bytes.
pub fn connect(kind: &str, mtu: u16, nat: &Namespace, gateway: &Namespace) {
    for (ns, local, remote, address) in
        [(nat, NAT, VENDOR_GATEWAY, NEAR), (gateway, VENDOR_GATEWAY, NAT, FAR)]
    {
        ns.ip(&format!(
            "link add {DEVICE} type {kind} local {local} remote {remote}
             link set {DEVICE} mtu {mtu} up
             addr add {address}/30 dev {DEVICE}"
        ));
    }
    nat.ip(&format!("route add 192.0.2.0/24 via {FAR}"));
    gateway.ip(&format!("route add 10.0.1.10/31 via {NEAR} src 192.0.2.1"));
}
