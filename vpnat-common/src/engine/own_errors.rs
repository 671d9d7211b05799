//! Errors that the instance's own stack makes about packets which have been translated (RFC 4459 section 3.2): a tunnel
//! that finds a packet too large, or has no key for it, tells the source that it sees, and that is the egress address.
//!
//! Such an error leaves by the loopback device where the egress address is the instance's own, and by whatever device it
//! is routed to elsewhere. At TC egress of either it is restored, and sent to the pod that the packet came from.

use super::refusal::Answering;
use super::tables::{Route, RouteQuery, Tables};
use super::{Decision, icmp_errors};
use crate::addr::Ip4;
use crate::checksum::{self, Sum};
use crate::layout::device::role;
use crate::layout::flow::protocol;
use crate::layout::outcome::Outcome;
use crate::packet::{Ip, NoSubject, Packet, Subject, ipv4};

/// Whether a packet that the instance made may be such an error.
#[inline(always)]
pub fn may_be<T: Tables, P: Packet>(tables: &T, packet: &P) -> bool {
    packet.load::<[u8; 1]>(ipv4::PROTOCOL) == Some([protocol::ICMP])
        && packet.load(ipv4::DST).is_some_and(|octets| tables.egress(Ip4 { octets }).is_some())
}

/// Turns such an error round. Anything else is nobody's, and unchanged.
#[inline(always)]
pub fn turn<T: Tables, P: Answering>(tables: &T, packet: &mut P) -> Decision {
    if !is_error(packet) {
        return Decision::nobody(Outcome::NotOurs);
    }
    let restored = icmp_errors::inbound(tables, packet, 0);
    if restored.is_translated() { send_on(tables, packet, restored) } else { restored }
}

/// Whether an ICMP message quotes a packet that has to be restored. A function of its own, so that the verifier forgets how it
/// was found.
#[inline(never)]
fn is_error<P: Packet>(packet: &P) -> bool {
    let Ok(ip) = Ip::read(packet) else { return false };
    matches!(Subject::read::<P, false>(packet, &ip), Err(NoSubject::IcmpError))
}

/// Sends a `restored` error to the pod that it is for now, from the address of the device that it leaves by (RFC 1812
/// section 4.3.2.4).
#[inline(never)]
fn send_on<T: Tables, P: Answering>(tables: &T, packet: &mut P, restored: Decision) -> Decision {
    let Ok(ip) = Ip::read(packet) else { return restored.but(Outcome::Unfinished) };
    // About a packet of the instance itself: its own stack delivers it.
    if tables.egress(ip.dst).is_some() {
        return restored;
    }
    let query = RouteQuery { src: ip.src, dst: ip.dst, protocol: ip.protocol };
    let ifindex = match tables.route(&query) {
        Route::Ready { ifindex, .. } | Route::Slow { ifindex } => ifindex,
        Route::NotForwarded | Route::Unknown => return restored.but(Outcome::Unfinished),
    };
    let device = tables.device(ifindex);
    if device.roles & role::INSIDE == 0 || device.address == Ip4::UNSPECIFIED {
        return restored.but(Outcome::Unfinished);
    }
    let delta = checksum::delta32(ip.src.to_ne(), device.address.to_ne());
    let check = checksum::apply(ip.check, Sum(delta as u32));
    let done = packet.store(ipv4::CHECK, check.to_ne_bytes())
        && packet.store(ipv4::SRC, device.address.octets)
        && packet.send_back(ifindex);
    if done { restored } else { restored.but(Outcome::Unfinished) }
}
