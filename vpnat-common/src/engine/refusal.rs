//! Refusals are answered: the pod is told by ICMP that its packet goes nowhere (RFC 5508 REQ-8, RFC 6888 REQ-11b), and
//! the vendor sees nothing.
//!
//! TC egress answers, in the refused packet's own buffer; the fast path leaves such packets to it while there are
//! answers left. An answer leaves by the inside device that the packet came by, or the buffer is dropped.

use super::holding::Holding;
use super::tables::Tables;
use super::{Clock, Decision, sums};
use crate::addr::Ip4;
use crate::checksum::Sum;
use crate::layout::device::role;
use crate::layout::flow::protocol;
use crate::layout::outcome::Outcome;
use crate::layout::vendor::flag;
use crate::packet::{Ip, icmp, ipv4, transport};

/// Largest answer, bytes (RFC 1812 section 4.3.2.3).
const LONGEST: u32 = 576;

/// Headers in front of the quote: IP and ICMP.
pub const HEADERS: usize = ipv4::LEN + 8;

/// Most bytes quoted.
pub const QUOTE: u32 = LONGEST - HEADERS as u32;

/// As Linux answers.
const TTL: u8 = 64;

/// Codes of "unreachable" (RFC 1812 section 5.2.7.1).
mod code {
    /// Host unreachable.
    pub const HOST: u8 = 1;
    /// Communication administratively prohibited.
    pub const PROHIBITED: u8 = 13;
}

/// A packet that can become the answer to itself.
pub trait Answering: Holding {
    /// The device that it came in by, 0 if the instance made it.
    fn arrived_by(&self) -> u32;

    /// Makes the packet [`HEADERS`] bytes of anything, followed by the first `len` of what was put aside.
    #[must_use]
    fn quote(&mut self, len: u32) -> bool;

    /// Sends it to the neighbour that its destination has on the device `ifindex`.
    #[must_use]
    fn send_back(&mut self, ifindex: u32) -> bool;
}

/// The code that tells the sender of a packet with this end, if anything is to be told.
#[inline(always)]
fn code_of<T: Tables>(tables: &T, ended: Decision) -> Option<u8> {
    let resources = ended.is(Outcome::PortsExhausted)
        || ended.is(Outcome::TableFull)
        || ended.is(Outcome::SourceLimit)
        || ended.is(Outcome::SourceRate);
    let policy = ended.is(Outcome::SourceNotAllowed) || ended.is(Outcome::ProtocolUnsupported);
    if !resources && !policy {
        return None;
    }
    let flags = tables.policy(ended.vendor())?.flags;
    if flags & flag::REFUSE_SILENTLY != 0 {
        return None;
    }
    Some(if policy || flags & flag::REFUSE_PROHIBITED != 0 { code::PROHIBITED } else { code::HOST })
}

/// What the fast path makes of a packet that it would drop: left to the stack, and so to TC egress, while that may answer.
#[inline(never)]
pub fn leave<T: Tables>(tables: &T, ended: Decision) -> Decision {
    if code_of(tables, ended).is_none() {
        return ended;
    }
    let rate = tables.settings().answers_per_s;
    if tables.answers().spent(Clock::read(tables).now.seconds) < rate {
        return ended.but(Outcome::ToStackRefused);
    }
    if rate != 0 {
        tables.count_answer(false);
    }
    ended
}

/// Whether an error about a packet from `address` has somebody to go to (RFC 1812 section 4.3.2.7), who is none of the
/// vendors and not the instance.
#[inline(always)]
fn can_be_told<T: Tables>(tables: &T, address: Ip4) -> bool {
    let [first, ..] = address.octets;
    first != 0
        && first != 127
        && first < 224
        && tables.egress(address).is_none()
        && tables.vendor_of(address).is_none()
}

/// Answers a packet that was refused; false if it is to be dropped. Of ICMP errors and bad headers it is never asked:
/// they end otherwise.
#[inline(never)]
pub fn answer<T: Tables, P: Answering>(tables: &T, packet: &mut P, refused: Decision) -> bool {
    let Some(code) = code_of(tables, refused) else { return false };
    let Ok(ip) = Ip::read(packet) else { return false };
    let ifindex = packet.arrived_by();
    let device = tables.device(ifindex);
    if device.roles & role::INSIDE == 0
        || device.address == Ip4::UNSPECIFIED
        || ip.is_later_fragment()
        || !can_be_told(tables, ip.src)
    {
        return false;
    }
    let rate = tables.settings().answers_per_s;
    let now = Clock::read(tables).now.seconds;
    let budget = tables.answers();
    // Who loses against another CPU goes without: that, too, bounds the rate.
    if budget.spent(now) >= rate || !tables.change_answers(budget, budget.spend(now)) {
        if rate != 0 {
            tables.count_answer(false);
        }
        return false;
    }
    let sent = rewrite(tables, packet, &ip, device.address, code) && packet.send_back(ifindex);
    if sent {
        tables.count_answer(true);
    }
    sent
}

/// Makes the packet with the header `ip` an ICMP error about itself, from `from`.
#[inline(always)]
fn rewrite<T: Tables, P: Answering>(tables: &T, packet: &mut P, ip: &Ip, from: Ip4, code: u8) -> bool {
    let Some([tos]) = packet.load::<[u8; 1]>(ipv4::TOS) else { return false };
    let quoted = if ip.total_len < QUOTE { ip.total_len } else { QUOTE };
    if !packet.put_aside() || !packet.quote(quoted) {
        return false;
    }
    let len = HEADERS as u32 + quoted;
    // The class is copied, congestion marks are not (RFC 5508 REQ-10d).
    let first = u16::from_ne_bytes([0x45, tos & 0xfc]);
    let total_len = (len as u16).to_be();
    let id = tables.random() as u16;
    let life = u16::from_ne_bytes([TTL, protocol::ICMP]);
    let sum = Sum::default().add16(first).add16(total_len).add16(id).add16(life);
    let check = !sum.add32(from.to_ne()).add32(ip.src.to_ne()).fold();
    let pair = |low: u16, high: u16| {
        let ([a, b], [c, d]) = (low.to_ne_bytes(), high.to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    };
    let icmp = u32::from_ne_bytes([icmp::UNREACHABLE, code, 0, 0]);
    let header: [u32; HEADERS / 4] =
        [pair(first, total_len), pair(id, 0), pair(life, check), from.to_ne(), ip.src.to_ne(), icmp, 0];
    if !packet.store_at(0, header) {
        return false;
    }
    let check = !sums::sum(tables, packet, ipv4::LEN as u32, len);
    packet.store_at(ipv4::LEN + transport::ICMP_CHECK, check.to_ne_bytes())
}
