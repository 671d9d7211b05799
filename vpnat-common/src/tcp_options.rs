//! TCP options (RFC 9293 section 3.2), as far as a NAT needs them.

use crate::engine::tables::{Round, Tables};
use crate::opaque::opaque;
use crate::packet::Packet;

/// Kinds of options.
pub mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    /// Maximum segment size (RFC 9293 section 3.7.1).
    pub const MSS: u8 = 2;
    pub(super) const WINDOW_SCALE: u8 = 3;
    pub(super) const TIMESTAMPS: u8 = 8;
}

/// Options looked at, at most: 40 bytes hold no more that are not padding.
const MOST: u32 = 16;

/// A timestamp behind two bytes of padding.
const USUAL_HEAD: u32 = u32::from_ne_bytes([kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);

/// What the options of one segment say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Window scale (RFC 7323 section 2), 0 if there is none.
    pub window_scale: u8,
    /// Timestamp value (RFC 7323 section 3), 0 if there is none.
    pub ts_val: u32,
}

/// A timestamp value; 0, which means that there is none, becomes the next one.
#[inline(always)]
const fn not_none(value: [u8; 4]) -> u32 {
    let value = u32::from_be_bytes(value);
    if value == 0 { 1 } else { value }
}

/// What is done with the options of a segment, one after the other.
pub trait Look {
    /// Looks at the option of this `kind` and `len` that lies at `at`, bytes from the start of the IP header; true if that was
    /// all.
    fn option<P: Packet>(&mut self, packet: &P, kind: u8, at: usize, len: usize) -> bool;
}

struct Walk<'a, P, L> {
    packet: &'a P,
    at: usize,
    end: usize,
    look: L,
}

impl<P: Packet, L: Look> Round for Walk<'_, P, L> {
    #[inline(always)]
    fn round(&mut self, _: u32) -> bool {
        if self.at + 2 > self.end {
            return true;
        }
        let Some([kind, len]) = self.packet.load_at::<[u8; 2]>(self.at) else { return true };
        if kind == kind::END {
            return true;
        }
        if kind == kind::NOP {
            self.at += 1;
            return false;
        }
        if self.look.option(self.packet, kind, self.at, len as usize) {
            return true;
        }
        self.at += len as usize;
        len < 2
    }
}

/// Shows `look` the options between `at` and `end`, bytes from the start of the IP header. A malformed list ends it.
#[inline(always)]
pub fn walk<T: Tables, P: Packet, L: Look>(tables: &T, packet: &P, at: usize, end: usize, look: L) -> L {
    // With what the verifier of Linux 6.1 knows of the first place (`Tables::repeat`) it would leave out what no first place is.
    let mut walk = Walk { packet, at: opaque(at as u64) as usize, end, look };
    tables.repeat(MOST, &mut walk);
    walk.look
}

impl Look for TcpOptions {
    #[inline(always)]
    fn option<P: Packet>(&mut self, packet: &P, kind: u8, at: usize, len: usize) -> bool {
        if kind == kind::WINDOW_SCALE && len == 3 {
            if let Some([scale]) = packet.load_at::<[u8; 1]>(at + 2) {
                self.window_scale = scale.min(crate::tcp::MAX_WINDOW_SCALE);
            }
        } else if kind == kind::TIMESTAMPS
            && len == 10
            && let Some(value) = packet.load_at::<[u8; 4]>(at + 2)
        {
            self.ts_val = not_none(value);
        }
        false
    }
}

impl TcpOptions {
    /// Reads the options between `at` and `end`, bytes from the start of the IP header. A malformed list
    /// ends the reading; what was understood until then counts.
    #[inline(always)]
    pub fn read<T: Tables, P: Packet>(tables: &T, packet: &P, at: usize, end: usize) -> Self {
        walk(tables, packet, at, end, Self::default())
    }

    /// Reads the timestamp alone, in the place where nearly every stack puts it (RFC 7323 appendix A) or wherever it is.
    #[inline(always)]
    pub fn timestamp<T: Tables, P: Packet>(tables: &T, packet: &P, at: usize, end: usize) -> u32 {
        if at + 12 <= end
            && let Some([head, value]) = packet.load_at::<[u32; 2]>(at)
            && head == USUAL_HEAD
        {
            return not_none(value.to_ne_bytes());
        }
        if at == end { 0 } else { Self::read(tables, packet, at, end).ts_val }
    }
}
