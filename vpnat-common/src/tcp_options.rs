//! TCP options (RFC 9293 section 3.2), as far as a NAT needs them.

use crate::packet::Packet;

mod kind {
    pub const END: u8 = 0;
    pub const NOP: u8 = 1;
    pub const WINDOW_SCALE: u8 = 3;
    pub const TIMESTAMPS: u8 = 8;
}

/// Options looked at, at most: 40 bytes hold no more that are not padding.
const MOST: usize = 16;

/// What the options of one segment say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Window scale (RFC 7323 section 2), 0 if there is none.
    pub window_scale: u8,
    /// Timestamp value (RFC 7323 section 3), 0 if there is none.
    pub ts_val: u32,
}

impl TcpOptions {
    /// Reads the options between `at` and `end`, bytes from the start of the IP header. A malformed list
    /// ends the reading; what was understood until then counts.
    #[inline(always)]
    pub fn read<P: Packet>(packet: &P, at: usize, end: usize) -> Self {
        let mut options = Self::default();
        let mut at = at;
        for _ in 0..MOST {
            if at + 2 > end {
                break;
            }
            let Some([kind, len]) = packet.load_at::<[u8; 2]>(at) else { break };
            match kind {
                kind::END => break,
                kind::NOP => {
                    at += 1;
                    continue;
                }
                kind::WINDOW_SCALE if len == 3 => {
                    if let Some([scale]) = packet.load_at::<[u8; 1]>(at + 2) {
                        options.window_scale = scale.min(crate::tcp::MAX_WINDOW_SCALE);
                    }
                }
                kind::TIMESTAMPS if len == 10 => {
                    if let Some(value) = packet.load_at::<[u8; 4]>(at + 2) {
                        options.ts_val = u32::from_be_bytes(value);
                    }
                }
                _ => {}
            }
            if len < 2 {
                break;
            }
            at += len as usize;
        }
        options
    }
}
