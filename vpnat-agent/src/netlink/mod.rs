//! What the agent asks of the kernel's route netlink: devices, TC filters, and to be told of changes.
//!
//! Messages are read with netlink-packet-route, but attribute by attribute, and only those that are used: a
//! newer kernel may make any attribute longer, and the library refuses a whole message for one that it does
//! not understand. What is used and cannot be read is an error where going on could leave a device open (its
//! name, its framing, a filter's place), and otherwise a warning.
//!
//! rtnetlink is not used for the same reason: its connection drops messages that it cannot read, with a line
//! in the log, and a device missing from a listing is a device that nobody closes.

pub mod ethtool;
pub mod filters;
pub mod follow;
pub mod links;
pub mod lookup;
pub mod routes;
pub mod rules;

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// How often a listing is begun anew because something changed in the middle of it.
const ATTEMPTS: usize = 10;

/// A message as it came, to be read by those who know which part of it they need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Raw {
    /// `RTM_…`.
    pub kind: u16,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl NetlinkDeserializable for Raw {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { kind: header.message_type, body: payload.to_vec() })
    }
}

/// Sends one request and waits for the acknowledgement, or for the end of the listing, and its messages.
fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Raw>> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.header.sequence_number = 1;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let mut attempts = 0..ATTEMPTS;
    while attempts.next().is_some() {
        if let Some(answers) = exchange(&bytes)? {
            return Ok(answers);
        }
    }
    Err(io::Error::other("devices change faster than they can be listed"))
}

/// Asks for all of something.
fn list(message: RouteNetlinkMessage) -> io::Result<Vec<Raw>> {
    request(message, NLM_F_DUMP)
}

/// The answers to `request`; `None` if a listing was interrupted by a change and may lack something.
fn exchange(request: &[u8]) -> io::Result<Option<Vec<Raw>>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
    let mut answers = Vec::new();
    let mut complete = true;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for message in messages(&datagram) {
            let message = message.map_err(unreadable)?;
            complete &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(complete.then_some(answers)),
                _ => {}
            }
        }
    }
}

/// The messages of one datagram. An error is the last.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkMessage<Raw>, DecodeError>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let length = match NetlinkBuffer::new_checked(datagram) {
            Ok(buffer) => buffer.length() as usize,
            Err(error) => {
                datagram = &[];
                return Some(Err(error));
            }
        };
        let message = NetlinkMessage::deserialize(&datagram[..length]);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `body` that are of one of `kinds`, unread.
fn attributes<'a>(
    body: &'a [u8],
    kinds: &'a [u16],
) -> impl Iterator<Item = Result<NlaBuffer<&'a [u8]>, DecodeError>> {
    NlasIterator::new(body)
        .filter(move |attribute| attribute.as_ref().map_or(true, |found| kinds.contains(&found.kind())))
}

fn unreadable(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An attribute as the kernel writes it.
    pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn attributes_are_walked_with_their_padding() {
        let bytes = [attribute(3, b"eth0\0"), attribute(9, b"?"), attribute(4 | 0x8000, b"1500")].concat();
        let found: Vec<_> = attributes(&bytes, &[3, 4])
            .map(|found| found.map(|found| (found.kind(), found.value().to_vec())).unwrap())
            .collect();
        assert_eq!(found, [(3, b"eth0\0".to_vec()), (4, b"1500".to_vec())]);
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes).flatten() {
                if let NetlinkPayload::InnerMessage(raw) = message.payload {
                    let _ = links::Link::parse(&raw.body);
                    let _ = filters::Filter::parse(&raw.body);
                    let _ = follow::Change::parse(&raw);
                    let _ = routes::Route::parse(&raw.body);
                }
            }
        }

        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200), kind in any::<u16>()) {
            let _ = links::Link::parse(&body);
            let _ = filters::Filter::parse(&body);
            let _ = routes::Route::parse(&body);
            let _ = follow::Change::parse(&Raw { kind, body });
        }
    }
}
