//! The devices of the agent's own network namespace.
//!
//! Asked over netlink, never read under /sys: a process that entered a namespace without remounting /sys
//! sees another namespace's devices there.

use std::io;

use super::{Message, attributes, request, text, u16_at, u32_at};

// Attributes and values of linux/if_link.h and linux/if_arp.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_XDP: u16 = 43;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const ARPHRD_NONE: u16 = 0xfffe;
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_PPP: u16 = 512;
const ARPHRD_TUNNEL: u16 = 768;

/// Length of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;

/// What stands in front of the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// Nothing: TUN, WireGuard, VTI, XFRM interface, IP tunnels.
    Ip,
    /// The loopback device, which no packet to a vendor leaves by.
    Loopback,
    /// Something that vpnat does not know (ARPHRD number).
    Other(u16),
}

/// How an XDP program is attached to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpAttached {
    /// In the driver.
    Native,
    /// In the kernel's generic hook.
    Generic,
    /// In hardware, or in several modes at once.
    Other,
}

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Framing.
    pub layer: Layer,
    /// Largest IP packet.
    pub mtu: u32,
    /// Own Ethernet address; zeros if it has none.
    pub mac: [u8; 6],
    /// Administratively up.
    pub up: bool,
    /// What kind of virtual device, as `veth` or `tun`; empty for hardware.
    pub kind: String,
    /// The XDP program's mode and id.
    pub xdp: Option<(XdpAttached, u32)>,
}

impl Link {
    /// Reads an `RTM_NEWLINK` or `RTM_DELLINK` body.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let hardware = u16_at(body, 2)?;
        let mut link = Self {
            index: u32_at(body, 4)?,
            name: String::new(),
            layer: match hardware {
                ARPHRD_ETHER => Layer::Ethernet,
                ARPHRD_LOOPBACK => Layer::Loopback,
                ARPHRD_NONE | ARPHRD_RAWIP | ARPHRD_PPP | ARPHRD_TUNNEL => Layer::Ip,
                other => Layer::Other(other),
            },
            mtu: 0,
            mac: [0; 6],
            up: u32_at(body, 8)? & libc::IFF_UP as u32 != 0,
            kind: String::new(),
            xdp: None,
        };
        for (kind, value) in attributes(body.get(IFINFOMSG..)?) {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_MTU => link.mtu = u32_at(value, 0)?,
                IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
                IFLA_LINKINFO => {
                    let info = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                    link.kind = info.map(|(_, value)| text(value)).unwrap_or_default();
                }
                IFLA_XDP => link.xdp = parse_xdp(value),
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }

    /// Whether it has Ethernet framing.
    pub fn is_ethernet(&self) -> bool {
        self.layer == Layer::Ethernet
    }
}

fn parse_xdp(value: &[u8]) -> Option<(XdpAttached, u32)> {
    let mut mode = None;
    let mut program = 0;
    for (kind, value) in attributes(value) {
        match kind {
            IFLA_XDP_ATTACHED => {
                mode = match value.first()? {
                    0 => None,
                    1 => Some(XdpAttached::Native),
                    2 => Some(XdpAttached::Generic),
                    _ => Some(XdpAttached::Other),
                };
            }
            IFLA_XDP_PROG_ID => program = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some((mode?, program))
}

/// All devices, in the order of their index.
pub fn dump() -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    let mut each = |message: &Message<'_>| {
        if message.kind == libc::RTM_NEWLINK {
            links.extend(Link::parse(message.body));
        }
    };
    request(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; IFINFOMSG], &mut each)?;
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// The IPv4 addresses of this machine.
pub fn local_addresses() -> io::Result<Vec<std::net::Ipv4Addr>> {
    const IFA_LOCAL: u16 = 2;
    const IFADDRMSG: usize = 8;
    let mut body = [0; IFADDRMSG];
    body[0] = libc::AF_INET as u8;
    let mut addresses = Vec::new();
    request(libc::RTM_GETADDR, libc::NLM_F_DUMP, &body, |message| {
        let local = message.body.get(IFADDRMSG..).into_iter().flat_map(attributes);
        for (_, value) in local.filter(|(kind, _)| *kind == IFA_LOCAL) {
            addresses.extend(<[u8; 4]>::try_from(value).map(std::net::Ipv4Addr::from));
        }
    })?;
    Ok(addresses)
}
