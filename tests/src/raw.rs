//! Sends packets exactly as they were made.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::link::Mac;
use crate::netns::Namespace;

/// Sends IPv4 packets out of one device, byte for byte, past the sender's own stack.
pub struct RawSender {
    socket: OwnedFd,
    frames: OwnedFd,
    index: u32,
    next_hop: Mac,
}

impl RawSender {
    /// A sender on `device`; `next_hop` is the Ethernet address that packets go to (anything on a TUN).
    pub fn new(namespace: &Namespace, device: &str, next_hop: Mac) -> Self {
        let index =
            namespace.ifindex(device).unwrap_or_else(|| panic!("{}: no device {device}", namespace.name()));
        let [socket, frames] = [libc::SOCK_DGRAM, libc::SOCK_RAW].map(|kind| {
            namespace.enter(|| {
                // SAFETY: plain system call.
                let fd = unsafe { libc::socket(libc::AF_PACKET, kind | libc::SOCK_CLOEXEC, 0) };
                assert!(fd >= 0, "a packet socket: {}", std::io::Error::last_os_error());
                // SAFETY: the descriptor is new and nobody else's.
                unsafe { OwnedFd::from_raw_fd(fd) }
            })
        });
        Self { socket, frames, index, next_hop }
    }

    /// Gives every packet from now on a mark, as a program with the right to may.
    pub fn mark(&self, mark: u32) {
        // SAFETY: the socket is open; pointer and length describe `mark`.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MARK,
                (&raw const mark).cast(),
                size_of::<u32>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "SO_MARK: {}", std::io::Error::last_os_error());
    }

    /// Sends a packet, given from its IP header on.
    pub fn send(&self, packet: &[u8]) {
        self.send_as(libc::ETH_P_IP as u16, packet);
    }

    /// Sends what stands behind the Ethernet header, with an EtherType of choice.
    pub fn send_as(&self, ether_type: u16, packet: &[u8]) {
        self.try_send_as(ether_type, packet).unwrap_or_else(|error| panic!("send a packet: {error}"));
    }

    /// As [`RawSender::send`] where a program on the sender's own device may drop it (`ENOBUFS`).
    pub fn try_send(&self, packet: &[u8]) -> std::io::Result<()> {
        self.try_send_as(libc::ETH_P_IP as u16, packet)
    }

    /// The same, with an EtherType of choice.
    pub fn try_send_as(&self, ether_type: u16, packet: &[u8]) -> std::io::Result<()> {
        self.try_send_by(&self.socket, ether_type, packet)
    }

    /// A whole frame to the next hop, given from its EtherType on, under a protocol of choice: what the sender's own kernel
    /// takes it for.
    pub fn try_send_frame(&self, protocol: u16, frame: &[u8]) -> std::io::Result<()> {
        let frame = [&self.next_hop, &[2, 0, 0, 0, 0, 9][..], frame].concat();
        self.try_send_by(&self.frames, protocol, &frame)
    }

    fn try_send_by(&self, socket: &OwnedFd, ether_type: u16, packet: &[u8]) -> std::io::Result<()> {
        // SAFETY: sockaddr_ll is plain data, for which zeros are a value.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = ether_type.to_be();
        to.sll_ifindex = self.index as i32;
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&self.next_hop);
        // SAFETY: the socket is open; both pointers come with the length of what they point to.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent == packet.len() as isize { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}
