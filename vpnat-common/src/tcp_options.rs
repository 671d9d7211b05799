//! TCP options (RFC 9293 section 3.2), as far as a NAT needs them.

use crate::engine::tables::{Round, Tables};
use crate::opaque::opaque;
use crate::packet::Packet;

mod kind {
    pub const END: u8 = 0;
    pub const NOP: u8 = 1;
    pub const WINDOW_SCALE: u8 = 3;
    pub const TIMESTAMPS: u8 = 8;
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

struct Reading<'a, P> {
    packet: &'a P,
    at: usize,
    end: usize,
    options: TcpOptions,
}

impl<P: Packet> Round for Reading<'_, P> {
    #[inline(always)]
    fn round(&mut self, _: u32) -> bool {
        if self.at + 2 > self.end {
            return true;
        }
        let Some([kind, len]) = self.packet.load_at::<[u8; 2]>(self.at) else { return true };
        match kind {
            kind::END => return true,
            kind::NOP => {
                self.at += 1;
                return false;
            }
            kind::WINDOW_SCALE if len == 3 => {
                if let Some([scale]) = self.packet.load_at::<[u8; 1]>(self.at + 2) {
                    self.options.window_scale = scale.min(crate::tcp::MAX_WINDOW_SCALE);
                }
            }
            kind::TIMESTAMPS if len == 10 => {
                if let Some(value) = self.packet.load_at::<[u8; 4]>(self.at + 2) {
                    self.options.ts_val = not_none(value);
                }
            }
            _ => {}
        }
        self.at += len as usize;
        len < 2
    }
}

impl TcpOptions {
    /// Reads the options between `at` and `end`, bytes from the start of the IP header. A malformed list
    /// ends the reading; what was understood until then counts.
    #[inline(always)]
    pub fn read<T: Tables, P: Packet>(tables: &T, packet: &P, at: usize, end: usize) -> Self {
        let mut reading = Reading { packet, at: opaque(at as u64) as usize, end, options: Self::default() };
        tables.repeat(MOST, &mut reading);
        reading.options
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
