//! TC egress: the place that makes the promise. After routing, every packet to a vendor is translated here
//! or does not leave.

use super::admission::Admission;
use super::holding::{self, Holding};
use super::session::{self, Step};
use super::tables::Tables;
use super::{Decision, flows, fragments, icmp_errors, own_errors};
use crate::addr::Ip4;
use crate::ip_options;
use crate::layout::device::role;
use crate::layout::flow::Direction;
use crate::layout::outcome::Outcome;
use crate::packet::{Ip, NoSubject, Packet, Subject, icmp, ipv4};

/// What may be an error of the instance itself about what it has translated: [`own_errors::turn`] tells.
pub const OWN_ERROR: Decision = Decision::nobody(Outcome::IcmpErrorNoFlow);

/// An outside device's egress, which leaves an [`OWN_ERROR`] to its caller. `ingress_ifindex` is the device that the packet
/// came in by, 0 if it was made on the instance itself.
#[inline(always)]
pub fn translate<T: Tables, P: Holding>(tables: &T, packet: &mut P, ingress_ifindex: u32) -> Decision {
    let mut admission = Admission::NONE;
    let step = session::approach::<T, P, true>(tables, packet, &mut admission.preferred);
    if step == Step::MISS {
        let admitted = admit(tables, packet, ingress_ifindex, &mut admission.egress);
        // Without an address it has ended there: dropped, passed, or translated by what it quotes or belongs to.
        if admission.egress == Ip4::UNSPECIFIED {
            // Both take more of the stack than is left below `admit`.
            if admitted.is(Outcome::IcmpErrorNoFlow) && admitted != OWN_ERROR {
                return icmp_errors::outbound(tables, packet, admitted.vendor());
            }
            if admitted.is(Outcome::FragmentUnknown) {
                return holding::hold::<T, P, true>(tables, packet, admitted);
            }
            return admitted;
        }
        let opened = session::open(tables, packet, admitted.vendor(), &mut admission);
        if !opened.is_translated() {
            return opened;
        }
    }
    session::conclude::<T, P, true>(tables, packet, step)
}

/// Judges a packet on its way out that no flow speaks for. If it may open one, `egress` holds the address to
/// use. Later fragments are translated here; of an ICMP error it only says that no flow is known yet.
#[inline(never)]
fn admit<T: Tables, P: Packet>(
    tables: &T,
    packet: &mut P,
    ingress_ifindex: u32,
    egress: &mut Ip4,
) -> Decision {
    let Some(dst) = packet.load::<[u8; 4]>(ipv4::DST) else {
        return Decision::nobody(Outcome::BadHeader);
    };
    let Some(target) = tables.vendor_of(Ip4 { octets: dst }) else {
        let own = ingress_ifindex == 0 && own_errors::may_be(tables, packet);
        return if own { OWN_ERROR } else { Decision::nobody(Outcome::NotOurs) };
    };
    let vendor = target.vendor;
    if target.exempt != 0 {
        return Decision::of(vendor, Outcome::Exempt);
    }
    if vendor == 0 {
        return Decision::nobody(Outcome::Closed);
    }
    let policy = match tables.policy(vendor) {
        Some(policy) if tables.settings().ready != 0 && policy.egress_count != 0 => policy,
        _ => return Decision::of(vendor, Outcome::NotReady),
    };
    let Ok(ip) = Ip::read(packet) else { return Decision::of(vendor, Outcome::BadHeader) };
    if ip_options::refused(tables, packet, &ip) {
        return Decision::of(vendor, Outcome::OptionRefused);
    }
    if ip.is_later_fragment() {
        return fragments::later(tables, packet, ip, Direction::Outbound, vendor);
    }
    match Subject::read::<P, false>(packet, &ip) {
        Ok(_) => {}
        // The instance says nothing to the vendor, but why a packet did not reach its pod: translated as the pod's own
        // (RFC 5508 REQ-5), or not sent.
        Err(NoSubject::IcmpError) if ingress_ifindex == 0 && !is_a_routers(packet, &ip) => {
            return Decision::of(vendor, Outcome::LocalSource);
        }
        Err(NoSubject::IcmpError) => return Decision::of(vendor, Outcome::IcmpErrorNoFlow),
        Err(NoSubject::Refused(outcome)) => return Decision::of(vendor, outcome),
    }
    *egress = if ingress_ifindex == 0 {
        // The instance itself: from the egress address, and on a port apart from the pods', or not at all.
        if !speaks_to(tables, ip.src, vendor) {
            return Decision::of(vendor, Outcome::LocalSource);
        }
        ip.src
    } else {
        if tables.roles(ingress_ifindex) & role::INSIDE == 0 {
            return Decision::of(vendor, Outcome::WrongSide);
        }
        if !tables.source_allowed(vendor, ip.src) {
            return Decision::of(vendor, Outcome::SourceNotAllowed);
        }
        let address = flows::egress_address(policy, ip.src);
        // A policy that is being rewritten may name no address; one that is spoiled, somebody else's.
        if is_egress_of(tables, address, vendor) { address } else { Ip4::UNSPECIFIED }
    };
    // The verdict stands only if no flow can be opened.
    Decision::of(vendor, Outcome::NotReady)
}

/// Whether an ICMP error is one that a router must send about what it cannot forward: "fragmentation needed" (RFC 1812
/// section 4.2.2.7), or "time to live exceeded in transit" (section 5.3.1).
#[inline(always)]
fn is_a_routers<P: Packet>(packet: &P, ip: &Ip) -> bool {
    let kind = packet.load_at::<[u8; 2]>(ip.header_len);
    kind == Some([icmp::UNREACHABLE, icmp::TOO_LARGE]) || kind == Some([icmp::TIME_EXCEEDED, 0])
}

/// Whether a packet that bears the redirect mark looks it, too: nothing leaves by the mark alone.
#[inline(always)]
pub fn is_translated<T: Tables, P: Packet>(tables: &T, packet: &P) -> bool {
    let Ok(ip) = Ip::read(packet) else { return false };
    // A reply to a pod goes back through the device that it came by (single-arm).
    tables.egress(ip.src).is_some() || tables.vendor_of(ip.dst).is_none()
}

/// Whether `address` is an egress address of the vendor in `slot`.
#[inline(always)]
pub fn is_egress_of<T: Tables>(tables: &T, address: Ip4, slot: u8) -> bool {
    tables.egress(address).is_some_and(|egress| egress.vendors >> (slot & 63) & 1 != 0)
}

/// Whether `address` may be the source of a packet to the vendor in `slot` that vpnat has not translated here: both maps that
/// name egress addresses have to say so, as one of them may be spoiled.
#[inline(always)]
pub fn speaks_to<T: Tables>(tables: &T, address: Ip4, slot: u8) -> bool {
    is_egress_of(tables, address, slot)
        && tables.policy(slot).is_some_and(|policy| policy.egress_addresses().any(|has| has == address))
}

/// Egress of a device that an outside one is stacked on: to a vendor leaves what has the look of being translated there.
#[inline(always)]
pub fn carry<T: Tables, P: Packet>(tables: &T, packet: &P) -> Decision {
    let decision = guard(tables, packet);
    let vendor = decision.vendor();
    if decision == Decision::of(vendor, Outcome::Unguarded)
        && let Some(octets) = packet.load::<[u8; 4]>(ipv4::SRC)
        && speaks_to(tables, Ip4 { octets }, vendor)
    {
        return Decision::of(vendor, Outcome::Carried);
    }
    decision
}

/// Egress of a device that does not translate: nothing to a vendor leaves here.
#[inline(always)]
pub fn guard<T: Tables, P: Packet>(tables: &T, packet: &P) -> Decision {
    // The address alone decides, so that no malformed packet talks its way out.
    let Some(dst) = packet.load::<[u8; 4]>(ipv4::DST) else {
        return Decision::nobody(Outcome::BadHeader);
    };
    match tables.vendor_of(Ip4 { octets: dst }) {
        None => Decision::nobody(Outcome::NotOurs),
        Some(target) if target.exempt != 0 => Decision::of(target.vendor, Outcome::Exempt),
        Some(target) => Decision::of(target.vendor, Outcome::Unguarded),
    }
}
