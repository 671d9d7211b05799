//! What must hold of every packet, worked out from the packet itself, the configuration and the flows seen.

use std::net::Ipv4Addr;
use std::ops::Range;

use aya::maps::{HashMap, MapData};
use tests::packet::{TCP, UDP};
use vpnat_common::layout::flow::FlowKey;
use vpnat_common::layout::outcome::Hook;
use vpnat_common::layout::user::FlowEntryBytes;

use super::headers::{End, Header, Tuple, address, be16, sum, sum_with_addresses};
use super::place::{Conditions, MARK, Place};
use super::shadow::Shadow;
use crate::case::Course;
use crate::plan::{ALLOWED, EGRESS_A, EGRESS_B, EXEMPT, GATEWAY, PREFIX_A, PREFIX_B, mac_of};
use crate::world::{Site, key};

/// A packet that has been through a program.
pub struct Ran<'a> {
    pub place: &'a Place,
    pub input: &'a [u8],
    pub output: &'a [u8],
    pub returned: u32,
    /// The packet's mark before and after (TC).
    pub marks: (u32, u32),
    pub gso_size: u32,
}

impl Ran<'_> {
    /// Whether a total length of 0 stands for that of the buffer (BIG TCP); of any other packet it is malformed.
    pub fn is_big(&self) -> bool {
        self.gso_size != 0
    }
}

/// How a packet ended, as far as its bytes and the verdict tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Translated(Course),
    Unchanged,
    Dropped,
    /// Dropped when a part of it was already rewritten.
    Unfinished,
}

/// The judge: configuration and memory of one round.
pub struct Rules<'w> {
    pub site: &'w Site,
    pub table: &'w Table,
    pub conditions: Conditions,
    pub shadow: &'w mut Shadow,
}

/// The flow table.
pub type Table = HashMap<MapData, FlowKey, FlowEntryBytes>;

/// What the table makes of a tuple.
fn rewrite(table: &Table, tuple: &Tuple) -> Option<End> {
    let key = key(tuple.protocol, tuple.source, tuple.destination);
    let entry = table.get(&key, 0).ok()?.decode()?;
    Some((Ipv4Addr::from(entry.new_addr.octets), entry.new_port.number))
}

fn within(address: Ipv4Addr, (prefix, length): (Ipv4Addr, u32)) -> bool {
    (address.to_bits() ^ prefix.to_bits()) >> (32 - length) == 0
}

/// As whom packets to `address` leave; `None` if it is no vendor's, or exempt.
fn egress_for(address: Ipv4Addr) -> Option<Ipv4Addr> {
    if within(address, PREFIX_B) {
        return Some(EGRESS_B);
    }
    (within(address, PREFIX_A) && !within(address, EXEMPT)).then_some(EGRESS_A)
}

pub(super) fn is_egress(address: Ipv4Addr) -> bool {
    address == EGRESS_A || address == EGRESS_B
}

/// The IPv4 packet that the next host finds in a frame: behind VLAN tags, or without any link layer's header.
fn for_the_next_host<'p>(place: &Place, frame: &'p [u8]) -> Option<&'p [u8]> {
    if place.link == 0 {
        return (frame[0] >> 4 == 4).then_some(frame);
    }
    let mut at = place.link - 2;
    while matches!(frame.get(at..at + 2)?, [0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00]) {
        at += 4;
    }
    let packet = frame.get(at + 2..)?;
    (frame[at..at + 2] == [8, 0] && packet.len() >= 20).then_some(packet)
}

/// Fails with a message made like `format!`'s, unless the condition holds.
macro_rules! hold {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// Parts of a packet that a translation may change; offsets from the IP header. Whoever teaches the datapath to
/// change another field adds it here, with the rule for its new value.
#[derive(Default)]
pub(super) struct Allowed(Vec<Range<usize>>);

impl Allowed {
    pub(super) fn add(&mut self, at: usize, length: usize) {
        self.0.push(at..at + length);
    }

    /// The first byte that differs and may not.
    pub(super) fn broken(&self, old: &[u8], new: &[u8]) -> Option<usize> {
        (0..old.len()).find(|at| old[*at] != new[*at] && !self.0.iter().any(|range| range.contains(at)))
    }
}

impl Rules<'_> {
    /// Judges a packet.
    pub fn judge(&mut self, ran: &Ran<'_>) -> Result<Ended, String> {
        let same = ran.input == ran.output;
        let (dropped, sent) = if ran.place.is_xdp() {
            hold!(matches!(ran.returned, 1 | 2 | 4), "verdict {} is none of XDP's", ran.returned);
            (ran.returned == 1, ran.returned == 4)
        } else {
            hold!(matches!(ran.returned as i32, -1 | 2 | 7), "verdict {}", ran.returned as i32);
            (ran.returned == 2, ran.returned == 7)
        };
        if dropped {
            return Ok(if same { Ended::Dropped } else { Ended::Unfinished });
        }
        if (sent || !same) && self.is_own_error(ran) {
            return self.turned(ran, sent).map(|()| Ended::Translated(Course::Back));
        }
        hold!(ran.input.len() == ran.output.len(), "{} bytes became {}", ran.input.len(), ran.output.len());
        if ran.place.is_xdp() && !sent {
            hold!(same, "XDP passed a packet that it has changed");
        }
        if same && !sent && !self.is_translated_to_itself(ran) {
            self.may_pass(ran)?;
            return Ok(Ended::Unchanged);
        }
        let may_send = ran.place.may_send(&self.conditions);
        hold!(!sent || may_send, "verdict {}: not this hook's", ran.returned as i32);
        let mark = match ran.place.hook {
            Hook::TcIngress if sent => MARK,
            Hook::TcEgress if self.bears_our_mark(ran) => 0,
            _ => ran.marks.0,
        };
        hold!(ran.marks.1 == mark, "mark {:#x}, expected {mark:#x}", ran.marks.1);
        self.translated(ran, sent).map(Ended::Translated)
    }

    /// Whether TC egress must take it for a packet that TC ingress has translated and redirected: it came in by a
    /// device, and bears the mark, which only the instance's own administrator could forge.
    fn bears_our_mark(&self, ran: &Ran<'_>) -> bool {
        self.conditions.redirect && ran.marks.0 == MARK && ran.place.came_by != 0
    }

    /// The instance's own packets, and what claims to be from an egress address, may keep their names.
    fn is_translated_to_itself(&self, ran: &Ran<'_>) -> bool {
        let ip = &ran.input[ran.place.link..];
        let Some(header) = Header::read(ip, ran.is_big()) else { return false };
        if ran.place.hook != Hook::TcEgress || !ran.place.is_ipv4(ran.input) || self.bears_our_mark(ran) {
            return false;
        }
        egress_for(header.destination) == Some(header.source)
    }

    /// The promise: what goes on unchanged must not be a packet that would reach a vendor from somebody else,
    /// nor a vendor's that nobody asked for.
    fn may_pass(&mut self, ran: &Ran<'_>) -> Result<(), String> {
        let place = ran.place;
        if place.is_xdp() || !place.is_ipv4(ran.input) {
            if let (Hook::TcEgress | Hook::TcGuard, Some(ip)) =
                (place.hook, for_the_next_host(place, ran.input))
            {
                hold!(egress_for(address(ip, 16)).is_none(), "a packet to a vendor leaves as something else");
            }
            return Ok(());
        }
        let ip = &ran.input[place.link..];
        let header = Header::read(ip, ran.is_big());
        match place.hook {
            Hook::Xdp => {}
            Hook::TcEgress => {
                let Some(egress) = egress_for(address(ip, 16)) else { return Ok(()) };
                let source = address(ip, 12);
                // By the mark alone, nobody but an egress address leaves.
                let believed = self.bears_our_mark(ran) && header.is_some() && is_egress(source);
                hold!(believed, "{source} leaves for a vendor that shall see {egress}");
            }
            // Nothing leaves there.
            Hook::TcGuard if place.program == "egress_loopback_l2" => {}
            Hook::TcGuard => {
                hold!(egress_for(address(ip, 16)).is_none(), "a packet to a vendor passes the guard");
            }
            Hook::TcIngress => {
                // What is malformed, the stack drops.
                let Some(header) = header else { return Ok(()) };
                if place.outside && egress_for(header.source).is_some() {
                    let protected = is_egress(header.destination) || within(header.destination, ALLOWED);
                    let quoted = || {
                        let quote = ip.get(header.length + 8..)?;
                        Some(Header::quoted(quote)?.tuple(quote)?.turned())
                    };
                    let answer = if header.is_icmp_error(ip) { quoted() } else { header.tuple(ip) };
                    // The instance's own flows are restored to what they are, and their datagrams' later parts with the first.
                    let part = (header.destination.to_bits(), header.id);
                    let to_itself = if header.is_later_fragment() {
                        self.shadow.part(header.datagram()) == Some(part)
                    } else {
                        answer.is_some_and(|answer| self.shadow.pod_of(&answer) == Some(answer.destination))
                    };
                    if to_itself && header.fragment != 0 {
                        self.shadow.first_part(header.datagram(), part);
                    }
                    hold!(!protected || to_itself, "a vendor's packet that nobody asked for goes on");
                }
                if egress_for(header.destination).is_some() {
                    hold!(place.inside, "a packet to a vendor goes on from the outside");
                    hold!(self.conditions.guarded, "a packet goes on to a device that is not guarded");
                }
            }
        }
        Ok(())
    }

    /// A translated packet is its own input but for what translation changes, and goes to whom it belongs.
    fn translated(&mut self, ran: &Ran<'_>, sent: bool) -> Result<Course, String> {
        let place = ran.place;
        hold!(place.is_ipv4(ran.input), "translated, and is not IPv4");
        let (old, new) = (&ran.input[place.link..], &ran.output[place.link..]);
        let Some(header) = Header::read(old, ran.is_big()) else {
            return Err("translated, with a bad IP header".into());
        };
        let outbound = match place.hook {
            Hook::TcEgress => true,
            Hook::TcGuard => return Err("a guard changed a packet".into()),
            _ if !sent => false,
            _ => egress_for(header.destination).is_some(),
        };
        let right_side = if outbound { place.inside || place.hook == Hook::TcEgress } else { place.outside };
        hold!(right_side, "translated on the wrong side");

        let mut allowed = Allowed::default();
        if sent {
            hold!(old[8] > 1 && new[8] == old[8] - 1, "time to live {} became {}", old[8], new[8]);
            allowed.add(8, 1);
            hold!(sum(&old[..header.length]) == 0, "sent on with a wrong header checksum");
            hold!(header.length == 20 && header.fragment == 0, "sent on with options or in parts");
            self.way(ran, &header, outbound)?;
        } else {
            hold!(ran.input[..place.link] == ran.output[..place.link], "the link layer's header changed");
        }
        // RFC 6864: what is a fragment or may become one leaves with an identification of the instance's own.
        if outbound && (header.fragment != 0 || old[6] & 0x40 == 0) {
            allowed.add(4, 2);
        }
        allowed.add(10, 2);
        allowed.add(if outbound { 12 } else { 16 }, 4);
        self.owner(old, new, &header, outbound)?;
        if header.is_icmp_error(old) {
            quote(&mut allowed, old, new, &header, outbound)?;
        } else if !header.is_later_fragment() {
            self.transport(&mut allowed, old, new, &header, outbound)?;
        }
        hold!(
            sum(&old[..header.length]) == sum(&new[..header.length]),
            "the header's checksum does not follow its change"
        );
        if let Some(at) = allowed.broken(old, new) {
            return Err(format!("byte {at} changed from {:#04x} to {:#04x}", old[at], new[at]));
        }
        Ok(if outbound { Course::Out } else { Course::Back })
    }

    /// Ethernet addresses and size of what is sent on past the stack.
    fn way(&self, ran: &Ran<'_>, header: &Header, outbound: bool) -> Result<(), String> {
        let new = ran.output;
        let (device, next) =
            if outbound { (self.site.outside, GATEWAY) } else { (self.site.inside, address(&new[14..], 16)) };
        hold!(new[..6] == mac_of(next), "sent to {:02x?}, not to {next}", &new[..6]);
        hold!(new[6..12] == device.1, "sent from {:02x?}", &new[6..12]);
        hold!(new[12..14] == ran.input[12..14], "the EtherType changed");
        let ip = &ran.input[14..];
        let length = match (ran.gso_size, header.protocol) {
            (0, _) => header.total,
            (size, TCP) => header.length + usize::from(ip[header.length + 12] >> 4) * 4 + size as usize,
            (size, _) => header.length + 8 + size as usize,
        };
        let mut limit = 1500;
        if outbound && within(header.destination, PREFIX_A) && !within(header.destination, PREFIX_B) {
            limit = match self.conditions.path_mtu {
                0 => limit,
                mtu => limit.min(usize::from(mtu)),
            };
        }
        hold!(length <= limit, "{length} bytes sent on, {limit} fit");
        Ok(())
    }

    /// From whom a translated packet seems to come, or to whom it goes.
    fn owner(&mut self, old: &[u8], new: &[u8], header: &Header, outbound: bool) -> Result<(), String> {
        let datagram = header.datagram();
        let now = address(new, if outbound { 12 } else { 16 });
        if outbound {
            let Some(egress) = egress_for(header.destination) else {
                return Err("translated, and not to a vendor".into());
            };
            hold!(now == egress, "leaves as {now}, the vendor shall see {egress}");
        } else {
            hold!(is_egress(header.destination), "restored, and was not to an egress address");
        }
        if header.is_later_fragment() {
            let first = self.shadow.part(datagram);
            let part = (now.to_bits(), be16(new, 4));
            hold!(first == Some(part), "a part became {now}, {part:?}, the first part {first:?}");
            return Ok(());
        }
        if header.fragment != 0 {
            self.shadow.first_part(datagram, (now.to_bits(), be16(new, 4)));
        }
        if header.is_icmp_error(old) {
            return self.owner_of_quote(old, new, header, outbound);
        }
        let Some(tuple) = header.tuple(old) else { return Err("translated, and belongs to no flow".into()) };
        let closes = header.protocol == TCP && old[header.length + 13] & 5 != 0;
        if outbound {
            let port = be16(new, header.port_at(true));
            hold!(port >= 1024, "port {port} is not vpnat's to give");
            let known = self.shadow.public_of(&tuple).is_some();
            let admitted = within(header.source, ALLOWED) || is_egress(header.source);
            hold!(known || admitted, "{} may not talk to this vendor", header.source);
            hold!(known || self.conditions.ready, "a flow was opened before the maps were complete");
            return self.shadow.left(tuple, (now, port), closes);
        }
        let to = (now, be16(new, header.port_at(false)));
        self.adopt(tuple, to)?;
        let pod = self.shadow.pod_of(&tuple);
        hold!(pod == Some(to), "{tuple:?} went to {to:?}, it belongs to {pod:?}");
        if closes {
            self.shadow.closes(&tuple);
        }
        Ok(())
    }

    /// A flow may have been opened by a packet that then did not leave, at XDP for instance because it does not fit
    /// the way out. If both of its halves are in the table it counts as seen, with what that means for others.
    fn adopt(&mut self, answer: Tuple, pod: End) -> Result<(), String> {
        if self.shadow.pod_of(&answer) == Some(pod) {
            return Ok(());
        }
        let out = Tuple { source: pod, ..answer.turned() };
        if rewrite(self.table, &answer) == Some(pod) && rewrite(self.table, &out) == Some(answer.destination)
        {
            self.shadow.left(out, answer.destination, false)?;
        }
        Ok(())
    }

    pub(super) fn owner_of_quote(
        &mut self,
        old: &[u8],
        new: &[u8],
        header: &Header,
        outbound: bool,
    ) -> Result<(), String> {
        let at = header.length + 8;
        let read = |ip: &[u8]| {
            let quote = ip.get(at..header.total)?;
            Header::quoted(quote)?.tuple(quote)
        };
        let (Some(was), Some(is)) = (read(old), read(new)) else {
            return Err("an error with a quote that names no flow was translated".into());
        };
        hold!(was.source.0 == header.destination, "an error to somebody who did not send what it quotes");
        if outbound {
            // The vendor's packet as the pod got it, and as the vendor sent it.
            self.adopt(Tuple { destination: is.destination, ..was }, was.destination)?;
            let public = self.shadow.public_of(&was.turned());
            hold!(public == Some(is.destination), "quotes {is:?}, the flow is {public:?}");
            hold!(is.source == was.source, "the quote's source changed");
            hold!(public.map(|end| end.0) == Some(address(new, 12)), "an error from another egress address");
        } else {
            self.adopt(was.turned(), is.source)?;
            let pod = self.shadow.pod_of(&was.turned());
            hold!(pod == Some(is.source), "quotes {is:?}, the flow is {pod:?}'s");
            hold!(is.destination == was.destination, "the quote's destination changed");
            hold!(pod.map(|end| end.0) == Some(address(new, 16)), "an error to another pod");
        }
        Ok(())
    }

    /// Ports, identifier, checksum and MSS.
    fn transport(
        &self,
        allowed: &mut Allowed,
        old: &[u8],
        new: &[u8],
        header: &Header,
        outbound: bool,
    ) -> Result<(), String> {
        let (check, end) = (header.check_at(), header.total);
        allowed.add(header.port_at(outbound), 2);
        allowed.add(check, 2);
        if header.protocol == TCP && old[header.length + 13] & 2 != 0 && self.conditions.mss != 0 {
            self.mss(allowed, old, new, header)?;
        }
        let none = header.protocol == UDP && be16(old, check) == 0;
        if none {
            hold!(be16(new, check) == 0, "a datagram without checksum got one");
            return Ok(());
        }
        hold!(header.protocol != UDP || be16(new, check) != 0, "a checksum became \"none\"");
        let range = header.length..end;
        hold!(
            sum_with_addresses(old, header, range.clone()) == sum_with_addresses(new, header, range),
            "the transport checksum does not follow its change"
        );
        Ok(())
    }

    fn mss(&self, allowed: &mut Allowed, old: &[u8], new: &[u8], header: &Header) -> Result<(), String> {
        // Known: an answer to a pod's port 0 keeps its MSS, for with that port it no longer reads as TCP.
        let to_port_0 = be16(new, header.length + 2) == 0;
        let limit = if within(header.source, PREFIX_B) || within(header.destination, PREFIX_B) || to_port_0 {
            0
        } else {
            self.conditions.mss
        };
        let end = header.length + usize::from(old[header.length + 12] >> 4) * 4;
        let mut at = header.length + 20;
        while at + 4 <= end && limit != 0 {
            match (old[at], old[at + 1]) {
                (0, _) => return Ok(()),
                (1, _) => at += 1,
                (2, 4) => {
                    let (before, after) = (be16(old, at + 2), be16(new, at + 2));
                    hold!(after == before.min(limit), "MSS {before} became {after}, the limit is {limit}");
                    allowed.add(at + 2, 2);
                    return Ok(());
                }
                (_, length) if length >= 2 => at += usize::from(length),
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}

/// What may change in an ICMP error, and that its three checksums follow.
pub(super) fn quote(
    allowed: &mut Allowed,
    old: &[u8],
    new: &[u8],
    header: &Header,
    outbound: bool,
) -> Result<(), String> {
    let at = header.length + 8;
    let (was, is) = (&old[at..], &new[at..]);
    let Some(quoted) = Header::quoted(was) else { return Err("a quote without header".into()) };
    // The quoted packet's source is ours when the error comes from outside.
    let ours = !outbound;
    allowed.add(header.length + 2, 2);
    allowed.add(at + 10, 2);
    allowed.add(at + if ours { 12 } else { 16 }, 4);
    allowed.add(at + quoted.port_at(ours), 2);
    let words = usize::from(old[header.length + 5]);
    let mut end = (header.total - at).min(quoted.total);
    if words != 0 {
        end = end.min(words * 4);
    }
    hold!(quoted.length + 8 <= end, "a quote without ports was translated");
    hold!(
        sum(&old[header.length..header.total]) == sum(&new[header.length..header.total]),
        "the error's checksum does not follow its change"
    );
    hold!(
        sum(&was[..quoted.length]) == sum(&is[..quoted.length]),
        "the quoted header's checksum does not follow its change"
    );
    let check = quoted.check_at();
    if check + 2 > end {
        return Ok(());
    }
    allowed.add(at + check, 2);
    if quoted.protocol == UDP && be16(was, check) == 0 {
        hold!(be16(is, check) == 0, "a quoted datagram without checksum got one");
        return Ok(());
    }
    let range = quoted.length..(check + 2).max(quoted.length + 8);
    hold!(
        sum_with_addresses(was, &quoted, range.clone()) == sum_with_addresses(is, &quoted, range),
        "the quoted checksum does not follow its change"
    );
    Ok(())
}
