//! The fast path, past the stack: XDP ingress, and TC ingress by redirect. It takes whole, plain packets that it
//! can finish, and leaves everything else to the stack and the other hooks, unchanged.

use super::ingress::is_protected;
use super::session::{self, Admission, After, Standing, Step};
use super::tables::{Link, NextHop, Route, RouteQuery, Tables};
use super::{Clock, Decision, flows, identification, rewrite};
use crate::addr::Ip4;
use crate::checksum::{self, Sum};
use crate::layout::device::role;
use crate::layout::flow::Direction;
use crate::layout::outcome::Outcome;
use crate::layout::vendor::VendorPolicy;
use crate::packet::{Ip, Packet, Subject, ipv4};

/// A packet that arrived on a device with the parts `ROLES` (bits of [`role`]).
#[inline(always)]
pub fn forward<T: Tables, P: Link, const ROLES: u8>(tables: &T, packet: &mut P) -> Decision {
    let mut admission = Admission::NONE;
    let mut step = translate::<T, P, ROLES>(tables, packet, After::Nothing);
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
        // Only a pair can take note; renewing completes it.
        step = if session::follow(tables, packet) || session::renew(tables, packet, true) == Standing::Current
        {
            translate::<T, P, ROLES>(tables, packet, After::Followed)
        } else {
            Step::done(Decision::nobody(Outcome::EntryInvalid))
        };
        step = session::clamp(tables, packet, step);
    }
    if step != Step::MISS {
        return step.ended();
    }
    let admitted = admit::<T, P, ROLES>(tables, packet, &mut admission);
    if !admitted.is_translated() {
        return admitted;
    }
    let opened = session::open(tables, packet, admitted.vendor(), &admission);
    if !opened.is_translated() {
        return opened;
    }
    let step = translate::<T, P, ROLES>(tables, packet, After::Followed);
    session::clamp(tables, packet, step).ended()
}

/// Translates a packet that belongs to a flow and hands it to its next hop. Everything is checked before anything is written.
#[inline(never)]
fn translate<T: Tables, P: Link, const ROLES: u8>(tables: &T, packet: &mut P, after: After) -> Step {
    let stack = |outcome| Step::done(Decision::nobody(outcome));
    // Bad headers too: the stack drops and counts them.
    let Ok(mut ip) = Ip::read(packet) else { return stack(Outcome::ToStackShape) };
    if ip.header_len != ipv4::LEN || ip.is_fragment() || !header_checksum_holds(packet) {
        return stack(Outcome::ToStackShape);
    }
    // Known by now; said so that offsets become constants.
    ip.header_len = ipv4::LEN;
    let Ok(subject) = Subject::read::<P, true>(packet, &ip) else { return stack(Outcome::ToStackShape) };
    let key = subject.key;
    let Some(entry) = tables.flow(&key) else { return Step::MISS };
    let Some(direction) = entry.direction() else { return Step::MISS };
    let Some(to) = entry.rewrite(&key, direction) else { return Step::MISS };
    let ended = |outcome| Step::done(Decision::of(to.vendor, outcome));
    let expected = match direction {
        Direction::Outbound => role::INSIDE,
        Direction::Inbound => role::OUTSIDE,
    };
    if ROLES & expected == 0 {
        return ended(Outcome::WrongSide);
    }
    if ip.ttl <= 1 {
        return ended(Outcome::ToStackTtl);
    }
    if after < After::Renewed && entry.stamp() != Clock::read(tables).stamp {
        return Step::STALE;
    }
    let next_hop = NextHop { slot: entry.out_slot(), mac: entry.out_mac(), mtu: entry.mtu() };
    if let Err(outcome) = check_way(packet.wire_len(&ip, &subject), &next_hop) {
        return ended(outcome);
    }
    if after < After::Followed && !session::note(&subject, entry) {
        return Step::CONTROL;
    }
    // Asked before anything is written: a device that is gone leaves the packet to the stack, unchanged.
    if !packet.reserve(next_hop.slot) {
        return ended(Outcome::ToStackRoute);
    }
    entry.count(ip.total_len);

    // TTL and protocol share a word of the header checksum.
    let word = |ttl: u8| u16::from_ne_bytes([ttl, ip.protocol]);
    let ttl = ip.ttl - 1;
    let ttl_delta = checksum::delta16(word(ip.ttl), word(ttl));
    ip.check = checksum::apply(ip.check, Sum(ttl_delta as u32));
    let old = subject.rewritten_port(direction);
    let done = packet.store(ipv4::TTL, [ttl])
        && (matches!(direction, Direction::Inbound)
            || identification::renew(tables, packet, &mut ip, to.addr))
        && rewrite::transport_header::<P, true>(packet, ipv4::LEN, ip.protocol, direction, old, &to)
        && rewrite::address(packet, &ip, direction, &to)
        && packet.address(next_hop.slot, next_hop.mac);
    ended(match (done, direction) {
        (false, _) => Outcome::Unfinished,
        (true, Direction::Outbound) => Outcome::Outbound,
        (true, Direction::Inbound) => Outcome::Inbound,
    })
}

/// Judges a packet without a flow, of a shape that [`translate`] has checked. If it may open one, the outcome
/// is the translated one and `admission` holds what it needs.
#[inline(never)]
fn admit<T: Tables, P: Link, const ROLES: u8>(tables: &T, packet: &P, admission: &mut Admission) -> Decision {
    if !packet.is_addressed_here() {
        return Decision::nobody(Outcome::NotOurs);
    }
    let Ok(ip) = Ip::read(packet) else { return Decision::nobody(Outcome::ToStackShape) };
    let Ok(subject) = Subject::read::<P, true>(packet, &ip) else {
        return Decision::nobody(Outcome::ToStackShape);
    };
    if ROLES & role::OUTSIDE != 0
        && let Some(target) = tables.vendor_of(ip.src)
        && target.exempt == 0
        && is_protected(tables, ip.dst, target.vendor)
    {
        return Decision::of(target.vendor, Outcome::Unsolicited);
    }
    let Some(target) = tables.vendor_of(ip.dst) else { return Decision::nobody(Outcome::NotOurs) };
    let vendor = target.vendor;
    if target.exempt != 0 {
        return Decision::of(vendor, Outcome::Exempt);
    }
    if ROLES & role::INSIDE == 0 {
        return Decision::of(vendor, Outcome::WrongSide);
    }
    let policy = match tables.policy(vendor) {
        Some(policy) if tables.settings().ready != 0 && policy.egress_count != 0 => policy,
        _ => return Decision::of(vendor, Outcome::NotReady),
    };
    if !tables.source_allowed(vendor, ip.src) {
        return Decision::of(vendor, Outcome::SourceNotAllowed);
    }
    if ip.ttl <= 1 {
        return Decision::of(vendor, Outcome::ToStackTtl);
    }
    let query = RouteQuery { src: ip.src, dst: ip.dst, protocol: ip.protocol };
    admission.next_hop = find_next_hop(tables, &query, Direction::Outbound, policy);
    admission.egress = flows::egress_address(policy, ip.src);
    match check_way(packet.wire_len(&ip, &subject), &admission.next_hop) {
        // A policy that is being rewritten may name no address.
        Ok(()) if admission.egress == Ip4::UNSPECIFIED => Decision::of(vendor, Outcome::NotReady),
        Ok(()) => Decision::of(vendor, Outcome::Outbound),
        Err(outcome) => Decision::of(vendor, outcome),
    }
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
    let wanted = match direction {
        Direction::Outbound => role::OUTSIDE | role::GUARDED,
        Direction::Inbound => role::INSIDE,
    };
    if matches!(direction, Direction::Outbound) && policy.path_mtu != 0 && policy.path_mtu < mtu {
        mtu = policy.path_mtu;
    }
    match tables.device(ifindex) {
        Some(device) if device.roles & wanted == wanted => NextHop { slot: device.xdp_slot, mac, mtu },
        _ => NextHop::NONE,
    }
}

/// Renews the next hop that the packet's flow keeps; false if XDP cannot send it on.
#[inline(never)]
fn keep_next_hop<T: Tables, P: Link>(tables: &T, packet: &P) -> bool {
    if !packet.is_addressed_here() {
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

/// Whether the checksum of a header without options holds (RFC 1812 section 5.2.2).
#[inline(always)]
fn header_checksum_holds<P: Packet>(packet: &P) -> bool {
    let Some(words) = packet.load::<[u32; 5]>(0) else { return false };
    let [a, b, c, d, e] = words.map(u64::from);
    let sum = a + b + c + d + e;
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}
