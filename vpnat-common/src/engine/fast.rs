//! The fast path, past the stack: XDP ingress, and TC ingress by redirect. It takes whole, plain packets that it
//! can finish, and leaves everything else to the stack and the other hooks, unchanged.

use super::admission::Admission;
use super::egress::is_egress_of;
use super::ingress::is_protected;
use super::session::{self, After, Standing, Step};
use super::tables::{Link, NextHop, Route, RouteQuery, Tables, Way};
use super::{Clock, Decision, flows, identification, refusal, rewrite};
use crate::checksum::{self, Sum};
use crate::flow_ref::Rewrite;
use crate::layout::device::role;
use crate::layout::flow::{Direction, protocol};
use crate::layout::outcome::Outcome;
use crate::layout::vendor::VendorPolicy;
use crate::packet::{Ip, Subject, ipv4};

/// A packet that arrived on a device with the parts `ROLES` (bits of [`role`]).
#[inline(always)]
pub fn forward<T: Tables, P: Link, const ROLES: u8>(tables: &T, packet: &mut P) -> Decision {
    let step = translate::<T, P, ROLES>(tables, packet, After::Nothing);
    if step.is_end() {
        return step.ended();
    }
    // Nothing of what follows is prepared before it is needed.
    let mut admission = Admission::NONE;
    let mut step = step;
    if step == Step::STALE {
        admission.preferred = flows::port_of(tables, packet);
        step = match session::renew(tables, packet, true) {
            Standing::Current if keep_next_hop(tables, packet) => {
                translate::<T, P, ROLES>(tables, packet, After::Renewed)
            }
            Standing::Current => Step::done(Decision::nobody(Outcome::ToStackRoute)),
            Standing::Over => Step::MISS,
            Standing::Invalid => Step::done(Decision::nobody(Outcome::EntryInvalid)),
        };
    }
    if step == Step::CONTROL {
        if !session::take_note(tables, packet, true) {
            return Decision::nobody(Outcome::EntryInvalid);
        }
    } else if step == Step::MISS {
        let admitted = admit::<T, P, ROLES>(tables, packet, &mut admission);
        if !admitted.is_translated() {
            return refusal::leave(tables, admitted);
        }
        let opened = session::open(tables, packet, admitted.vendor(), &mut admission);
        if !opened.is_translated() {
            return refusal::leave(tables, opened);
        }
    } else {
        return step.ended();
    }
    // One call for both: the verifier goes through a function once for each place that calls it.
    let step = translate::<T, P, ROLES>(tables, packet, After::Followed);
    session::clamp(tables, packet, step).ended()
}

/// Translates a packet that belongs to a flow and hands it to its next hop. Everything is checked before anything is
/// written.
#[inline(never)]
fn translate<T: Tables, P: Link, const ROLES: u8>(tables: &T, packet: &mut P, after: After) -> Step {
    // Bad headers too: the stack drops and counts them.
    let stack = Step::done(Decision::nobody(Outcome::ToStackShape));
    let Some(ip) = Ip::read_plain(packet) else { return stack };
    // A path for each protocol: none carries what only another one needs.
    match ip.protocol {
        protocol::TCP => translate_as::<T, P, ROLES, { protocol::TCP }>(tables, packet, ip, after),
        protocol::UDP => translate_as::<T, P, ROLES, { protocol::UDP }>(tables, packet, ip, after),
        protocol::ICMP => translate_as::<T, P, ROLES, { protocol::ICMP }>(tables, packet, ip, after),
        _ => stack,
    }
}

/// As [`translate`], for a packet of `PROTOCOL`.
#[inline(always)]
fn translate_as<T: Tables, P: Link, const ROLES: u8, const PROTOCOL: u8>(
    tables: &T,
    packet: &mut P,
    mut ip: Ip,
    after: After,
) -> Step {
    // Known by now; said so that they become constants.
    ip.protocol = PROTOCOL;
    ip.header_len = ipv4::LEN;
    let Ok(subject) = Subject::read::<P, true>(packet, &ip) else {
        return Step::done(Decision::nobody(Outcome::ToStackShape));
    };
    let key = subject.key;
    let Some(entry) = tables.flow(&key) else { return Step::MISS };
    // A device with one part sees one direction; the other one is somebody's forgery.
    let direction = match ROLES {
        role::INSIDE => Direction::Outbound,
        role::OUTSIDE => Direction::Inbound,
        _ => match entry.direction() {
            Some(direction) => direction,
            None => return Step::MISS,
        },
    };
    let Some(to) = entry.rewrite(&key, direction) else {
        return match entry.rewrite(&key, direction.opposite()) {
            Some(to) => Step::done(Decision::of(to.vendor, Outcome::WrongSide)),
            None => Step::MISS,
        };
    };
    if ip.ttl <= 1 {
        return Step::of(to.vendor, Outcome::ToStackTtl);
    }
    let clock = Clock::read(tables);
    if after < After::Renewed && session::needs_a_look(&entry, &clock) {
        return Step::STALE;
    }
    let next_hop = NextHop { slot: entry.out_slot(), mac: entry.out_mac(), mtu: entry.mtu() };
    if let Err(outcome) = check_way(packet.wire_len(&ip, &subject), &next_hop) {
        // Only the stack has seen this flow lately: whether there is a way past it is not known.
        let look = after < After::Renewed && next_hop.is_unknown();
        return if look { Step::STALE } else { Step::of(to.vendor, outcome) };
    }
    if after < After::Followed && !session::note(&subject, entry) {
        return Step::CONTROL;
    }
    // Asked before anything is written: a device that is gone leaves the packet to the stack, unchanged.
    if !packet.reserve(next_hop.slot) {
        return Step::of(to.vendor, Outcome::ToStackRoute);
    }
    if after < After::Followed {
        session::refresh(tables, &clock, subject.kind, direction, to.vendor, &entry);
    }
    entry.count(ip.total_len);
    let done = write(tables, packet, &mut ip, &subject, direction, &to, &next_hop);
    Step::of(
        to.vendor,
        match (done, direction) {
            (false, _) => Outcome::Unfinished,
            (true, Direction::Outbound) => Outcome::Outbound,
            (true, Direction::Inbound) => Outcome::Inbound,
        },
    )
}

/// Writes the translation, and one hop less to live, into a packet without options.
#[inline(always)]
fn write<T: Tables, P: Link>(
    tables: &T,
    packet: &mut P,
    ip: &mut Ip,
    subject: &Subject,
    direction: Direction,
    to: &Rewrite,
    next_hop: &NextHop,
) -> bool {
    /// What the word that TTL and protocol share changes by when the TTL, its first byte, becomes one less: `~1`.
    const ONE_LESS: u16 = !u16::from_ne_bytes([1, 0]);
    if matches!(direction, Direction::Outbound) && !identification::renew(tables, packet, ip, to.addr) {
        return false;
    }
    let check = checksum::apply(ip.check, Sum(to.addr_delta as u32).add16(ONE_LESS));
    let [high, low] = check.to_ne_bytes();
    let address = match direction {
        Direction::Outbound => ipv4::SRC,
        Direction::Inbound => ipv4::DST,
    };
    let old = subject.rewritten_port(direction);
    rewrite::transport_header::<P, true>(packet, ipv4::LEN, ip.protocol, direction, old, to)
        && packet.store(ipv4::TTL, [u32::from_ne_bytes([ip.ttl - 1, ip.protocol, high, low])])
        && packet.store(address, [to.addr.to_ne()])
        && packet.address(next_hop.slot, next_hop.mac)
}

/// Judges a packet without a flow, of a shape that [`translate`] has checked. If it may open one, the outcome
/// is the translated one and `admission` holds what it needs.
#[inline(never)]
fn admit<T: Tables, P: Link, const ROLES: u8>(tables: &T, packet: &P, admission: &mut Admission) -> Decision {
    let Ok(ip) = Ip::read(packet) else { return Decision::nobody(Outcome::ToStackShape) };
    let Ok(subject) = Subject::read::<P, true>(packet, &ip) else {
        return Decision::nobody(Outcome::ToStackShape);
    };
    let query = RouteQuery { src: ip.src, dst: ip.dst, protocol: ip.protocol };
    let stamp = Clock::read(tables).stamp;
    let (way, is_new) = match tables.way(&query, stamp) {
        Some(way) => (way, false),
        None => {
            let arrives = packet.arrives();
            match find_way::<T, ROLES>(tables, &query, arrives) {
                Ok(way) => (way, true),
                // What is not addressed to this host is not this host's to judge.
                Err(_) if !packet.is_addressed_here(arrives) => return Decision::nobody(Outcome::NotOurs),
                Err(decision) => return decision,
            }
        }
    };
    if !packet.is_addressed_here(way.arrives) {
        return Decision::nobody(Outcome::NotOurs);
    }
    let ended = |outcome| Decision::of(way.vendor, outcome);
    if ip.ttl <= 1 {
        return ended(Outcome::ToStackTtl);
    }
    if let Err(outcome) = check_way(packet.wire_len(&ip, &subject), &way.next_hop) {
        return ended(outcome);
    }
    let policy = match tables.policy(way.vendor) {
        Some(policy) if tables.settings().ready != 0 && policy.egress_count != 0 => policy,
        _ => return ended(Outcome::NotReady),
    };
    admission.set_next_hop(way.next_hop);
    admission.egress = flows::egress_address(policy, ip.src);
    if !is_egress_of(tables, admission.egress, way.vendor) {
        // A policy that is being rewritten may name no address; one that is spoiled, somebody else's.
        return ended(Outcome::NotReady);
    }
    if is_new {
        tables.keep_way(&query, stamp, &way);
    }
    ended(Outcome::Outbound)
}

/// Finds out whose packets from and to these addresses are, whether they are allowed, and where they go.
///
/// # Errors
/// How such a packet ends, if not by opening a flow.
#[inline(always)]
fn find_way<T: Tables, const ROLES: u8>(
    tables: &T,
    query: &RouteQuery,
    arrives: u8,
) -> Result<Way, Decision> {
    if ROLES & role::OUTSIDE != 0
        && let Some(target) = tables.vendor_of(query.src)
        && target.exempt == 0
        && is_protected(tables, query.dst, target.vendor)
    {
        return Err(Decision::of(target.vendor, Outcome::Unsolicited));
    }
    let Some(target) = tables.vendor_of(query.dst) else { return Err(Decision::nobody(Outcome::NotOurs)) };
    let vendor = target.vendor;
    let ends = |outcome| Err(Decision::of(vendor, outcome));
    if target.exempt != 0 {
        return ends(Outcome::Exempt);
    }
    if ROLES & role::INSIDE == 0 {
        return ends(Outcome::WrongSide);
    }
    if vendor == 0 {
        return ends(Outcome::Closed);
    }
    let policy = match tables.policy(vendor) {
        Some(policy) if tables.settings().ready != 0 && policy.egress_count != 0 => policy,
        _ => return ends(Outcome::NotReady),
    };
    if !tables.source_allowed(vendor, query.src) {
        return ends(Outcome::SourceNotAllowed);
    }
    Ok(Way { vendor, arrives, next_hop: find_next_hop(tables, query, Direction::Outbound, policy) })
}

/// Whether XDP can send the packet this way.
#[inline(always)]
fn check_way(len: u32, next_hop: &NextHop) -> Result<(), Outcome> {
    if next_hop.slot == 0 {
        return Err(Outcome::ToStackRoute);
    }
    if len > next_hop.mtu as u32 {
        return Err(Outcome::ToStackMtu);
    }
    Ok(())
}

/// Asks the routing table for the next hop of a packet of the vendor with `policy`; slot 0 if the packet
/// cannot be sent on past the stack.
#[inline(always)]
fn find_next_hop<T: Tables>(
    tables: &T,
    query: &RouteQuery,
    direction: Direction,
    policy: &VendorPolicy,
) -> NextHop {
    let Route::Ready { ifindex, mac, mut mtu } = tables.route(query) else { return NextHop::NONE };
    // Out through a device that stands on the right side, or not at all.
    let (wanted, limit) = match direction {
        Direction::Outbound => (role::OUTSIDE | role::GUARDED, policy.path_mtu),
        Direction::Inbound => (role::INSIDE, policy.inside_mtu),
    };
    if limit != 0 && limit < mtu {
        mtu = limit;
    }
    let device = tables.device(ifindex);
    if device.roles & wanted == wanted { NextHop { slot: device.xdp_slot, mac, mtu } } else { NextHop::NONE }
}

/// Renews the next hop that the packet's flow keeps; false if XDP cannot send it on.
#[inline(never)]
fn keep_next_hop<T: Tables, P: Link>(tables: &T, packet: &P) -> bool {
    if !packet.is_addressed_here(packet.arrives()) {
        return false;
    }
    let Ok(ip) = Ip::read(packet) else { return false };
    let Ok(subject) = Subject::read::<P, true>(packet, &ip) else { return false };
    let key = subject.key;
    let Some(entry) = tables.flow(&key) else { return false };
    let Some(direction) = entry.direction() else { return false };
    let Some(to) = entry.rewrite(&key, direction) else { return false };
    // Routed as the stack would: outbound before the source changes, inbound to the pod.
    let dst = match direction {
        Direction::Outbound => key.dst,
        Direction::Inbound => to.addr,
    };
    let query = RouteQuery { src: key.src, dst, protocol: key.protocol };
    let Some(policy) = tables.policy(to.vendor) else { return false };
    let next_hop = find_next_hop(tables, &query, direction, policy);
    // No slot while address and MTU change under a reader on another CPU.
    entry.set_out_slot(0);
    entry.set_out_mac(next_hop.mac);
    entry.set_mtu(next_hop.mtu);
    entry.set_out_slot(next_hop.slot);
    entry.set_stamp(Clock::read(tables).stamp);
    next_hop.slot != 0
}
