//! The devices of the agent's own network namespace.
//!
//! Asked over netlink, never read under /sys: a process that entered a namespace without remounting /sys
//! sees another namespace's devices there.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Once;

use netlink_packet_core::{DecodeError, Emitable as _, Parseable as _, ParseableParametrized as _};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    LinkAttribute, LinkFlags, LinkHeader, LinkLayerType, LinkMessage, LinkXdp, XdpAttached as Attached,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{attributes, list, unreadable};

/// What stands in front of the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// Nothing: TUN, WireGuard, IP tunnels.
    Ip,
    /// On packets that leave nothing; on what the kernel's IPsec has decrypted the header of the device below: XFRM interface,
    /// VTI.
    Xfrm,
    /// The loopback device, which no packet to a vendor leaves by.
    Loopback,
    /// Something that vpnat does not know (ARPHRD number).
    Other(u16),
}

impl From<LinkLayerType> for Layer {
    fn from(kind: LinkLayerType) -> Self {
        match kind {
            LinkLayerType::Ether => Self::Ethernet,
            LinkLayerType::Loopback => Self::Loopback,
            LinkLayerType::None | LinkLayerType::Rawip | LinkLayerType::Ppp | LinkLayerType::Tunnel => {
                Self::Ip
            }
            other => Self::Other(other.into()),
        }
    }
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
    /// The XDP program's mode and id.
    pub xdp: Option<(XdpAttached, u32)>,
    /// The device that this one is made on, if its packets leave by that as they are: a VLAN's, a macvlan's.
    pub lower: Option<u32>,
    /// The bridge or bond that this one is a part of.
    pub master: Option<u32>,
    /// Whether it carries Ethernet frames in other packets, or is made on a device that does. Its driver looks at their size, and
    /// tells their senders, by the route that the kernel's forwarding has given them: without one nobody is told.
    pub tunnel: bool,
}

/// linux/if_link.h.
const IFLA_INFO_KIND: u16 = 1;

/// Kinds of devices whose `IFLA_LINK` is the device that carries their packets as they are. A veth's is its peer, a
/// tunnel's carries them in others.
const STACKED: [&[u8]; 4] = [b"vlan", b"macvlan", b"macvtap", b"ipvlan"];

/// Kinds of devices that carry Ethernet frames in other packets.
const TUNNELS: [&[u8]; 6] = [b"gretap", b"ip6gretap", b"erspan", b"ip6erspan", b"vxlan", b"geneve"];

/// Kinds of devices that the kernel's IPsec hands packets to.
const DECRYPTING: [&[u8]; 2] = [b"xfrm", b"vti"];

/// The devices below those that are outside, by index: bridge ports, members of a bond, and what VLANs are made on.
pub fn carriers(links: &[Link], is_outside: impl Fn(&Link) -> bool) -> HashSet<u32> {
    let mut found: HashSet<u32> = HashSet::new();
    let mut above: Vec<u32> = links.iter().filter(|link| is_outside(link)).map(|link| link.index).collect();
    while let Some(index) = above.pop() {
        let lower = links.iter().find(|link| link.index == index).and_then(|link| link.lower);
        let parts = links.iter().filter(|link| link.master == Some(index)).map(|link| link.index);
        for below in parts.chain(lower) {
            if found.insert(below) {
                above.push(below);
            }
        }
    }
    found
}

impl Link {
    /// Reads an `RTM_NEWLINK` or `RTM_DELLINK` body. An error unless name, framing and size are understood.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let header = LinkHeader::parse(body)?;
        let mut name = None;
        let mut link = Self {
            layer: header.link_layer_type.into(),
            up: header.flags.contains(LinkFlags::Up),
            ..Self::with_index(header.index)
        };
        let (mut below, mut stacked, mut decrypting) = (None, false, false);
        let used = [
            libc::IFLA_IFNAME,
            libc::IFLA_ADDRESS,
            libc::IFLA_MTU,
            libc::IFLA_XDP,
            libc::IFLA_LINK,
            libc::IFLA_MASTER,
            libc::IFLA_LINKINFO,
        ];
        for attribute in attributes(&body[header.buffer_len()..], &used) {
            let attribute = attribute?;
            // What carries a device only makes a guard let through what it has translated: not understood is not carried.
            let number = || attribute.value().try_into().ok().map(u32::from_ne_bytes);
            match attribute.kind() {
                libc::IFLA_LINK => {
                    below = number();
                    continue;
                }
                libc::IFLA_MASTER => {
                    link.master = number();
                    continue;
                }
                libc::IFLA_LINKINFO => {
                    for kind in attributes(attribute.value(), &[IFLA_INFO_KIND]).flatten() {
                        let kind = kind.value().split(|byte| *byte == 0).next().unwrap_or_default();
                        stacked |= STACKED.contains(&kind);
                        decrypting |= DECRYPTING.contains(&kind);
                        link.tunnel |= TUNNELS.contains(&kind);
                    }
                    continue;
                }
                _ => {}
            }
            match LinkAttribute::parse_with_param(&attribute, header.interface_family) {
                Ok(LinkAttribute::IfName(found)) => name = Some(found),
                Ok(LinkAttribute::Mtu(found)) => link.mtu = found,
                Ok(LinkAttribute::Address(found)) => link.mac = found.try_into().unwrap_or_default(),
                Ok(LinkAttribute::Xdp(found)) => link.xdp = xdp(&found),
                Ok(_) => {}
                // Safe to go on: XDP programs that are not seen are missed, never taken for ours.
                Err(error) if attribute.kind() == libc::IFLA_XDP => warn_of_xdp(&error),
                Err(error) => return Err(error),
            }
        }
        link.lower = below.filter(|_| stacked);
        if decrypting && link.layer == Layer::Ip {
            link.layer = Layer::Xfrm;
        }
        link.name = name.filter(|name| !name.is_empty()).ok_or("a device without a name")?;
        Ok(link)
    }

    /// A device of which nothing else is known: an Ethernet one, up.
    pub fn with_index(index: u32) -> Self {
        Self {
            index,
            name: String::new(),
            layer: Layer::Ethernet,
            mtu: 0,
            mac: [0; 6],
            up: true,
            xdp: None,
            lower: None,
            master: None,
            tunnel: false,
        }
    }

    /// Whether it has Ethernet framing.
    pub fn is_ethernet(&self) -> bool {
        self.layer == Layer::Ethernet
    }

    /// Whether the fast path may serve it: it has Ethernet framing and is no tunnel.
    pub fn is_plain(&self) -> bool {
        self.layer == Layer::Ethernet && !self.tunnel
    }
}

fn xdp(attributes: &[LinkXdp]) -> Option<(XdpAttached, u32)> {
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(Attached::None) => None,
        LinkXdp::Attached(Attached::Driver) => Some(XdpAttached::Native),
        LinkXdp::Attached(Attached::SocketBuffer) => Some(XdpAttached::Generic),
        LinkXdp::Attached(_) => Some(XdpAttached::Other),
        _ => None,
    });
    let program = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    Some((mode?, program.unwrap_or(0)))
}

/// Devices are listed every few seconds; this is said once.
fn warn_of_xdp(error: &DecodeError) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        log::warn!(
            "this kernel describes XDP in a way that vpnat does not understand ({error}): set xdp = \"off\""
        );
    });
}

/// All devices, in the order of their index. One that cannot be read is an error: it could not be guarded.
pub fn dump() -> io::Result<Vec<Link>> {
    let answers = list(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let answers = answers.iter().filter(|answer| answer.kind == libc::RTM_NEWLINK);
    let mut links: Vec<Link> =
        answers.map(|answer| Link::parse(&answer.body)).collect::<Result<_, _>>().map_err(unreadable)?;
    links.sort_by_key(|link| link.index);
    mark_tunnels(&mut links);
    Ok(links)
}

/// What is made on a tunnel is one.
fn mark_tunnels(links: &mut [Link]) {
    let below = |index| carriers(links, |link| link.index == index);
    let tunnels: HashSet<u32> = links.iter().filter(|link| link.tunnel).map(|link| link.index).collect();
    let above: Vec<bool> = links.iter().map(|link| !below(link.index).is_disjoint(&tunnels)).collect();
    for (link, above) in links.iter_mut().zip(above) {
        link.tunnel |= above;
    }
}

/// The IPv4 addresses of this machine, as far as they can be read.
pub fn local_addresses() -> io::Result<Vec<Ipv4Addr>> {
    Ok(device_addresses()?.into_iter().map(|(_, address)| address).collect())
}

/// The same with the indices of their devices, a device's first one before its others.
pub fn device_addresses() -> io::Result<Vec<(u32, Ipv4Addr)>> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    let answers = list(RouteNetlinkMessage::GetAddress(request))?;
    let messages = answers.iter().filter_map(|answer| AddressMessage::parse(answer.body.as_slice()).ok());
    Ok(messages
        .flat_map(|message| {
            let index = message.header.index;
            message.attributes.into_iter().map(move |attribute| (index, attribute))
        })
        .filter_map(|(index, attribute)| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some((index, address)),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::attribute;
    use super::*;

    /// `struct ifinfomsg` of Ethernet device 7, up, followed by `attributes`.
    fn body(attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![0, 0, 1, 0];
        body.extend(7u32.to_ne_bytes());
        body.extend((libc::IFF_UP as u32).to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attributes.concat());
        body
    }

    fn name() -> Vec<u8> {
        attribute(libc::IFLA_IFNAME, b"eth0\0")
    }

    #[test]
    fn what_is_used_is_read() {
        let xdp = [attribute(2, &[1]), attribute(4, &99u32.to_ne_bytes())].concat();
        let bytes = body(&[
            name(),
            attribute(libc::IFLA_MTU, &1400u32.to_ne_bytes()),
            attribute(libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
            attribute(libc::IFLA_XDP, &xdp),
        ]);
        let expected = Link {
            index: 7,
            name: "eth0".into(),
            layer: Layer::Ethernet,
            mtu: 1400,
            mac: [2, 0, 0, 0, 0, 1],
            up: true,
            xdp: Some((XdpAttached::Native, 99)),
            lower: None,
            master: None,
            tunnel: false,
        };
        assert_eq!(Link::parse(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_carries_a_device_is_told_from_a_peer() {
        let of = |kind: &[u8]| {
            let info = attribute(IFLA_INFO_KIND, kind);
            let link = attribute(libc::IFLA_LINK, &3u32.to_ne_bytes());
            Link::parse(&body(&[name(), link, attribute(libc::IFLA_LINKINFO, &info)])).unwrap().lower
        };
        assert_eq!(of(b"vlan\0"), Some(3));
        assert_eq!(of(b"veth\0"), None);
        assert_eq!(of(b"gre\0"), None);
    }

    #[test]
    fn what_ipsec_hands_packets_to_is_told_from_other_tunnels() {
        let of = |kind: &[u8], hardware: u16| {
            let mut bytes = body(&[name(), attribute(libc::IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, kind))]);
            bytes[2..4].copy_from_slice(&hardware.to_ne_bytes());
            Link::parse(&bytes).unwrap().layer
        };
        assert_eq!(of(b"xfrm\0", libc::ARPHRD_NONE), Layer::Xfrm);
        assert_eq!(of(b"vti\0", libc::ARPHRD_TUNNEL), Layer::Xfrm);
        assert_eq!(of(b"wireguard\0", libc::ARPHRD_NONE), Layer::Ip);
        assert_eq!(of(b"ipip\0", libc::ARPHRD_TUNNEL), Layer::Ip);
        assert_eq!(of(b"veth\0", libc::ARPHRD_ETHER), Layer::Ethernet);
    }

    #[test]
    fn carriers_are_found_through_every_storey() {
        // bond0 (2) of eth0 (3) and eth1 (4); a VLAN (5) on it; a bridge (6) with the VLAN as its port; eth2 (7).
        let link = |index| Link::with_index(index);
        let links = [
            link(2),
            Link { master: Some(2), ..link(3) },
            Link { master: Some(2), ..link(4) },
            Link { lower: Some(2), master: Some(6), ..link(5) },
            link(6),
            link(7),
        ];
        assert_eq!(carriers(&links, |link| link.index == 6), HashSet::from([5, 2, 3, 4]));
        assert_eq!(carriers(&links, |link| link.index == 7), HashSet::new());
    }

    #[test]
    fn the_fast_path_keeps_away_from_tunnels_with_ethernet_headers() {
        let of = |kind: &[u8]| {
            let info = attribute(IFLA_INFO_KIND, kind);
            Link::parse(&body(&[name(), attribute(libc::IFLA_LINKINFO, &info)])).unwrap().is_plain()
        };
        for kind in [&b"gretap\0"[..], b"ip6gretap\0", b"erspan\0", b"ip6erspan\0", b"vxlan\0", b"geneve\0"] {
            assert!(!of(kind), "{}", kind.escape_ascii());
        }
        for kind in [&b"veth\0"[..], b"vlan\0", b"bridge\0", b"bond\0", b"macvlan\0"] {
            assert!(of(kind), "{}", kind.escape_ascii());
        }
        // A bridge (2) with VXLAN (3) and a veth (4) as its ports; a macvlan (5) on the bridge; eth0 (6).
        let link = |index| Link::with_index(index);
        let mut links = [
            link(2),
            Link { master: Some(2), tunnel: true, ..link(3) },
            Link { master: Some(2), ..link(4) },
            Link { lower: Some(2), ..link(5) },
            link(6),
        ];
        mark_tunnels(&mut links);
        assert_eq!(links.map(|link| link.is_plain()), [false, false, true, false, true]);
    }

    #[test]
    fn what_a_newer_kernel_made_longer_does_not_matter() {
        let odd = [0xff; 37];
        for kind in (0..100).filter(|kind| ![libc::IFLA_IFNAME, libc::IFLA_MTU].contains(kind)) {
            let link = Link::parse(&body(&[name(), attribute(kind, &odd)])).unwrap();
            assert_eq!((link.name.as_str(), link.xdp, link.mac), ("eth0", None, [0; 6]), "attribute {kind}");
        }
    }

    #[test]
    fn a_device_that_cannot_be_told_is_refused() {
        for bytes in [
            body(&[]),
            body(&[attribute(libc::IFLA_IFNAME, b"\0")]),
            body(&[name(), attribute(libc::IFLA_MTU, &[0; 9])]),
            body(&[name(), vec![200, 0, 4, 0]]),
            vec![0; 15],
        ] {
            assert!(Link::parse(&bytes).is_err(), "{bytes:?}");
        }
    }
}
