//! Attempts to get a packet to a vendor from an address that the vendor must not see: by pods and others behind the
//! NAT instance, and by the instance itself.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::flag::Flag;
use crate::packet::{self, GRE, UDP};
use crate::raw::RawSender;

/// EtherType of IPv4.
const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
const IPV6: u16 = 0x86dd;
/// EtherType of a VLAN tag.
const VLAN: u16 = 0x8100;

/// How many packets of each kind were tried.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tried {
    /// All together.
    pub packets: u64,
    /// Of protocols that are not translated.
    pub protocols: u64,
    /// With an option that names addresses.
    pub options: u64,
}

/// An IPv4 packet with room for options between header and payload.
fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let mut packet = [&packet[..20], options, &packet[20..]].concat();
    packet[0] += (options.len() / 4) as u8;
    finished(packet)
}

/// Writes total length and header checksum.
fn finished(mut packet: Vec<u8>) -> Vec<u8> {
    let (total, header) = (packet.len() as u16, usize::from(packet[0] & 15) * 4);
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[10..12].fill(0);
    let sum = packet::checksum(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A part of a datagram of `id`, at `offset` units of eight bytes.
fn part(packet: &[u8], id: u16, offset: u16, more: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
    finished(packet)
}

/// Sends one packet of every kind to `vendor`, as coming from `source`, with `port` where there are ports.
pub fn every_kind(raw: &RawSender, source: Ipv4Addr, vendor: Ipv4Addr, port: u16) -> Tried {
    let mut tried = Tried::default();
    let mut send = |ether_type: u16, packet: &[u8]| {
        // Refused at once where the sender is behind the guard itself.
        let _ = raw.try_send_as(ether_type, packet);
        tried.packets += 1;
    };
    let (from, to) = ((source, port), (vendor, 9999));
    let datagram = packet::udp(from, to, 64, b"let me through, please");
    // Every flag that opens, goes on with or ends a connection, and none.
    for flags in [2, 18, 16, 17, 4, 20, 0, 41] {
        send(IPV4, &packet::tcp((source, port), (vendor, 80), flags, (7, 7), b""));
    }
    send(IPV4, &datagram);
    for kind in [0, 8, 13, 14, 15, 17, 10, 5] {
        send(IPV4, &packet::icmp(source, vendor, (kind, 0), [port as u8, 1, 0, 1], &[0; 16]));
    }
    for protocol in [0, 4, GRE, 41, 50, 51, 132, 255] {
        send(IPV4, &packet::ipv4(source, vendor, protocol, 64, &[0; 32]));
    }
    // Errors about packets that the vendor never sent, or that nobody did.
    for quoted in [&packet::udp(to, from, 64, b"never sent")[..], &datagram, &[0x45; 28]] {
        for kind in [(3, 3), (3, 4), (11, 0), (12, 0)] {
            send(IPV4, &packet::icmp(source, vendor, kind, [0; 4], quoted));
        }
    }
    // Parts without a first one, a first one without its header, and one laid over the header.
    for (offset, more) in [(1, false), (1, true), (185, false), (0x1fff, false)] {
        send(IPV4, &part(&datagram, port, offset, more));
    }
    send(IPV4, &part(&packet::ipv4(source, vendor, UDP, 64, &[0; 4]), port, 0, true));
    // Options: loose and strict source route, record route, timestamp, one that cannot be read.
    for options in [
        [131, 7, 4, 10, 0, 1, 1, 0],
        [137, 7, 4, 10, 0, 1, 1, 0],
        [7, 7, 4, 0, 0, 0, 0, 0],
        [68, 8, 5, 0, 0, 0, 0, 0],
        [200, 0, 0, 0, 0, 0, 0, 0],
    ] {
        send(IPV4, &with_options(&datagram, &options));
    }
    // Headers that contradict themselves.
    for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x4f), (2, 0xff), (8, 0), (8, 1)] {
        let mut packet = datagram.clone();
        packet[at] = value;
        if at == 8 {
            packet = finished(packet);
        }
        send(IPV4, &packet);
    }
    send(VLAN, &[&[0, 5, 8, 0], &datagram[..]].concat());
    send(VLAN, &[&[0, 0, 8, 0], &datagram[..]].concat());
    send(IPV6, &datagram);
    send(IPV6, &[&[0x60, 0, 0, 0, 0, 8, 17, 64][..], &[0; 40]].concat());
    tried.protocols = 8;
    tried.options = 4;
    tried
}

/// Sends every kind of packet to `vendor` from each sender, in the name of the address beside it, again and again while
/// `work` is under way; how many packets that were.
pub fn every_kind_during(
    senders: &[(RawSender, Ipv4Addr)],
    vendor: Ipv4Addr,
    port: u16,
    work: impl FnOnce(),
) -> u64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut packets = 0;
            while !done.load(Ordering::Relaxed) {
                for (raw, source) in senders {
                    packets += every_kind(raw, *source, vendor, port).packets;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            packets
        });
        // Raised also if the work panics.
        let flag = Flag(&done);
        work();
        drop(flag);
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
