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
/// or identifier as it stands in the packet.
#[inline(always)]
#[must_use]
pub fn transport_header<P: Packet>(
    packet: &mut P,
    at: usize,
    proto: u8,
    direction: Direction,
    old: Port,
    rewrite: &Rewrite,
) -> bool {
    let new = rewrite.port.to_wire();
    let port_delta = checksum::delta16(u16::from_ne_bytes(old.to_wire()), u16::from_ne_bytes(new));
    let (_, port) = place(direction);
    match proto {
        protocol::TCP => {
            packet.change_checksum(at + transport::TCP_CHECK, rewrite.addr_delta, port_delta, false)
                && (old == rewrite.port || packet.store_at(at + port, new))
        }
        protocol::UDP => {
            packet.change_checksum(at + transport::UDP_CHECK, rewrite.addr_delta, port_delta, true)
                && (old == rewrite.port || packet.store_at(at + port, new))
        }
        // An ICMP query: no pseudo-header (RFC 792), only the identifier counts.
        _ if old == rewrite.port => true,
        _ => {
            let Some(check) = packet.load_at::<[u8; 2]>(at + transport::ICMP_CHECK) else { return false };
            let check = checksum::apply(u16::from_ne_bytes(check), Sum(port_delta as u32));
            packet.store_at(at + transport::ICMP_CHECK, check.to_ne_bytes())
                && packet.store_at(at + transport::ICMP_ID, new)
        }
    }
}
