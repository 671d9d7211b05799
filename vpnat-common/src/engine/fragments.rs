//! Fragments (RFC 791 section 3.2): the first carries the transport header and so the decision; the others
//! follow it, and do not leave without it. Those that come before it are held ([`super::holding`]).

use super::holding::{self, Holding};
use super::tables::Tables;
use super::{Clock, Decision, identification, rewrite};
use crate::addr::Port;
use crate::flow_ref::Rewrite;
use crate::layout::flow::{Direction, FragmentEntry, FragmentKey, protocol};
use crate::layout::outcome::Outcome;
use crate::packet::{Ip, Kind, Packet, Subject, ipv4, transport};

/// How long a first fragment's decision holds, seconds. Hosts wait 60 s or more for the rest (RFC 1122
/// section 3.3.2), translators at least 2 (RFC 6146 FRAGMENT_MIN).
pub const LIFETIME_S: u32 = 30;

/// How long a first fragment's decision stands against another first fragment, at least, seconds: RFC 6146's
/// FRAGMENT_MIN. A later one begins a new datagram, because hosts use an identification again before all of the
/// [`LIFETIME_S`] is over.
const STANDS_S: u32 = 2;

/// Length of UDP's header, and of an ICMP query's, bytes.
const MIN_TRANSPORT: u8 = 8;

/// Largest datagram, bytes (RFC 791).
const MOST_BYTES: u32 = 0xffff;

/// Names the datagram that `ip` is a part of, as it arrived.
#[inline(always)]
pub const fn key(ip: &Ip) -> FragmentKey {
    FragmentKey { src: ip.src, dst: ip.dst, id: ip.id, protocol: ip.protocol, _pad: 0 }
}

/// The decision of `ip`'s datagram on its way in `direction`, if there is one that holds.
#[inline(always)]
pub fn decision<T: Tables>(tables: &T, ip: &Ip, direction: Direction) -> Option<FragmentEntry> {
    let key = key(ip);
    let entry = tables.fragment(&key)?;
    let holds = entry.check == key.check(entry.new_addr)
        && entry.direction == direction as u8
        && entry.expires.is_after(Clock::read(tables).now);
    holds.then_some(entry)
}

/// Keeps the decision of a first fragment whose flow lets it pass, and sends what was held for it; the outcome translates
/// unless another first fragment of the same datagram was decided otherwise.
#[inline(never)]
pub fn first<T: Tables, P: Holding, const OUTBOUND: bool>(tables: &T, packet: &mut P) -> Decision {
    let direction = if OUTBOUND { Direction::Outbound } else { Direction::Inbound };
    let gone = Decision::nobody(Outcome::EntryInvalid);
    let Ok(ip) = Ip::read(packet) else { return gone };
    let Ok(subject) = Subject::read::<P, false>(packet, &ip) else { return gone };
    let Some(flow) = tables.flow(&subject.key) else { return gone };
    let Some(to) = flow.rewrite(&subject.key, direction) else { return gone };
    let refused = Decision::of(to.vendor, Outcome::FragmentUnknown);
    let key = key(&ip);
    let transport_len = if subject.kind == Kind::Tcp { subject.tcp.header_len } else { MIN_TRANSPORT };
    let now = Clock::read(tables).now;
    let stands = now.after(LIFETIME_S - STANDS_S - 1);
    let id = match decision(tables, &ip, direction).filter(|held| held.expires.is_after(stands)) {
        // A datagram that is on its way: what was decided for it stays.
        Some(held)
            if held.new_addr != to.addr
                || held.vendor != to.vendor
                || held.transport_len != transport_len =>
        {
            return refused;
        }
        Some(held) => held.id,
        None if OUTBOUND => identification::next(tables, packet, to.addr, &ip),
        None => ip.id,
    };
    let entry = FragmentEntry {
        new_addr: to.addr,
        expires: now.after(LIFETIME_S),
        addr_delta: to.addr_delta,
        vendor: to.vendor,
        direction: direction as u8,
        check: key.check(to.addr),
        id,
        transport_len,
        _pad: 0,
    };
    if !tables.insert_fragment(&key, &entry) {
        return refused;
    }
    let whole = holding::release(tables, packet, &ip, direction);
    refused.but(if whole { Outcome::Outbound } else { Outcome::Unfinished })
}

/// Translates a fragment without transport header by its datagram's decision, or drops it.
#[inline(always)]
pub fn later<T: Tables, P: Packet>(
    tables: &T,
    packet: &mut P,
    mut ip: Ip,
    direction: Direction,
    vendor: u8,
) -> Decision {
    let offset = (ip.fragment & ipv4::FRAGMENT_OFFSET) as u32 * 8;
    if offset + ip.total_len > MOST_BYTES {
        return Decision::of(vendor, Outcome::BadHeader);
    }
    // It would lie over the header that the first fragment is judged by (RFC 1858 section 3).
    if ip.protocol == protocol::TCP && offset < transport::TCP_LEN as u32 {
        return Decision::of(vendor, Outcome::FragmentTiny);
    }
    let entry = match decision(tables, &ip, direction) {
        Some(entry) if entry.vendor == vendor => entry,
        _ => return Decision::of(vendor, Outcome::FragmentUnknown),
    };
    if offset < entry.transport_len as u32 {
        return Decision::of(vendor, Outcome::FragmentTiny);
    }
    let to = Rewrite { addr: entry.new_addr, port: Port::new(0), addr_delta: entry.addr_delta, vendor };
    let outcome = match direction {
        Direction::Outbound => Outcome::Outbound,
        Direction::Inbound => Outcome::Inbound,
    };
    if identification::write(packet, &mut ip, entry.id) && rewrite::address(packet, &ip, direction, &to) {
        Decision::of(vendor, outcome)
    } else {
        Decision::of(vendor, Outcome::Unfinished)
    }
}
