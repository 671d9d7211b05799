//! IP options (RFC 791 section 3.1): kept byte for byte, but for those that name addresses.

use crate::engine::tables::{Round, Tables};
use crate::opaque::opaque;
use crate::packet::{Ip, Packet, ipv4};

mod kind {
    pub const END: u8 = 0;
    pub const NOP: u8 = 1;
    pub const RECORD_ROUTE: u8 = 7;
    pub const TIMESTAMP: u8 = 68;
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub const STRICT_SOURCE_ROUTE: u8 = 137;
}

/// Most options that 40 bytes can hold.
const MOST: u32 = 40;

struct Reading<'a, P> {
    packet: &'a P,
    at: usize,
    end: usize,
    refused: bool,
}

impl<P: Packet> Round for Reading<'_, P> {
    #[inline(always)]
    fn round(&mut self, _: u32) -> bool {
        if self.at >= self.end {
            return true;
        }
        // Refused until it is found to be harmless.
        let Some([kind]) = self.packet.load_at::<[u8; 1]>(self.at) else { return true };
        match kind {
            kind::END => {
                self.refused = false;
                return true;
            }
            kind::NOP => self.at += 1,
            kind::RECORD_ROUTE | kind::TIMESTAMP | kind::LOOSE_SOURCE_ROUTE | kind::STRICT_SOURCE_ROUTE => {
                return true;
            }
            _ => {
                let Some([len]) = self.packet.load_at::<[u8; 1]>(self.at + 1) else { return true };
                if len < 2 {
                    return true;
                }
                self.at += len as usize;
            }
        }
        if self.at == self.end {
            self.refused = false;
        }
        false
    }
}

/// Whether the header holds an option that names addresses, which a translator would have to rewrite, or
/// one that cannot be read (RFC 7126: such packets are dropped).
#[inline(always)]
pub fn refused<T: Tables, P: Packet>(tables: &T, packet: &P, ip: &Ip) -> bool {
    refused_between(tables, packet, ipv4::LEN, ip.header_len)
}

/// As [`refused`], for options that lie elsewhere: those of a quoted header.
#[inline(always)]
pub fn refused_between<T: Tables, P: Packet>(tables: &T, packet: &P, start: usize, end: usize) -> bool {
    if start >= end {
        return false;
    }
    let mut reading = Reading { packet, at: opaque(start as u64) as usize, end, refused: true };
    tables.repeat(MOST, &mut reading);
    reading.refused
}
