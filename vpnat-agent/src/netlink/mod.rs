//! What the agent asks of the kernel's route netlink: devices, TC filters, and to be told of changes.
//!
//! Written against the wire format rather than a library of typed messages: five attributes are read, and
//! an attribute that a newer kernel made longer must never keep the agent from starting.

pub mod ethtool;
pub mod filters;
pub mod follow;
pub mod links;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

/// Largest datagram that the kernel builds for a dump.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Length of a message header (`struct nlmsghdr`).
const HEADER: usize = 16;

/// A message without its header.
#[derive(Debug)]
pub struct Message<'a> {
    /// `RTM_…`.
    pub kind: u16,
    /// What follows the header.
    pub body: &'a [u8],
}

/// Opens a socket that is told of the given multicast groups (bits, `RTMGRP_…`).
pub(crate) fn open(groups: u32, flags: SockFlag) -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags | SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

/// Sends one request and hands every answer to `each`, up to the acknowledgement or the end of the dump.
pub(crate) fn request(
    kind: u16,
    flags: i32,
    body: &[u8],
    mut each: impl FnMut(&Message<'_>),
) -> io::Result<()> {
    let fd = open(0, SockFlag::empty())?;
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    request.extend(1u32.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request.extend(body);
    sendto(fd.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;

    let mut buffer = vec![0; RECEIVE_BUFFER];
    loop {
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for message in messages(&buffer[..length]) {
            match i32::from(message.kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    return match i32_at(message.body, 0) {
                        Some(0) => Ok(()),
                        Some(error) => Err(io::Error::from_raw_os_error(-error)),
                        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
                    };
                }
                _ => each(&message),
            }
        }
    }
}

/// The messages of one datagram.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        if length < HEADER || length > datagram.len() {
            return None;
        }
        let message = Message { kind: u16_at(datagram, 4)?, body: &datagram[HEADER..length] };
        datagram = datagram.get(align(length)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes (`struct nlattr`) in `bytes`: type without flag bits, and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    u32_at(bytes, offset).map(|value| value as i32)
}

/// A zero-terminated text.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Appends one attribute to a request.
    fn push_attribute(request: &mut Vec<u8>, kind: u16, value: &[u8]) {
        request.extend(((4 + value.len()) as u16).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(value);
        request.resize(align(request.len()), 0);
    }

    #[test]
    fn attributes_are_walked_with_their_padding() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 3, b"eth0\0");
        push_attribute(&mut bytes, 4 | 0x8000, &1500u32.to_ne_bytes());
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(3, &b"eth0\0"[..]), (4, &1500u32.to_ne_bytes()[..])]);
        assert_eq!(text(found[0].1), "eth0");
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                let _ = attributes(message.body).count();
                let _ = links::Link::parse(message.body);
                let _ = filters::Filter::parse(message.body);
                let _ = follow::Change::parse(&message);
            }
        }
    }
}
