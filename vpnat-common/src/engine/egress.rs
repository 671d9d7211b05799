//! TC egress: the place that makes the promise. After routing, every packet to a vendor is translated here
//! or does not leave.

use super::session::{self, Standing};
use super::tables::Tables;
use super::{Clock, Decision, flows, fragments, icmp_errors};
use crate::addr::{Ip4, Port};
use crate::layout::device::role;
use crate::layout::flow::Direction;
use crate::layout::outcome::Outcome;
use crate::packet::{Ip, NoSubject, Packet, Subject};

/// An outside device's egress. `ingress_ifindex` is the device that the packet came in by, 0 if it was made
/// on the instance itself.
#[inline(always)]
pub fn translate<T: Tables, P: Packet>(tables: &T, packet: &mut P, ingress_ifindex: u32) -> Decision {
    let ip = match Ip::read(packet) {
        Ok(ip) => ip,
        Err(outcome) => return Decision::nobody(outcome),
    };
    let clock = Clock::read(tables);
    let subject = if ip.is_later_fragment() {
        Err(NoSubject::Refused(Outcome::FragmentUnknown))
    } else {
        Subject::read::<P, false>(packet, &ip)
    };

    let mut preferred = None;
    if let Ok(subject) = &subject
        && let Some(entry) = tables.flow(&subject.key)
        && let Some(to) = entry.rewrite(&subject.key, Direction::Outbound)
    {
        let vendor = to.vendor;
        if ip.header_len > 20 && ip.has_refused_option(packet) {
            return Decision::of(vendor, Outcome::OptionRefused);
        }
        match session::renew(tables, &clock, subject, Direction::Outbound, &entry, &to, false) {
            Standing::Current => {
                session::follow(tables, &clock, packet, &ip, subject, Direction::Outbound, &entry, &to);
                entry.count(ip.total_len);
                return finish(tables, &clock, packet, &ip, subject, Direction::Outbound, &to);
            }
            Standing::Over => preferred = Some(to.port),
            Standing::Invalid => return Decision::of(vendor, Outcome::EntryInvalid),
        }
    }

    let arrival = Arrival { ip: &ip, clock: &clock, subject: &subject, preferred, ingress_ifindex };
    without_flow(tables, packet, &arrival)
}

/// A packet on its way out that no flow speaks for.
struct Arrival<'a> {
    ip: &'a Ip,
    clock: &'a Clock,
    subject: &'a Result<Subject, NoSubject>,
    /// The port that it had until now, if it had one.
    preferred: Option<Port>,
    /// The device that it came in by, 0 if it was made here.
    ingress_ifindex: u32,
}

/// Not inlined: its stack is its own, and an established packet's path stays short.
#[inline(never)]
fn without_flow<T: Tables, P: Packet>(tables: &T, packet: &mut P, arrival: &Arrival<'_>) -> Decision {
    let &Arrival { ip, clock, .. } = arrival;
    let Some(target) = tables.vendor_of(ip.dst) else { return Decision::nobody(Outcome::NotOurs) };
    let vendor = target.vendor;
    if target.exempt != 0 {
        return Decision::of(vendor, Outcome::Exempt);
    }
    let policy = match tables.policy(vendor) {
        Some(policy) if tables.settings().ready != 0 && policy.egress_count != 0 => policy,
        _ => return Decision::of(vendor, Outcome::NotReady),
    };
    if ip.header_len > 20 && ip.has_refused_option(packet) {
        return Decision::of(vendor, Outcome::OptionRefused);
    }
    if ip.is_later_fragment() {
        return fragments::later(tables, clock, packet, ip, Direction::Outbound, vendor);
    }
    let made_here = arrival.ingress_ifindex == 0;
    let subject = match arrival.subject {
        Ok(subject) => subject,
        // The instance says nothing to the vendor: its errors would quote pods' addresses.
        Err(NoSubject::IcmpError) if made_here => return Decision::of(vendor, Outcome::LocalSource),
        Err(NoSubject::IcmpError) => return icmp_errors::outbound(tables, packet, ip, vendor),
        Err(NoSubject::Refused(outcome)) => return Decision::of(vendor, *outcome),
    };

    let egress = match who_speaks(tables, ip, vendor, made_here, arrival.ingress_ifindex) {
        Ok(Speaker::Instance) => Some(ip.src),
        Ok(Speaker::Pod) => flows::egress_address(policy, ip.src),
        Err(outcome) => return Decision::of(vendor, outcome),
    };
    let Some(egress) = egress else { return Decision::of(vendor, Outcome::NotReady) };
    let preferred = arrival.preferred.unwrap_or(subject.key.src_port);
    match session::open(tables, clock, packet, ip, subject, vendor, policy, egress, preferred) {
        Ok(to) => finish(tables, clock, packet, ip, subject, Direction::Outbound, &to),
        Err(outcome) => Decision::of(vendor, outcome),
    }
}

/// Who a packet without a flow comes from.
enum Speaker {
    /// An allowed source behind an inside device.
    Pod,
    /// The instance itself, from the egress address: it keeps its address, and a port apart from the pods'.
    Instance,
}

#[inline(always)]
fn who_speaks<T: Tables>(
    tables: &T,
    ip: &Ip,
    vendor: u8,
    made_here: bool,
    ingress_ifindex: u32,
) -> Result<Speaker, Outcome> {
    if made_here {
        return if is_egress_of(tables, ip.src, vendor) {
            Ok(Speaker::Instance)
        } else {
            Err(Outcome::LocalSource)
        };
    }
    let inside = tables.device(ingress_ifindex).is_some_and(|device| device.roles & role::INSIDE != 0);
    if !inside {
        return Err(Outcome::WrongSide);
    }
    if !tables.source_allowed(vendor, ip.src) {
        return Err(Outcome::SourceNotAllowed);
    }
    Ok(Speaker::Pod)
}

/// Whether `address` is an egress address of the vendor in `slot`.
#[inline(always)]
pub fn is_egress_of<T: Tables>(tables: &T, address: Ip4, slot: u8) -> bool {
    tables.egress(address).is_some_and(|egress| egress.vendors >> (slot & 63) & 1 != 0)
}

/// Translates, and keeps a first fragment's decision for the rest of its datagram.
#[inline(always)]
pub(super) fn finish<T: Tables, P: Packet>(
    tables: &T,
    clock: &Clock,
    packet: &mut P,
    ip: &Ip,
    subject: &Subject,
    direction: Direction,
    to: &crate::flow_ref::Rewrite,
) -> Decision {
    let outcome = match direction {
        Direction::Outbound => Outcome::Outbound,
        Direction::Inbound => Outcome::Inbound,
    };
    if ip.is_fragment() && !fragments::remember(tables, clock, ip, direction, to) {
        return Decision::of(to.vendor, Outcome::FragmentUnknown);
    }
    if !session::translate(packet, ip, subject, direction, to) {
        return Decision::of(to.vendor, Outcome::Unfinished);
    }
    Decision::of(to.vendor, outcome)
}

/// Egress of a device that does not translate: nothing to a vendor leaves here.
#[inline(always)]
pub fn guard<T: Tables, P: Packet>(tables: &T, packet: &P) -> Decision {
    // The address alone decides, so that no malformed packet talks its way out.
    let Some(dst) = packet.load::<[u8; 4]>(crate::packet::ipv4::DST) else {
        return Decision::nobody(Outcome::BadHeader);
    };
    match tables.vendor_of(Ip4 { octets: dst }) {
        None => Decision::nobody(Outcome::NotOurs),
        Some(target) if target.exempt != 0 => Decision::of(target.vendor, Outcome::Exempt),
        Some(target) => Decision::of(target.vendor, Outcome::Unguarded),
    }
}
