//! MSS clamping: a SYN that promises larger segments than the way to the vendor takes is lowered (RFC 4459
//! section 3.2). VPNs often have no path MTU discovery, and a pod with jumbo frames would stall.

use super::tables::{Round, Tables};
use crate::checksum::{self, Sum};
use crate::layout::flow::protocol;
use crate::opaque::opaque;
use crate::packet::{Ip, Kind, Packet, Subject, transport};
use crate::tcp::flags;

mod kind {
    pub const END: u8 = 0;
    pub const NOP: u8 = 1;
    pub const MSS: u8 = 2;
}

/// Options looked at, at most: 40 bytes hold no more that are not padding.
const MOST: u32 = 16;

/// The difference that changes nothing.
const NO_CHANGE: u16 = 0xffff;

struct Search<'a, P> {
    packet: &'a P,
    at: usize,
    end: usize,
    /// Offset of the option's value, 0 until it is found.
    found: usize,
}

impl<P: Packet> Round for Search<'_, P> {
    #[inline(always)]
    fn round(&mut self, _: u32) -> bool {
        if self.at + 4 > self.end {
            return true;
        }
        let Some([kind, len]) = self.packet.load_at::<[u8; 2]>(self.at) else { return true };
        match kind {
            kind::END => return true,
            kind::NOP => {
                self.at += 1;
                return false;
            }
            kind::MSS if len == 4 => {
                self.found = self.at + 2;
                return true;
            }
            _ => {}
        }
        self.at += len as usize;
        len < 2
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
    // With what the verifier of Linux 6.1 knows of the first place (`Tables::repeat`) it would leave out that bytes may count the other way round.
    let at = opaque(start as u64) as usize;
    let mut search = Search { packet: &*packet, at, end, found: 0 };
    tables.repeat(MOST, &mut search);
    let at = search.found;
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
