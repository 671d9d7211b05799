//! Writing the translation into a packet.

use crate::addr::Port;
use crate::checksum::{self, Sum};
use crate::flow_ref::Rewrite;
use crate::layout::flow::{Direction, protocol};
use crate::packet::{Ip, Packet, ipv4, transport};

/// Where the rewritten address and port lie.
#[inline(always)]
const fn place(direction: Direction) -> (usize, usize) {
    match direction {
        Direction::Outbound => (ipv4::SRC, transport::SRC_PORT),
        Direction::Inbound => (ipv4::DST, transport::DST_PORT),
    }
}

/// Rewrites the address in the IP header, and its checksum.
#[inline(always)]
#[must_use]
pub fn address<P: Packet>(packet: &mut P, ip: &Ip, direction: Direction, rewrite: &Rewrite) -> bool {
    let (address, _) = place(direction);
    let check = checksum::apply(ip.check, Sum(rewrite.addr_delta as u32));
    packet.store(ipv4::CHECK, check.to_ne_bytes()) && packet.store(address, rewrite.addr.octets)
}

/// Rewrites the transport header that starts at `at`: port or identifier, and checksum. `old` is the port
/// or identifier as it stands in the packet. `PLAIN` says that `at` is a constant of the caller.
#[inline(always)]
#[must_use]
pub fn transport_header<P: Packet, const PLAIN: bool>(
    packet: &mut P,
    at: usize,
    proto: u8,
    direction: Direction,
    old: Port,
    rewrite: &Rewrite,
) -> bool {
    let new = rewrite.port.to_wire();
    let port_delta = checksum::difference(u16::from_ne_bytes(old.to_wire()), u16::from_ne_bytes(new));
    let (_, port) = place(direction);
    let (check, port, optional) = match proto {
        protocol::TCP => (transport::TCP_CHECK, port, false),
        protocol::UDP => (transport::UDP_CHECK, port, true),
        // An ICMP query: no pseudo-header (RFC 792), only the identifier counts.
        _ => return old == rewrite.port || identifier::<P, PLAIN>(packet, at, new, port_delta),
    };
    packet.change_checksum::<PLAIN>(at + check, rewrite.addr_delta, port_delta, optional)
        && (old == rewrite.port || store::<P, PLAIN>(packet, at + port, new))
}

#[inline(always)]
fn identifier<P: Packet, const PLAIN: bool>(packet: &mut P, at: usize, new: [u8; 2], delta: Sum) -> bool {
    let check_at = at + transport::ICMP_CHECK;
    let check = if PLAIN { packet.load::<[u8; 2]>(check_at) } else { packet.load_at(check_at) };
    let Some(check) = check else { return false };
    let check = checksum::apply(u16::from_ne_bytes(check), delta);
    store::<P, PLAIN>(packet, check_at, check.to_ne_bytes())
        && store::<P, PLAIN>(packet, at + transport::ICMP_ID, new)
}

#[inline(always)]
fn store<P: Packet, const PLAIN: bool>(packet: &mut P, at: usize, value: [u8; 2]) -> bool {
    if PLAIN { packet.store(at, value) } else { packet.store_at(at, value) }
}
