//! Checksums verified over all that they cover. Only where a standard asks for it: what is translated is changed by
//! difference, and a wrong sum stays wrong.

use super::tables::{Round, Tables};
use crate::checksum::Sum;
use crate::opaque::opaque;
use crate::packet::Packet;

/// Bytes added up per round.
const STRIDE: usize = 32;

/// Adds up whole strides. No branches but one: the verifier goes through a round again for each way it can end.
struct Strides<'a, P> {
    packet: &'a P,
    at: usize,
    sum: Sum,
}

impl<P: Packet> Round for Strides<'_, P> {
    #[inline(always)]
    fn round(&mut self, _: u32) -> bool {
        let Some(words) = self.packet.load_at::<[u32; STRIDE / 4]>(self.at) else { return true };
        self.sum = words.into_iter().fold(self.sum, Sum::add32);
        self.at += STRIDE;
        false
    }
}

/// Adds up what is left, by words of the checksum.
struct Words<'a, P> {
    packet: &'a P,
    at: usize,
    sum: Sum,
}

impl<P: Packet> Round for Words<'_, P> {
    #[inline(always)]
    fn round(&mut self, _: u32) -> bool {
        let Some(word) = self.packet.load_at::<[u8; 2]>(self.at) else { return true };
        self.sum = self.sum.add16(u16::from_ne_bytes(word));
        self.at += 2;
        false
    }
}

/// Whether the words from `start` to `end`, a checksum among them, add up as they should (RFC 1071). What lies past the
/// packet's end counts as 0.
#[inline(always)]
pub fn hold<T: Tables, P: Packet>(tables: &T, packet: &P, start: u32, end: u32) -> bool {
    sum(tables, packet, start, end) == 0xffff
}

/// The sum of the words from `start` to `end`, as loaded.
#[inline(never)]
pub fn sum<T: Tables, P: Packet>(tables: &T, packet: &P, start: u32, end: u32) -> u16 {
    let len = end.saturating_sub(start);
    let mut strides = Strides { packet, at: opaque(start as u64) as usize, sum: Sum::default() };
    tables.repeat(len / STRIDE as u32, &mut strides);
    let mut words = Words { packet, at: strides.at, sum: strides.sum };
    tables.repeat(len % STRIDE as u32 / 2, &mut words);
    let mut sum = words.sum;
    if !len.is_multiple_of(2)
        && let Some([last]) = packet.load_at::<[u8; 1]>(words.at)
    {
        sum = sum.add16(u16::from_ne_bytes([last, 0]));
    }
    sum.fold()
}
