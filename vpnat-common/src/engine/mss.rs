//! MSS clamping: a SYN that promises larger segments than the way to the vendor takes is lowered (RFC 4459
//! section 3.2). VPNs often have no path MTU discovery, and a pod with jumbo frames would stall.

use super::tables::Tables;
use crate::checksum::{self, Sum};
use crate::layout::flow::protocol;
use crate::packet::{Ip, Kind, Packet, Subject, transport};
use crate::tcp::flags;
use crate::tcp_options::{self, Look, kind};

/// The difference that changes nothing.
const NO_CHANGE: u16 = 0xffff;

/// Looks for the option.
struct Search {
    /// Offset of the option's value, 0 until it is found.
    found: usize,
    /// Where the options end.
    end: usize,
}

impl Look for Search {
    #[inline(always)]
    fn option<P: Packet>(&mut self, _: &P, kind: u8, at: usize, len: usize) -> bool {
        if kind != kind::MSS || len != 4 {
            return false;
        }
        if at + len <= self.end {
            self.found = at + 2;
        }
        true
    }
}

/// Lowers the MSS option of a SYN of the vendor in `slot` to the vendor's limit. A segment without the option,
/// or with a smaller value, stays as it is. False if the packet could not be finished: it must be dropped.
#[inline(never)]
#[must_use]
pub fn clamp<T: Tables, P: Packet>(tables: &T, packet: &mut P, slot: u8) -> bool {
    let Some(policy) = tables.policy(slot) else { return true };
    let limit = policy.mss;
    if limit == 0 {
        return true;
    }
    let Ok(ip) = Ip::read(packet) else { return true };
    if ip.protocol != protocol::TCP || ip.is_later_fragment() {
        return true;
    }
    let Ok(subject) = Subject::read::<P, false>(packet, &ip) else { return true };
    if subject.kind != Kind::Tcp || subject.tcp.flags & flags::SYN == 0 {
        return true;
    }
    let start = ip.header_len + transport::TCP_LEN;
    let end = ip.header_len + subject.tcp.header_len as usize;
    let at = tcp_options::walk(tables, &*packet, start, end, Search { found: 0, end }).found;
    if at == 0 {
        return true;
    }
    let Some(old) = packet.load_at::<[u8; 2]>(at) else { return false };
    if u16::from_be_bytes(old) <= limit {
        return true;
    }
    let new = limit.to_be_bytes();
    let mut delta = checksum::delta16(u16::from_ne_bytes(old), u16::from_ne_bytes(new));
    if !(at - ip.header_len).is_multiple_of(2) {
        // The value straddles two of the checksum's words: its bytes count the other way round.
        delta = delta.swap_bytes();
    }
    packet.change_checksum::<false>(ip.header_len + transport::TCP_CHECK, NO_CHANGE, Sum(delta as u32), false)
        && packet.store_at(at, new)
}
