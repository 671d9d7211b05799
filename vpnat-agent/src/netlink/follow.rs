//! Being told when devices, routes and neighbours change.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::{DecodeError, Emitable as _, NetlinkPayload, ParseableParametrized as _};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourState,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use super::{Raw, attributes, messages};

/// Devices, neighbours, and what decides about IPv4 routes.
const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
];

/// Neighbours remembered; beyond, every neighbour event counts as a change.
const MOST_NEIGHBOURS: usize = 65_536;

/// One thing that changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A device came, went or changed.
    Link,
    /// A route, rule or address.
    Route,
    /// A neighbour's Ethernet address, `None` if it has none that may be used.
    Neighbour {
        /// Interface index.
        device: u32,
        /// The neighbour.
        address: Ipv4Addr,
        /// Its Ethernet address.
        mac: Option<[u8; 6]>,
    },
}

impl Change {
    /// What a message tells, if it matters here.
    pub fn parse(message: &Raw) -> Option<Self> {
        match message.kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => Some(Self::Link),
            libc::RTM_NEWROUTE
            | libc::RTM_DELROUTE
            | libc::RTM_NEWRULE
            | libc::RTM_DELRULE
            | libc::RTM_NEWADDR
            | libc::RTM_DELADDR => Some(Self::Route),
            // What cannot be read may have been anything.
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                Self::parse_neighbour(message).unwrap_or(Some(Self::Route))
            }
            _ => None,
        }
    }

    fn parse_neighbour(message: &Raw) -> Result<Option<Self>, DecodeError> {
        let header = NeighbourHeader::parse(&message.body)?;
        if header.family != AddressFamily::Inet {
            return Ok(None);
        }
        let mut address = None;
        let mut mac = None;
        for attribute in attributes(&message.body[header.buffer_len()..], &[libc::NDA_DST, libc::NDA_LLADDR])
        {
            match NeighbourAttribute::parse_with_param(&attribute?, header.family)? {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(found),
                NeighbourAttribute::LinkLayerAddress(found) => mac = <[u8; 6]>::try_from(found).ok(),
                _ => {}
            }
        }
        let usable = message.kind == libc::RTM_NEWNEIGH && is_usable(header.state);
        Ok(address.map(|address| Self::Neighbour {
            device: header.ifindex,
            address,
            mac: mac.filter(|_| usable),
        }))
    }
}

/// Whether a neighbour's Ethernet address may be used (the kernel's `NUD_VALID`).
fn is_usable(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Permanent
            | NeighbourState::Noarp
            | NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
    )
}

/// What a batch of events amounts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Devices must be looked at again.
    pub links: bool,
    /// Next hops found so far may be wrong.
    pub routes: bool,
}

/// Remembers neighbours, so that a mere confirmation of one does not end every cached next hop.
#[derive(Debug, Default)]
pub struct Neighbours {
    known: HashMap<(u32, Ipv4Addr), Option<[u8; 6]>>,
}

impl Neighbours {
    /// Takes note; whether it is news.
    pub fn note(&mut self, device: u32, address: Ipv4Addr, mac: Option<[u8; 6]>) -> bool {
        if mac.is_none() {
            // Never seen with an address: nothing can have been cached from it.
            return self.known.remove(&(device, address)).is_some();
        }
        if self.known.len() >= MOST_NEIGHBOURS {
            self.known.clear();
        }
        self.known.insert((device, address), mac) != Some(mac)
    }
}

/// The subscription.
pub struct Follower {
    socket: TokioSocket,
    neighbours: Neighbours,
}

impl Follower {
    /// Subscribes. Events from now on are kept until [`Follower::next`] takes them. Needs a tokio runtime.
    pub fn subscribe() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.socket_mut().add_membership(group)?;
        }
        Ok(Self { socket, neighbours: Neighbours::default() })
    }

    /// Waits for something that matters, and takes all that has been told by then as one. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        while changes == Changes::default() {
            let mut received = self.socket.recv_from_full().await;
            loop {
                match received {
                    Ok((datagram, _)) => self.take(&datagram, &mut changes),
                    Err(error) => match error.raw_os_error() {
                        Some(libc::EAGAIN) => break,
                        Some(libc::EINTR) => {}
                        // Events were lost: anything may have changed.
                        Some(libc::ENOBUFS) => changes = Changes { links: true, routes: true },
                        _ => return Err(error),
                    },
                }
                received = self.socket.socket_ref().recv_from_full();
            }
        }
        Ok(changes)
    }

    fn take(&mut self, datagram: &[u8], changes: &mut Changes) {
        for message in messages(datagram) {
            let change = match message.map(|message| message.payload) {
                Ok(NetlinkPayload::InnerMessage(message)) => Change::parse(&message),
                Ok(NetlinkPayload::Overrun(_)) | Err(_) => {
                    *changes = Changes { links: true, routes: true };
                    return;
                }
                Ok(_) => None,
            };
            match change {
                Some(Change::Link) => changes.links = true,
                Some(Change::Route) => changes.routes = true,
                Some(Change::Neighbour { device, address, mac }) => {
                    changes.routes |= self.neighbours.note(device, address, mac);
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmed_neighbour_is_no_news() {
        let mut neighbours = Neighbours::default();
        let address = Ipv4Addr::new(10, 0, 2, 7);
        let mac = Some([2, 0, 0, 0, 0, 1]);
        assert!(!neighbours.note(1, address, None), "resolving");
        assert!(neighbours.note(1, address, mac), "resolved");
        assert!(!neighbours.note(1, address, mac), "confirmed");
        assert!(neighbours.note(1, address, Some([2, 0, 0, 0, 0, 2])), "moved");
        assert!(neighbours.note(1, address, None), "failed");
        assert!(!neighbours.note(1, address, None), "still failed");
    }

    #[test]
    fn a_neighbour_is_read_and_what_is_not_understood_counts_as_a_change() {
        use super::super::tests::attribute;
        let message = |kind, state: u16, attributes: &[Vec<u8>]| {
            let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
            body.extend(3u32.to_ne_bytes());
            body.extend(state.to_ne_bytes());
            body.extend([0; 2]);
            body.extend(attributes.concat());
            Change::parse(&Raw { kind, body })
        };
        let (destination, mac) = (attribute(1, &[10, 0, 2, 7]), attribute(2, &[2, 0, 0, 0, 0, 1]));
        let neighbour = |mac| Some(Change::Neighbour { device: 3, address: Ipv4Addr::new(10, 0, 2, 7), mac });
        let both = [destination.clone(), mac.clone()];
        assert_eq!(message(libc::RTM_NEWNEIGH, 2, &both), neighbour(Some([2, 0, 0, 0, 0, 1])));
        assert_eq!(message(libc::RTM_NEWNEIGH, 0x20, &both), neighbour(None), "failed");
        assert_eq!(message(libc::RTM_DELNEIGH, 2, &both), neighbour(None));
        let longer = [destination, mac, attribute(3, &[1; 99])];
        assert_eq!(message(libc::RTM_NEWNEIGH, 2, &longer), neighbour(Some([2, 0, 0, 0, 0, 1])));
        assert_eq!(message(libc::RTM_NEWNEIGH, 2, &[attribute(1, &[1; 5])]), Some(Change::Route));
    }
}
