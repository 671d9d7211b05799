//! TC ingress: restores replies, drops what nobody asked for, and sees to it that pods' packets are routed
//! to a device that translates.

use super::holding::{self, Holding};
use super::session::{self, Step};
use super::tables::{Link, Route, RouteQuery, Tables};
use super::{Decision, fast, fragments, icmp_errors};
use crate::addr::{Ip4, Port};
use crate::ip_options;
use crate::layout::device::role;
use crate::layout::flow::Direction;
use crate::layout::outcome::Outcome;
use crate::packet::{Ip, NoSubject, Packet, Subject};

/// Sends a packet on by redirect, past the stack, or drops it, if the fast path can tell. `None`: it is
/// unchanged, and the stack and the other hooks serve it.
#[inline(always)]
pub fn redirect<T: Tables, P: Link, const ROLES: u8>(tables: &T, packet: &mut P) -> Option<Decision> {
    if tables.settings().redirect_mark == 0 {
        return None;
    }
    let decision = fast::forward::<T, P, ROLES>(tables, packet);
    (decision.is_translated() || decision.is_drop()).then_some(decision)
}

/// Ingress of a device with the parts `ROLES` (bits of [`role`]).
#[inline(always)]
pub fn restore<T: Tables, P: Holding, const ROLES: u8>(tables: &T, packet: &mut P) -> Decision {
    if ROLES & role::OUTSIDE != 0 {
        let step = session::approach::<T, P, false>(tables, packet, &mut Port::new(0));
        if step != Step::MISS {
            return session::conclude::<T, P, false>(tables, packet, step);
        }
        let mut decision = without_flow(tables, packet);
        if decision.is(Outcome::IcmpErrorNoFlow) {
            decision = icmp_errors::inbound(tables, packet, decision.vendor());
        }
        if decision.is(Outcome::FragmentUnknown) {
            return holding::hold::<T, P, false>(tables, packet, decision);
        }
        if decision != Decision::nobody(Outcome::NotOurs) {
            return decision;
        }
    }
    to_vendor::<T, P, ROLES>(tables, packet)
}

/// Judges a packet that no flow restores: to an egress address from its vendor, it was not asked for. Of an ICMP error
/// it only says that no flow is known yet.
#[inline(never)]
fn without_flow<T: Tables, P: Packet>(tables: &T, packet: &mut P) -> Decision {
    let not_ours = Decision::nobody(Outcome::NotOurs);
    // A bad header is the stack's to drop, and to count (RFC 1812 section 5.2.2).
    let Ok(ip) = Ip::read(packet) else { return not_ours };
    let vendor = match tables.vendor_of(ip.src) {
        Some(target) if target.exempt == 0 && is_protected(tables, ip.dst, target.vendor) => target.vendor,
        _ if tables.egress(ip.dst).is_none() => return not_ours,
        _ => 0,
    };
    if vendor != 0 {
        if ip_options::refused(tables, packet, &ip) {
            return Decision::of(vendor, Outcome::OptionRefused);
        }
        if ip.is_later_fragment() {
            return fragments::later(tables, packet, ip, Direction::Inbound, vendor);
        }
    } else if ip.is_later_fragment() {
        return not_ours;
    }
    match Subject::read::<P, false>(packet, &ip) {
        // Judged by its quote, whatever address it comes from (RFC 4787 REQ-12a).
        Err(NoSubject::IcmpError) => Decision::of(vendor, Outcome::IcmpErrorNoFlow),
        // To the instance itself, from somebody who is no vendor of this address.
        _ if vendor == 0 => not_ours,
        Err(NoSubject::Refused(outcome)) => Decision::of(vendor, outcome),
        Ok(_) => Decision::of(vendor, Outcome::Unsolicited),
    }
}

/// Whether a vendor has no business with `address` unless a flow says so: any egress address, and whoever may
/// talk to that vendor.
#[inline(always)]
pub fn is_protected<T: Tables>(tables: &T, address: Ip4, vendor: u8) -> bool {
    tables.egress(address).is_some() || tables.source_allowed(vendor, address)
}

/// A packet to a vendor may go on only if it is routed to a device that translates: a tunnel that has just
/// come back, without its egress hook, must not carry it.
#[inline(never)]
fn to_vendor<T: Tables, P: Packet, const ROLES: u8>(tables: &T, packet: &P) -> Decision {
    let Ok(ip) = Ip::read(packet) else { return Decision::nobody(Outcome::NotOurs) };
    let Some(target) = tables.vendor_of(ip.dst) else { return Decision::nobody(Outcome::NotOurs) };
    if target.exempt != 0 {
        return Decision::of(target.vendor, Outcome::Exempt);
    }
    if ROLES & role::INSIDE == 0 {
        return Decision::of(target.vendor, Outcome::WrongSide);
    }
    let query = RouteQuery { src: ip.src, dst: ip.dst, protocol: ip.protocol };
    let outcome = match tables.route(&query) {
        Route::Ready { ifindex, .. } | Route::Slow { ifindex } => {
            let wanted = role::OUTSIDE | role::GUARDED;
            if tables.device(ifindex).roles & wanted == wanted {
                Outcome::RoutedToGuarded
            } else {
                Outcome::Unguarded
            }
        }
        // The stack answers the pod: unreachable, prohibited.
        Route::NotForwarded => Outcome::RoutedToGuarded,
        Route::Unknown => Outcome::Unguarded,
    };
    Decision::of(target.vendor, outcome)
}
