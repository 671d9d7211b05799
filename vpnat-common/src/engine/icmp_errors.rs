//! ICMP errors (RFC 5508 section 4): judged by the packet they quote, whatever address they come from, and
//! translated together with the quote. They never make, renew or end a flow.

use super::tables::Tables;
use super::{Decision, identification, rewrite, sums};
use crate::addr::{Ip4, Port};
use crate::checksum::{self, Sum};
use crate::flow_ref::Rewrite;
use crate::ip_options;
use crate::layout::flow::{Direction, FlowKey, protocol};
use crate::layout::outcome::Outcome;
use crate::packet::{Ip, Ipv4Head, Packet, icmp, ipv4, transport};

/// Bytes of an ICMP error in front of the quote.
const ICMP_HEADER: usize = 8;

/// The quoted packet: where it lies and whose it was.
#[derive(Clone, Copy, Debug)]
struct Quote {
    /// Offset of the quoted IP header from the outer one.
    at: usize,
    /// Offset of the quoted transport header.
    transport: usize,
    /// First byte after what was quoted of the transport.
    end: usize,
    src: Ip4,
    dst: Ip4,
    src_port: Port,
    dst_port: Port,
    protocol: u8,
    /// The quoted IP header's checksum as loaded.
    check: u16,
}

impl Quote {
    /// The quote of an error that goes in `direction`.
    #[inline(always)]
    fn read<P: Packet>(packet: &P, ip: &Ip, direction: Direction) -> Option<Self> {
        let at = ip.header_len + ICMP_HEADER;
        let header: Ipv4Head = packet.load_at(at)?;
        let header_len = ((header.version_ihl & 0xf) as usize) << 2;
        let first = u16::from_be(header.fragment) & ipv4::FRAGMENT_OFFSET == 0;
        if header.version_ihl >> 4 != 4 || header_len < ipv4::LEN || !first {
            return None;
        }
        let start = at + header_len;
        // Nothing behind the outer or the quoted total length is the quote's: padding, or extensions
        // (RFC 4884), whose own length field bounds the quote too.
        let words: [u8; 1] = packet.load_at(ip.header_len + 5)?;
        let mut end = ip.total_len as usize;
        end = end.min(at + u16::from_be(header.total_len) as usize);
        if words[0] != 0 {
            end = end.min(at + words[0] as usize * 4);
        }
        if start + 8 > end {
            return None;
        }
        let head: [u8; 8] = packet.load_at(start)?;
        let (src_port, dst_port) = match header.protocol {
            protocol::TCP | protocol::UDP => {
                (Port::from_wire([head[0], head[1]]), Port::from_wire([head[2], head[3]]))
            }
            // No error is about an error (RFC 1122 section 3.2.2). A pod sends queries and gets replies: with identifier 0,
            // the other one would have the same key.
            protocol::ICMP => {
                let id = Port::from_wire([head[4], head[5]]);
                match (head[0], direction) {
                    (icmp::ECHO | icmp::TIMESTAMP, Direction::Inbound) => (id, Port::new(0)),
                    (icmp::ECHO_REPLY | icmp::TIMESTAMP_REPLY, Direction::Outbound) => (Port::new(0), id),
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some(Self {
            at,
            transport: start,
            end,
            src: header.src,
            dst: header.dst,
            src_port,
            dst_port,
            protocol: header.protocol,
            check: header.check,
        })
    }

    /// Whether the error's own checksum and that of the quoted IP header hold (RFC 5508 REQ-3, REQ-3a). The quoted
    /// transport checksum is nobody's business here (REQ-3c).
    #[inline(always)]
    fn checksums_hold<T: Tables, P: Packet>(&self, tables: &T, packet: &P, ip: &Ip) -> bool {
        sums::hold(tables, packet, self.at as u32, self.transport as u32)
            && sums::hold(tables, packet, ip.header_len as u32, ip.total_len)
    }

    /// The key under which the answer to the quoted packet would arrive.
    #[inline(always)]
    const fn answer(&self) -> FlowKey {
        FlowKey::new(self.dst, self.dst_port, self.src, self.src_port, self.protocol)
    }

    /// Undoes or does the translation in the quote. `source` says which end of the quoted packet is ours.
    /// Returns the difference that the outer ICMP checksum must take up: the quoted IP header and its own
    /// checksum cancel out, the transport part does not.
    #[inline(always)]
    fn rewrite<P: Packet>(&self, packet: &mut P, source: bool, to: &Rewrite) -> Option<Sum> {
        let (address, port_at, old) = if source {
            (ipv4::SRC, transport::SRC_PORT, self.src_port)
        } else {
            (ipv4::DST, transport::DST_PORT, self.dst_port)
        };
        let check = checksum::apply(self.check, Sum(to.addr_delta as u32));
        let mut written = packet.store_at(self.at + ipv4::CHECK, check.to_ne_bytes())
            && packet.store_at(self.at + address, to.addr.octets);

        let new = to.port.to_wire();
        let port_delta = checksum::delta16(u16::from_ne_bytes(old.to_wire()), u16::from_ne_bytes(new));
        let (port_at, check_at, optional, covered) = match self.protocol {
            protocol::TCP => (port_at, transport::TCP_CHECK, false, to.addr_delta),
            protocol::UDP => (port_at, transport::UDP_CHECK, true, to.addr_delta),
            _ => (transport::ICMP_ID, transport::ICMP_CHECK, false, 0),
        };
        written &= packet.store_at(self.transport + port_at, new);
        let mut outer = Sum(port_delta as u32);
        // Present only if it was quoted: 8 bytes of TCP end before its checksum.
        if self.transport + check_at + 2 <= self.end {
            let bytes: [u8; 2] = packet.load_at(self.transport + check_at)?;
            let old_check = u16::from_ne_bytes(bytes);
            if !(optional && old_check == 0) {
                let delta = Sum(covered as u32).add16(port_delta);
                let mut new_check = checksum::apply(old_check, delta);
                if optional && new_check == 0 {
                    new_check = 0xffff;
                }
                written &= packet.store_at(self.transport + check_at, new_check.to_ne_bytes());
                outer = outer.add16(checksum::delta16(old_check, new_check));
            }
        }
        written.then_some(outer)
    }
}

/// Adds `delta` to the outer ICMP checksum.
#[inline(always)]
fn change_icmp_checksum<P: Packet>(packet: &mut P, ip: &Ip, delta: Sum) -> bool {
    let at = ip.header_len + transport::ICMP_CHECK;
    let Some(check) = packet.load_at::<[u8; 2]>(at) else { return false };
    let check = checksum::apply(u16::from_ne_bytes(check), delta);
    packet.store_at(at, check.to_ne_bytes())
}

/// An error from outside about a packet of ours: the pod gets it with its own packet quoted. With
/// `vendor` 0 (it is from no vendor) an error about anything else is left to the instance's own stack.
#[inline(never)]
pub fn inbound<T: Tables, P: Packet>(tables: &T, packet: &mut P, vendor: u8) -> Decision {
    let nothing = |outcome| {
        if vendor == 0 { Decision::nobody(Outcome::NotOurs) } else { Decision::of(vendor, outcome) }
    };
    let ip = match Ip::read(packet) {
        Ok(ip) => ip,
        Err(outcome) => return nothing(outcome),
    };
    let ip = &ip;
    if ip.is_fragment() {
        return nothing(Outcome::IcmpErrorBad);
    }
    let Some(quote) = Quote::read(packet, ip, Direction::Inbound) else {
        return nothing(Outcome::IcmpErrorBad);
    };
    // The quoted packet must have left from the address that the error is sent to.
    if quote.src != ip.dst {
        return nothing(Outcome::IcmpErrorBad);
    }
    let key = quote.answer();
    let found = tables.flow(&key).and_then(|entry| entry.rewrite(&key, Direction::Inbound));
    let Some(to) = found else { return nothing(Outcome::IcmpErrorNoFlow) };
    if !quote.checksums_hold(tables, packet, ip) {
        return Decision::of(to.vendor, Outcome::IcmpErrorBad);
    }
    let done = match quote.rewrite(packet, true, &to) {
        Some(delta) => {
            change_icmp_checksum(packet, ip, delta) && rewrite::address(packet, ip, Direction::Inbound, &to)
        }
        None => false,
    };
    Decision::of(to.vendor, if done { Outcome::Inbound } else { Outcome::Unfinished })
}

/// An error from a pod, or from a router on its side, about a packet of the vendor's: the vendor gets it from
/// the flow's egress address, with its own packet quoted.
#[inline(never)]
pub fn outbound<T: Tables, P: Packet>(tables: &T, packet: &mut P, vendor: u8) -> Decision {
    let mut ip = match Ip::read(packet) {
        Ok(ip) => ip,
        Err(outcome) => return Decision::of(vendor, outcome),
    };
    if ip.is_fragment() {
        return Decision::of(vendor, Outcome::IcmpErrorBad);
    }
    let Some(quote) = Quote::read(packet, &ip, Direction::Outbound) else {
        return Decision::of(vendor, Outcome::IcmpErrorBad);
    };
    if quote.src != ip.dst {
        return Decision::of(vendor, Outcome::IcmpErrorBad);
    }
    let key = quote.answer();
    let found = tables.flow(&key).and_then(|entry| entry.rewrite(&key, Direction::Outbound));
    let Some(to) = found else { return Decision::of(vendor, Outcome::IcmpErrorNoFlow) };
    if !quote.checksums_hold(tables, packet, &ip) {
        return Decision::of(vendor, Outcome::IcmpErrorBad);
    }
    // RFC 5508 section 7.3: no source route leaves, not even quoted.
    if ip_options::refused_between(tables, packet, quote.at + ipv4::LEN, quote.transport) {
        return Decision::of(vendor, Outcome::OptionRefused);
    }
    let Some(delta) = quote.rewrite(packet, false, &to) else {
        return Decision::of(vendor, Outcome::Unfinished);
    };
    // The reporter may be a router: its own address gives way to the egress address.
    let outer = Rewrite { addr_delta: checksum::delta32(ip.src.to_ne(), to.addr.to_ne()), ..to };
    let done = identification::renew(tables, packet, &mut ip, to.addr)
        && change_icmp_checksum(packet, &ip, delta)
        && rewrite::address(packet, &ip, Direction::Outbound, &outer);
    Decision::of(vendor, if done { Outcome::Outbound } else { Outcome::Unfinished })
}
