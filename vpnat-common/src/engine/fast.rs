//! XDP ingress: the fast path. It takes whole, plain packets that it can finish, and leaves everything else
//! to the stack and the TC hooks, unchanged.

use super::egress::is_egress_of;
use super::session::{self, Standing};
use super::tables::{Route, RouteQuery, Tables};
use super::{Clock, Decision, flows};
use crate::addr::{Ip4, Port};
use crate::checksum::{self, Sum};
use crate::flow_ref::{FlowRef, Rewrite};
use crate::layout::device::role;
use crate::layout::flow::Direction;
use crate::layout::outcome::Outcome;
use crate::packet::{Ip, Packet, Subject, ipv4};

/// Where a packet leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// XDP slot of the device.
    pub slot: u8,
    /// Ethernet address of the neighbour.
    pub mac: [u8; 6],
    /// Largest packet it takes, bytes.
    pub mtu: u16,
}

/// A packet that XDP can finish: everything is decided, nothing is written yet.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    ip: Ip,
    subject: Subject,
    direction: Direction,
    to: Rewrite,
    entry: Option<FlowRef<'a>>,
    /// Where it goes.
    pub next_hop: NextHop,
}

impl Plan<'_> {
    /// How the packet ends if the plan is carried out.
    #[inline(always)]
    pub const fn decision(&self) -> Decision {
        let outcome = match self.direction {
            Direction::Outbound => Outcome::Outbound,
            Direction::Inbound => Outcome::Inbound,
        };
        Decision::of(self.to.vendor, outcome)
    }

    /// Bytes of the packet from the IP header on.
    #[inline(always)]
    pub const fn bytes(&self) -> u32 {
        self.ip.total_len
    }

    /// Translates the packet and takes one from its TTL, as a router does. False if it could not be finished:
    /// it must be dropped then.
    #[inline(always)]
    #[must_use]
    pub fn carry_out<P: Packet>(&self, packet: &mut P) -> bool {
        if let Some(entry) = &self.entry {
            entry.count(self.ip.total_len);
        }
        // TTL and protocol share a word of the header checksum.
        let word = |ttl: u8| u16::from_ne_bytes([ttl, self.ip.protocol]);
        let ttl = self.ip.ttl.wrapping_sub(1);
        let ttl_delta = checksum::delta16(word(self.ip.ttl), word(ttl));
        let ip = Ip { check: checksum::apply(self.ip.check, Sum(ttl_delta as u32)), ..self.ip };
        packet.store(ipv4::TTL, [ttl]) && session::translate(packet, &ip, &self.subject, self.direction, &self.to)
    }
}

/// Decides on a packet that arrived on a device with the parts `ROLES`.
///
/// # Errors
/// How the packet ends if there is nothing to carry out: passed on unchanged, or dropped.
#[inline(always)]
pub fn plan<'t, T: Tables, P: Packet, const ROLES: u8>(
    tables: &'t T,
    packet: &P,
) -> Result<Plan<'t>, Decision> {
    let shape = Decision::nobody(Outcome::ToStackShape);
    // Bad headers too: the stack drops and counts them.
    let mut ip = Ip::read(packet).map_err(|_| shape)?;
    if ip.header_len != ipv4::LEN || ip.is_fragment() || !header_checksum_holds(packet) {
        return Err(shape);
    }
    // Known by now; said so that offsets become constants.
    ip.header_len = ipv4::LEN;
    let subject = Subject::read::<P, true>(packet, &ip).map_err(|_| shape)?;
    let clock = Clock::read(tables);

    let mut preferred = subject.key.src_port;
    if let Some(entry) = tables.flow(&subject.key)
        && let Some(direction) = entry.direction()
        && let Some(to) = entry.rewrite(&subject.key, direction)
    {
        let expected = match direction {
            Direction::Outbound => role::INSIDE,
            Direction::Inbound => role::OUTSIDE,
        };
        if ROLES & expected == 0 {
            return Err(Decision::of(to.vendor, Outcome::WrongSide));
        }
        if ip.ttl <= 1 {
            return Err(Decision::of(to.vendor, Outcome::ToStackTtl));
        }
        let current = entry.stamp() == clock.stamp;
        let standing = match current {
            true => Standing::Current,
            false => session::renew(tables, &clock, &subject, direction, &entry, &to, true),
        };
        match standing {
            Standing::Current => {
                if !current {
                    keep_next_hop(tables, &ip, direction, &to, &entry);
                }
                let next_hop = NextHop { slot: entry.out_slot(), mac: entry.out_mac(), mtu: entry.mtu() };
                check_way(&ip, &next_hop).map_err(|outcome| Decision::of(to.vendor, outcome))?;
                session::follow(tables, &clock, packet, &ip, &subject, direction, &entry, &to);
                return Ok(Plan { ip, subject, direction, to, entry: Some(entry), next_hop });
            }
            Standing::Over => preferred = to.port,
            Standing::Invalid => return Err(Decision::of(to.vendor, Outcome::EntryInvalid)),
        }
    }
    let arrival = Arrival { ip: &ip, clock: &clock, subject: &subject, preferred };
    let (to, next_hop) = first_packet::<T, P, ROLES>(tables, packet, &arrival)?;
    Ok(Plan { ip, subject, direction: Direction::Outbound, to, entry: None, next_hop })
}

/// A packet that no flow speaks for.
struct Arrival<'a> {
    ip: &'a Ip,
    clock: &'a Clock,
    subject: &'a Subject,
    /// The port that it should get if it can.
    preferred: Port,
}

/// A packet without a flow: opens one, or is not for XDP to answer. Not inlined: its stack is its own, and
/// an established packet's path stays short.
#[inline(never)]
fn first_packet<T: Tables, P: Packet, const ROLES: u8>(
    tables: &T,
    packet: &P,
    arrival: &Arrival<'_>,
) -> Result<(Rewrite, NextHop), Decision> {
    let &Arrival { ip, clock, subject, preferred } = arrival;
    if ROLES & role::OUTSIDE != 0
        && let Some(target) = tables.vendor_of(ip.src)
        && target.exempt == 0
        && is_egress_of(tables, ip.dst, target.vendor)
    {
        return Err(Decision::of(target.vendor, Outcome::Unsolicited));
    }
    let Some(target) = tables.vendor_of(ip.dst) else { return Err(Decision::nobody(Outcome::NotOurs)) };
    let vendor = target.vendor;
    let ends = |outcome| Decision::of(vendor, outcome);
    if target.exempt != 0 {
        return Err(ends(Outcome::Exempt));
    }
    if ROLES & role::INSIDE == 0 {
        return Err(ends(Outcome::WrongSide));
    }
    let policy = match tables.policy(vendor) {
        Some(policy) if tables.settings().ready != 0 && policy.egress_count != 0 => policy,
        _ => return Err(ends(Outcome::NotReady)),
    };
    if !tables.source_allowed(vendor, ip.src) {
        return Err(ends(Outcome::SourceNotAllowed));
    }
    if ip.ttl <= 1 {
        return Err(ends(Outcome::ToStackTtl));
    }
    let next_hop = find_next_hop(tables, ip, ip.dst, Direction::Outbound);
    check_way(ip, &next_hop).map_err(ends)?;
    let egress = flows::egress_address(policy, ip.src).ok_or(ends(Outcome::NotReady))?;
    let to =
        session::open(tables, clock, packet, ip, subject, vendor, policy, egress, preferred).map_err(ends)?;
    Ok((to, next_hop))
}

/// Whether XDP can send the packet this way.
#[inline(always)]
fn check_way(ip: &Ip, next_hop: &NextHop) -> Result<(), Outcome> {
    if next_hop.slot == 0 {
        return Err(Outcome::ToStackRoute);
    }
    if ip.total_len > next_hop.mtu as u32 {
        return Err(Outcome::ToStackMtu);
    }
    Ok(())
}

/// Asks the routing table; slot 0 if XDP cannot send the packet on.
#[inline(always)]
fn find_next_hop<T: Tables>(tables: &T, ip: &Ip, dst: Ip4, direction: Direction) -> NextHop {
    const NONE: NextHop = NextHop { slot: 0, mac: [0; 6], mtu: 0 };
    let query = RouteQuery { src: ip.src, dst, protocol: ip.protocol };
    let Route::Ready { ifindex, mac, mtu } = tables.route(&query) else { return NONE };
    // Out through a device that stands on the right side, or not at all.
    let wanted = match direction {
        Direction::Outbound => role::OUTSIDE | role::GUARDED,
        Direction::Inbound => role::INSIDE,
    };
    match tables.device(ifindex) {
        Some(device) if device.roles & wanted == wanted => NextHop { slot: device.xdp_slot, mac, mtu },
        _ => NONE,
    }
}

/// Renews the next hop that the entry keeps.
#[inline(always)]
fn keep_next_hop<T: Tables>(
    tables: &T,
    ip: &Ip,
    direction: Direction,
    to: &Rewrite,
    entry: &FlowRef<'_>,
) {
    // Routed as the stack would: outbound before the source changes, inbound to the pod.
    let dst = match direction {
        Direction::Outbound => ip.dst,
        Direction::Inbound => to.addr,
    };
    let next_hop = find_next_hop(tables, ip, dst, direction);
    // No slot while address and MTU change under a reader on another CPU.
    entry.set_out_slot(0);
    entry.set_out_mac(next_hop.mac);
    entry.set_mtu(next_hop.mtu);
    entry.set_out_slot(next_hop.slot);
}

/// Whether the checksum of a header without options holds (RFC 1812 section 5.2.2).
#[inline(always)]
fn header_checksum_holds<P: Packet>(packet: &P) -> bool {
    let Some(words) = packet.load::<[u8; ipv4::LEN]>(0) else { return false };
    let word = |at: usize| u32::from_ne_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]) as u64;
    let sum = word(0) + word(4) + word(8) + word(12) + word(16);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}
