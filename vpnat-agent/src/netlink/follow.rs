//! Being told when devices, routes and neighbours change.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockFlag, recv};
use tokio::io::unix::AsyncFd;

use super::{Message, RECEIVE_BUFFER, attributes, messages, open, u16_at, u32_at};

// linux/rtnetlink.h and linux/neighbour.h.
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_NEIGH: u32 = 0x4;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV4_RULE: u32 = 0x80;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Permanent, no-arp, reachable, stale, delay, probe: states whose address may be used.
const NUD_USABLE: u16 = 0x80 | 0x40 | 0x02 | 0x04 | 0x08 | 0x10;
/// Length of `struct ndmsg`.
const NDMSG: usize = 12;

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
    pub fn parse(message: &Message<'_>) -> Option<Self> {
        match message.kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => Some(Self::Link),
            libc::RTM_NEWROUTE
            | libc::RTM_DELROUTE
            | libc::RTM_NEWRULE
            | libc::RTM_DELRULE
            | libc::RTM_NEWADDR
            | libc::RTM_DELADDR => Some(Self::Route),
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => Self::parse_neighbour(message),
            _ => None,
        }
    }

    fn parse_neighbour(message: &Message<'_>) -> Option<Self> {
        let body = message.body;
        if i32::from(*body.first()?) != libc::AF_INET {
            return None;
        }
        let usable = message.kind == libc::RTM_NEWNEIGH && u16_at(body, 8)? & NUD_USABLE != 0;
        let mut address = None;
        let mut mac = None;
        for (kind, value) in attributes(body.get(NDMSG..)?) {
            match kind {
                NDA_DST => address = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
                NDA_LLADDR => mac = <[u8; 6]>::try_from(value).ok(),
                _ => {}
            }
        }
        Some(Self::Neighbour { device: u32_at(body, 4)?, address: address?, mac: mac.filter(|_| usable) })
    }
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
#[derive(Debug)]
pub struct Follower {
    socket: AsyncFd<OwnedFd>,
    neighbours: Neighbours,
    buffer: Vec<u8>,
}

impl Follower {
    /// Subscribes. Events from now on are kept until [`Follower::next`] takes them. Needs a tokio runtime.
    pub fn subscribe() -> io::Result<Self> {
        let groups = RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE;
        let socket = open(groups, SockFlag::SOCK_NONBLOCK)?;
        // SAFETY: an `OwnedFd` keeps its descriptor open, and the same, for as long as it lives.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket, neighbours: Neighbours::default(), buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Waits for something that matters, and takes all that has been told by then as one. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Changes> {
        loop {
            let mut guard = self.socket.readable().await?;
            let mut changes = Changes::default();
            loop {
                match recv(guard.get_inner().as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                    Ok(length) => {
                        for message in messages(&self.buffer[..length]) {
                            match Change::parse(&message) {
                                Some(Change::Link) => changes.links = true,
                                Some(Change::Route) => changes.routes = true,
                                Some(Change::Neighbour { device, address, mac }) => {
                                    changes.routes |= self.neighbours.note(device, address, mac);
                                }
                                None => {}
                            }
                        }
                    }
                    // Events were lost: anything may have changed.
                    Err(Errno::ENOBUFS) => changes = Changes { links: true, routes: true },
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            guard.clear_ready();
            if changes != Changes::default() {
                return Ok(changes);
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
}
