//! Packets that are nearly right: those of flows that may be there, with a few bytes changed.

use vpnat_common::layout::outcome::Outcome;

use crate::input::Input;
use crate::life::{pod, server};
use crate::tables::EGRESS;
use crate::wire::{End, TCP, checksum, echo, finished, source, tcp, udp};

/// What the packets so far have shown: the port that the vendor last saw, and packets to quote.
pub struct Memory {
    public: u16,
    seen: Vec<u8>,
    arrived: Vec<u8>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { public: 40000, seen: Vec::new(), arrived: Vec::new() }
    }
}

impl Memory {
    /// Takes note of a packet and what became of it.
    pub fn remember(&mut self, outbound: bool, packet: &[u8], outcome: Outcome, found: &[u8]) {
        match outcome {
            Outcome::Outbound if outbound && packet.len() >= 28 => {
                self.public = source(found).1;
                self.seen = found.to_vec();
            }
            Outcome::Inbound if !outbound => self.arrived = found.to_vec(),
            _ => {}
        }
    }

    /// A packet as the input says, and whether it goes out.
    pub fn packet(&self, input: &mut Input<'_>) -> (bool, Vec<u8>) {
        let kind = input.byte().unwrap_or(0);
        let who = input.byte().unwrap_or(0);
        let outbound = kind & 1 == 0;
        let inside: End = (pod(who % 3 + 1), 40000 + u16::from(who >> 2 & 1));
        let remote: End = (server(10 + (who >> 3 & 1)), 443);
        let public: End = (EGRESS, self.public);
        let (from, to) = if outbound { (inside, remote) } else { (remote, public) };
        let mut packet = match kind >> 1 & 7 {
            0 | 1 => {
                let flags = [2, 18, 16, 17, 4, 20, 24, 1][usize::from(input.byte().unwrap_or(0) & 7)];
                let numbers = (u32::from(input.byte().unwrap_or(0)), u32::from(input.byte().unwrap_or(0)));
                tcp(from, to, flags, numbers, b"data")
            }
            2 | 3 => udp(from, to, b"datagram"),
            4 => echo(
                if outbound { 8 } else { 0 },
                from.0,
                to.0,
                if outbound { from.1 } else { to.1 },
                b"echo",
            ),
            // An error about the last packet that went the other way.
            _ => {
                let quote = if outbound { &self.arrived } else { &self.seen };
                let types = [3, 11, 12];
                let mut error = echo(types[usize::from(who >> 4) % 3], from.0, to.0, 0, quote);
                error[24..28].fill(0);
                finished(error)
            }
        };
        for _ in 0..kind >> 4 & 3 {
            let (place, value) = (input.byte().unwrap_or(0), input.byte().unwrap_or(0));
            let place = usize::from(place) % packet.len();
            packet[place] = value;
        }
        if kind & 0x40 != 0 {
            packet.truncate(usize::from(input.byte().unwrap_or(0)));
        }
        // Mostly right: what is wrong is refused early.
        if kind & 0x80 == 0 && packet.len() >= 20 && header_length(&packet) <= packet.len() {
            packet = with_header_checksum(packet);
        }
        (outbound, packet)
    }
}

fn header_length(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

/// The packet with its header checksum made right, if it has a header.
pub fn with_header_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    let length = header_length(&packet);
    if (20..=packet.len()).contains(&length) {
        packet[10..12].fill(0);
        let sum = checksum(&packet[..length]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// Where the checksum of a TCP header lies.
pub const TCP_CHECKSUM: usize = 16;

/// Inputs to begin with: each protocol's flow out and back, a connection's life, errors both ways.
pub fn seeds() -> Vec<Vec<u8>> {
    assert_eq!(usize::from(TCP), 6);
    let mut seeds = Vec::new();
    for path in [0x06u8, 0x86] {
        let tcp = |flags: u8, out: u8, seq: u8, ack: u8| vec![path, 1 - out, 0, flags, seq, ack];
        let handshake = [tcp(0, 1, 100, 0), tcp(1, 0, 200, 101), tcp(2, 1, 101, 201)].concat();
        let close = [tcp(3, 1, 101, 201), tcp(3, 0, 201, 102), tcp(2, 1, 102, 202)].concat();
        seeds.push([&handshake[..], &close, &tcp(0, 1, 150, 0)].concat());
        seeds.push([&handshake[..], &tcp(4, 0, 201, 0), &[0, 0xff, 0xff], &tcp(2, 1, 101, 201)].concat());
        seeds.push(vec![path, 4, 0, path, 5, 0, path, 11, 0, 0, 4, 0, path, 4, 1]);
        seeds.push(vec![path, 8, 0, path, 9, 0, path, 10, 0, path, 11, 0]);
        // Another pod with the same port, in a range of two.
        seeds.push(vec![0x14, path, 4, 0, path, 4, 1, path, 4, 2, 0, 0x10, 0, path, 4, 2]);
        seeds.push([&[path | 0x10, 28][..], &[0x45; 28]].concat());
    }
    // Quotes: protocol and flags, kind, length field, cut, changes.
    for protocol in 0..3 {
        for kind in 0..3 {
            seeds.push(vec![protocol, kind, 0, 28]);
            seeds.push(vec![protocol | 0x80, kind, 32, 0, 0, 0x46, 200, 60]);
        }
    }
    seeds
}
