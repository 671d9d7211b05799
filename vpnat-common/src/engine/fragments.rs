//! Fragments (RFC 791 section 3.2): the first carries the transport header and so the decision; the others
//! follow it, and do not leave without it.

use super::tables::Tables;
use super::{Clock, Decision, rewrite};
use crate::addr::Port;
use crate::flow_ref::Rewrite;
use crate::layout::flow::{Direction, FragmentEntry, FragmentKey, protocol};
use crate::layout::outcome::Outcome;
use crate::packet::{Ip, Packet, ipv4, transport};

/// How long a first fragment's decision holds, seconds. Hosts wait 60 s or more for the rest (RFC 1122
/// section 3.3.2), translators at least 2 (RFC 6146 FRAGMENT_MIN).
const LIFETIME_S: u32 = 30;

#[inline(always)]
const fn key(ip: &Ip) -> FragmentKey {
    FragmentKey { src: ip.src, dst: ip.dst, id: ip.id, protocol: ip.protocol, _pad: 0 }
}

/// Keeps the decision of the first fragment `ip`.
#[inline(always)]
#[must_use]
pub fn remember<T: Tables>(tables: &T, ip: &Ip, direction: Direction, to: &Rewrite) -> bool {
    let key = key(ip);
    let now = Clock::read(tables).now;
    if let Some(held) = tables.fragment(&key)
        && held.expires.is_after(now)
    {
        // Another first fragment of a datagram that is on its way: it must not change what was decided.
        return held.new_addr == to.addr && held.vendor == to.vendor && held.direction == direction as u8;
    }
    let entry = FragmentEntry {
        new_addr: to.addr,
        expires: now.after(LIFETIME_S),
        addr_delta: to.addr_delta,
        vendor: to.vendor,
        direction: direction as u8,
        check: key.check(),
    };
    tables.insert_fragment(&key, &entry)
}

/// Translates a fragment without transport header by its datagram's decision, or drops it.
#[inline(always)]
pub fn later<T: Tables, P: Packet>(
    tables: &T,
    packet: &mut P,
    ip: &Ip,
    direction: Direction,
    vendor: u8,
) -> Decision {
    if ip.protocol == protocol::TCP
        && ((ip.fragment & ipv4::FRAGMENT_OFFSET) as usize) * 8 < transport::TCP_LEN
    {
        // It would lie over the header that the first fragment was judged by (RFC 1858 section 3).
        return Decision::of(vendor, Outcome::FragmentTiny);
    }
    let key = key(ip);
    let Some(entry) = tables.fragment(&key) else {
        return Decision::of(vendor, Outcome::FragmentUnknown);
    };
    if entry.check != key.check()
        || entry.direction != direction as u8
        || entry.vendor != vendor
        || !entry.expires.is_after(Clock::read(tables).now)
    {
        return Decision::of(vendor, Outcome::FragmentUnknown);
    }
    let to = Rewrite { addr: entry.new_addr, port: Port::new(0), addr_delta: entry.addr_delta, vendor };
    let outcome = match direction {
        Direction::Outbound => Outcome::Outbound,
        Direction::Inbound => Outcome::Inbound,
    };
    if rewrite::address(packet, ip, direction, &to) {
        Decision::of(vendor, outcome)
    } else {
        Decision::of(vendor, Outcome::Unfinished)
    }
}
