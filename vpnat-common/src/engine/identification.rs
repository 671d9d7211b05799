//! The identification of what leaves. To the vendor all pods are one host, so it is that host's business that no two
//! datagrams bear the same one (RFC 6864 section 5.3.1, RFC 3022 section 6.3). Atomic datagrams, which are neither
//! fragments nor can become ones, keep theirs: nobody may look at it (section 4.1).

use super::tables::Tables;
use crate::addr::Ip4;
use crate::checksum::{self, Sum};
use crate::layout::flow::IDENTIFICATION_COUNTERS;
use crate::packet::{Ip, Packet, ipv4};

/// The next identification from `source` for the datagram `ip`. A GSO packet gets as many as it has segments, because
/// the kernel counts up from one to the next.
///
/// Counters are shared by those tuples of addresses and protocol that fall together, as in the kernel: none repeats
/// one before the counter has gone round. Each starts at random.
#[inline(always)]
pub fn next<T: Tables, P: Packet>(tables: &T, packet: &P, source: Ip4, ip: &Ip) -> u16 {
    let mixed = source.to_ne() ^ ip.dst.to_ne().rotate_left(7) ^ (ip.protocol as u32) << 16;
    let counter = mixed.wrapping_mul(0x9e37_79b1) >> (32 - IDENTIFICATION_COUNTERS.trailing_zeros());
    let mut id = tables.take_identifications(counter, packet.segments());
    if id == 0 {
        tables.take_identifications(counter, tables.random());
        id = tables.take_identifications(counter, packet.segments());
    }
    id as u16
}

/// Writes `id` into the header; its checksum is changed in `ip` and written with the address.
#[inline(always)]
#[must_use]
pub fn write<P: Packet>(packet: &mut P, ip: &mut Ip, id: u16) -> bool {
    let word = |id: u16| u16::from_ne_bytes(id.to_be_bytes());
    ip.check = checksum::apply(ip.check, Sum(checksum::delta16(word(ip.id), word(id)) as u32));
    packet.store(ipv4::ID, id.to_be_bytes())
}

/// Gives an outbound datagram that is not a fragment the identification that it leaves with.
#[inline(always)]
#[must_use]
pub fn renew<T: Tables, P: Packet>(tables: &T, packet: &mut P, ip: &mut Ip, source: Ip4) -> bool {
    if ip.is_atomic() {
        return true;
    }
    let id = next(tables, packet, source, ip);
    write(packet, ip, id)
}
