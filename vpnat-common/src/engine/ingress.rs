//! TC ingress: restores replies, drops what nobody asked for, and sees to it that pods' packets are routed
//! to a device that translates.

use super::egress::{finish, is_egress_of};
use super::session::{self, Standing};
use super::tables::{Route, RouteQuery, Tables};
use super::{Clock, Decision, fragments, icmp_errors};
use crate::layout::device::role;
use crate::layout::flow::Direction;
use crate::layout::outcome::Outcome;
use crate::packet::{Ip, NoSubject, Packet, Subject};

/// Ingress of a device with the parts `ROLES` (bits of [`role`]).
#[inline(always)]
pub fn restore<T: Tables, P: Packet, const ROLES: u8>(tables: &T, packet: &mut P) -> Decision {
    let ip = match Ip::read(packet) {
        Ok(ip) => ip,
        // The stack drops such a header itself, and counts it (RFC 1812 section 5.2.2).
        Err(_) => return Decision::nobody(Outcome::NotOurs),
    };
    if ROLES & role::OUTSIDE != 0
        && let Some(decision) = from_outside(tables, packet, &ip)
    {
        return decision;
    }
    to_vendor::<T, ROLES>(tables, &ip)
}

/// Handles what is addressed to an egress address; `None` if it is not.
#[inline(always)]
fn from_outside<T: Tables, P: Packet>(tables: &T, packet: &mut P, ip: &Ip) -> Option<Decision> {
    let subject = if ip.is_later_fragment() {
        Err(NoSubject::Refused(Outcome::FragmentUnknown))
    } else {
        Subject::read::<P, false>(packet, ip)
    };
    let clock = Clock::read(tables);
    if let Ok(subject) = &subject
        && let Some(entry) = tables.flow(&subject.key)
        && let Some(to) = entry.rewrite(&subject.key, Direction::Inbound)
    {
        if ip.header_len > 20 && ip.has_refused_option(packet) {
            return Some(Decision::of(to.vendor, Outcome::OptionRefused));
        }
        match session::renew(tables, &clock, subject, Direction::Inbound, &entry, &to, false) {
            Standing::Current => {
                session::follow(tables, &clock, packet, ip, subject, Direction::Inbound, &entry, &to);
                entry.count(ip.total_len);
                return Some(finish(tables, &clock, packet, ip, subject, Direction::Inbound, &to));
            }
            Standing::Over => {}
            Standing::Invalid => return Some(Decision::of(to.vendor, Outcome::EntryInvalid)),
        }
    }

    tables.egress(ip.dst)?;
    let vendor = match tables.vendor_of(ip.src) {
        Some(target) if target.exempt == 0 && is_egress_of(tables, ip.dst, target.vendor) => target.vendor,
        _ => 0,
    };
    // An error is judged by its quote, whatever address it comes from (RFC 4787 REQ-12a).
    if matches!(subject, Err(NoSubject::IcmpError)) {
        return icmp_errors::inbound(tables, packet, ip, vendor);
    }
    if vendor == 0 {
        // To the instance itself, from somebody who is no vendor of this address.
        return Some(Decision::nobody(Outcome::NotOurs));
    }
    if ip.is_later_fragment() {
        return Some(fragments::later(tables, &clock, packet, ip, Direction::Inbound, vendor));
    }
    Some(Decision::of(
        vendor,
        match subject {
            Err(NoSubject::Refused(outcome)) => outcome,
            _ => Outcome::Unsolicited,
        },
    ))
}

/// A packet to a vendor may go on only if it is routed to a device that translates: a tunnel that has just
/// come back, without its egress hook, must not carry it.
#[inline(always)]
fn to_vendor<T: Tables, const ROLES: u8>(tables: &T, ip: &Ip) -> Decision {
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
            match tables.device(ifindex) {
                Some(device) if device.roles & wanted == wanted => Outcome::RoutedToGuarded,
                _ => Outcome::Unguarded,
            }
        }
        // The stack answers the pod: unreachable, prohibited.
        Route::NotForwarded => Outcome::RoutedToGuarded,
        Route::Unknown => Outcome::Unguarded,
    };
    Decision::of(target.vendor, outcome)
}
