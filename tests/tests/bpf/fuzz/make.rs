//! Packets to try: plausible ones, answers to what was translated, errors that quote it, parts of datagrams,
//! and all of them spoiled in some way.

use std::net::Ipv4Addr;

use tests::packet::{ICMP, TCP, UDP, checksum};

use super::headers::{Header, Tuple, be16, sum};
use super::random::Random;
use crate::case::Course;
use crate::plan::{
    EGRESS_A, EGRESS_B, ELSEWHERE, EXEMPT_SERVER, INSIDE_ROUTER, POD, POD_2, SERVER, SERVER_2, SERVER_B,
    STRANGER,
};

const INSTANCE: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 0, 2, 1), Ipv4Addr::new(8, 0, 1, 1)];
const INSIDERS: [Ipv4Addr; 8] = [POD, POD, POD, POD_2, POD_2, POD_2, STRANGER, INSIDE_ROUTER];
const REMOTES: [Ipv4Addr; 8] =
    [SERVER, SERVER, SERVER, SERVER_2, SERVER_B, SERVER_B, EXEMPT_SERVER, ELSEWHERE];
const PUBLICS: [Ipv4Addr; 5] = [EGRESS_A, EGRESS_A, EGRESS_A, EGRESS_B, EGRESS_B];
const PORTS: [u16; 10] = [0, 53, 443, 443, 1023, 1024, 40000, 40000, 40001, 65535];
const LENGTHS: [u16; 14] = [0, 1, 7, 8, 19, 20, 21, 27, 28, 39, 40, 60, 1500, 65535];

/// Most bytes of a packet that a test run of TC takes in one piece.
const MOST: usize = 3000;

/// Makes packets.
pub struct Maker {
    pub random: Random,
    /// Packets that were translated, before and after, in a ring.
    recent: Vec<(Course, [Vec<u8>; 2])>,
    place: usize,
}

impl Maker {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), recent: Vec::new(), place: 0 }
    }

    /// Keeps a translated packet as it was before and after, to send it again, to answer and to quote it.
    pub fn keep(&mut self, course: Course, before: &[u8], after: &[u8]) {
        const KEPT: usize = 64;
        if self.recent.len() < KEPT {
            self.recent.push((course, Default::default()));
        }
        self.place = (self.place + 1) % KEPT;
        let place = self.place % self.recent.len();
        let (kept, both) = &mut self.recent[place];
        *kept = course;
        for (kept, bytes) in both.iter_mut().zip([before, after]) {
            kept.clear();
            kept.extend_from_slice(&bytes[..bytes.len().min(256)]);
        }
    }

    /// Writes an IP packet, or what pretends to be one, to `ip`.
    pub fn make(&mut self, course: Course, ip: &mut Vec<u8>) {
        ip.clear();
        match self.random.below(100) {
            0..30 => self.plain(course, ip),
            30..62 => self.more(course, ip),
            62..77 => self.error(course, ip),
            77..92 => self.part(course, ip),
            92..97 => self.with_options(course, ip),
            _ => self.noise(ip),
        }
        if self.random.once_in(4) {
            self.spoil(ip);
        }
    }

    fn address(&mut self, of: &[Ipv4Addr]) -> Ipv4Addr {
        match self.random.below(24) {
            0 => self.random.pick(&PUBLICS),
            1 => self.random.pick(&INSTANCE),
            2 => self.random.pick(&INSIDERS),
            3 => self.random.pick(&REMOTES),
            4 => {
                let [a, b] = self.random.word().to_be_bytes();
                Ipv4Addr::new(8, 0, if a & 1 == 0 { 192 } else { 2 }, b)
            }
            _ => self.random.pick(of),
        }
    }

    fn port(&mut self) -> u16 {
        if self.random.once_in(16) { self.random.word() } else { self.random.pick(&PORTS) }
    }

    fn ends(&mut self, course: Course) -> (Ipv4Addr, Ipv4Addr) {
        match course {
            Course::Out => (self.address(&INSIDERS), self.address(&REMOTES)),
            Course::Back => (self.address(&REMOTES), self.address(&PUBLICS)),
        }
    }

    fn plain(&mut self, course: Course, ip: &mut Vec<u8>) {
        let (source, destination) = self.ends(course);
        let protocol = match self.random.below(16) {
            0..6 => TCP,
            6..11 => UDP,
            11..15 => ICMP,
            _ => self.random.byte(),
        };
        self.transport(ip, protocol, source, destination);
    }

    /// Header and transport of a sound packet.
    fn transport(&mut self, ip: &mut Vec<u8>, protocol: u8, source: Ipv4Addr, destination: Ipv4Addr) {
        let ttl = if self.random.once_in(8) { self.random.pick(&[0, 1, 2, 255]) } else { 64 };
        let flags: u8 = self.random.pick(&[0, 0x40, 0x40]);
        ip.extend([0x45, self.random.byte() & 3, 0, 0]);
        ip.extend(self.random.word().to_be_bytes());
        ip.extend([flags, 0, ttl, protocol, 0, 0]);
        ip.extend(source.octets());
        ip.extend(destination.octets());
        let (from, to) = (self.port(), self.port());
        match protocol {
            TCP => self.segment(ip, from, to),
            UDP => {
                ip.extend(from.to_be_bytes());
                ip.extend(to.to_be_bytes());
                ip.extend([0; 4]);
                self.payload(ip);
            }
            ICMP => {
                let kind = self.random.pick(&[8, 8, 8, 0, 0, 13, 14, 3, 4, 5, 9, 11, 12, 15, 17, 255]);
                ip.extend([kind, if !(3..=12).contains(&kind) { 0 } else { self.random.byte() & 15 }, 0, 0]);
                ip.extend(from.to_be_bytes());
                ip.extend([0, 1]);
                self.payload(ip);
            }
            _ => self.payload(ip),
        }
        finish(ip, !self.random.once_in(12));
    }

    fn segment(&mut self, ip: &mut Vec<u8>, from: u16, to: u16) {
        let flags: u8 = match self.random.below(16) {
            0..6 => 2,
            6..8 => 18,
            8..12 => 16,
            12 => 17,
            13 => 20,
            14 => 4,
            _ => self.random.byte(),
        };
        ip.extend(from.to_be_bytes());
        ip.extend(to.to_be_bytes());
        // Close together, so that some lie in each other's windows.
        ip.extend((self.random.below(4) as u32 * 0x8000).to_be_bytes());
        ip.extend((self.random.below(4) as u32 * 0x8000).to_be_bytes());
        let mut options = Vec::new();
        if flags & 2 != 0 || self.random.once_in(8) {
            for _ in 0..self.random.below(5) {
                match self.random.below(6) {
                    0 => options.push(1),
                    1 => options.extend([2, 4, self.random.byte() & 0x0f, self.random.byte()]),
                    2 => options.extend([3, 3, self.random.byte() & 15]),
                    3 => {
                        options.extend([8, 10]);
                        options.extend(self.random.next().to_be_bytes());
                    }
                    4 => options.extend([4, 2]),
                    _ => options.extend([self.random.byte(), self.random.byte() & 15]),
                }
            }
            options.truncate(40);
            options.resize(options.len().next_multiple_of(4), 0);
        }
        let offset = (5 + options.len() / 4) as u8;
        ip.extend([offset << 4, flags, self.random.byte(), self.random.byte(), 0, 0, 0, 0]);
        ip.extend(&options);
        self.payload(ip);
    }

    fn payload(&mut self, ip: &mut Vec<u8>) {
        let length = match self.random.below(32) {
            0..12 => 0,
            12..30 => self.random.below(48),
            30 => self.random.below(1500),
            _ => self.random.below(MOST - 100),
        };
        let at = ip.len();
        ip.resize(at + length, 0);
        self.random.fill(&mut ip[at..]);
    }

    /// Another packet of a flow, on its way `course`: as one that was seen, or the answer to it.
    fn more(&mut self, course: Course, ip: &mut Vec<u8>) {
        if self.recent.is_empty() {
            return self.plain(course, ip);
        }
        let chosen = self.random.below(self.recent.len());
        let (seen, [before, after]) = &self.recent[chosen];
        let again = *seen == course;
        let kept = if again { before } else { after };
        let Some(mut tuple) = Header::read(kept, true).and_then(|header| header.tuple(kept)) else {
            return self.plain(course, ip);
        };
        if !again {
            tuple = tuple.turned();
        }
        let Tuple { protocol, source, destination } = tuple;
        self.transport(ip, protocol, source.0, destination.0);
        if protocol == ICMP {
            ip[20] = if source.1 == 0 { 0 } else { 8 };
            ip[24..26].copy_from_slice(&(source.1 | destination.1).to_be_bytes());
        } else {
            ip[20..22].copy_from_slice(&source.1.to_be_bytes());
            ip[22..24].copy_from_slice(&destination.1.to_be_bytes());
        }
        finish(ip, true);
    }

    /// An ICMP error, mostly about a packet that was translated.
    fn error(&mut self, course: Course, ip: &mut Vec<u8>) {
        let (source, mut destination) = self.ends(course);
        let mut quote = Vec::new();
        if !self.recent.is_empty() && !self.random.once_in(8) {
            let chosen = self.random.below(self.recent.len());
            quote.extend_from_slice(&self.recent[chosen].1[1]);
        } else {
            self.plain(course, &mut quote);
        }
        if !self.random.once_in(8) && quote.len() >= 16 {
            // To whom the quoted packet is said to be from.
            destination = super::headers::address(&quote, 12);
        }
        let length = self.random.pick(&[20, 27, 28, 28, 28, 30, 36, 38, 40, 60, 128, 512]);
        quote.truncate(length);
        ip.extend([0x45, 0, 0, 0, 0, 9, 0, 0, 64, ICMP, 0, 0]);
        ip.extend(source.octets());
        ip.extend(destination.octets());
        let kind = self.random.pick(&[3, 3, 3, 11, 12, 4, 5]);
        // The length of the quote in words (RFC 4884), mostly not said.
        let words = if self.random.once_in(4) { (quote.len() / 4) as u8 } else { 0 };
        ip.extend([kind, self.random.byte() & 15, 0, 0, 0, words, 5, 120]);
        ip.extend(&quote);
        if self.random.once_in(4) {
            self.payload(ip);
        }
        finish(ip, !self.random.once_in(12));
    }

    /// A part of a datagram, of few that there are.
    fn part(&mut self, course: Course, ip: &mut Vec<u8>) {
        self.plain(course, ip);
        let id = self.random.below(4) as u16;
        let later = self.random.once_in(2);
        let offset = if later { self.random.pick(&[1u16, 2, 3, 4, 185, 0x1fff]) } else { 0 };
        let more = if self.random.once_in(2) { 0x2000 } else { 0 };
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        ip[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        finish(ip, false);
    }

    fn with_options(&mut self, course: Course, ip: &mut Vec<u8>) {
        self.plain(course, ip);
        let words = 1 + self.random.below(10);
        let mut options = vec![1; words * 4];
        if self.random.once_in(2) {
            self.random.fill(&mut options);
        }
        if self.random.once_in(2) {
            options[0] = self.random.pick(&[0, 1, 7, 68, 130, 131, 137, 148]);
            options[1] = self.random.pick(&[0, 1, 2, 3, 4, 8, 40]);
        }
        ip.splice(20..20, options);
        ip[0] = 0x45 + words as u8;
        finish(ip, true);
    }

    fn noise(&mut self, ip: &mut Vec<u8>) {
        let length = self.random.below(200);
        ip.resize(length, 0);
        self.random.fill(ip);
    }

    /// Makes something wrong, with right checksums for it or without.
    fn spoil(&mut self, ip: &mut Vec<u8>) {
        for _ in 0..=self.random.below(2) {
            let length = ip.len();
            if length < 20 {
                return;
            }
            match self.random.below(9) {
                0 => {
                    let bit = self.random.below(length.min(80) * 8);
                    ip[bit / 8] ^= 1 << (bit % 8);
                }
                1 => {
                    let at = self.random.below(length.min(80));
                    ip[at] = self.random.byte();
                }
                2 => ip[2..4].copy_from_slice(&self.random.pick(&LENGTHS).to_be_bytes()),
                3 => {
                    let near = (length as u16).wrapping_add(self.random.below(17) as u16).wrapping_sub(8);
                    ip[2..4].copy_from_slice(&near.to_be_bytes());
                }
                4 => ip[0] = 0x40 | self.random.byte() & 15,
                5 => ip.truncate(20 + self.random.below(length - 19)),
                6 => ip.resize(length + self.random.below(40), 0xaa),
                7 if length > 40 => {
                    // A length in the transport header: UDP's, or TCP's data offset.
                    let at = usize::from(ip[0] & 15) * 4 + if ip[9] == TCP { 12 } else { 4 };
                    if at + 1 < length {
                        ip[at] = self.random.byte();
                        ip[at + 1] = self.random.byte();
                    }
                }
                _ => ip[6..8].copy_from_slice(&self.random.word().to_be_bytes()),
            }
        }
        if self.random.once_in(2) && Header::read(ip, false).is_some() {
            header_sum(ip);
        }
    }
}

fn header_sum(ip: &mut [u8]) {
    let length = usize::from(ip[0] & 15) * 4;
    ip[10..12].fill(0);
    let check = checksum(&ip[..length]);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
}

/// Writes lengths and checksums. Without `transport`, that checksum stays as it is (0 in a fresh packet).
fn finish(ip: &mut [u8], transport: bool) {
    let (total, start) = (ip.len(), usize::from(ip[0] & 15) * 4);
    ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    header_sum(ip);
    let room = total - start;
    let (at, least) = match ip[9] {
        TCP => (start + 16, 20),
        UDP => (start + 6, 8),
        ICMP => (start + 2, 8),
        _ => return,
    };
    if room < least {
        return;
    }
    if ip[9] == UDP {
        ip[start + 4..start + 6].copy_from_slice(&(room as u16).to_be_bytes());
    }
    if !transport {
        return;
    }
    ip[at..at + 2].fill(0);
    let mut total = sum(&ip[start..]);
    if ip[9] != ICMP {
        total += sum(&ip[12..20]) + u32::from(ip[9]) + room as u32;
    }
    let check = !((total % 0xffff) as u16);
    let check = if check == 0 { 0xffff } else { check };
    ip[at..at + 2].copy_from_slice(&check.to_be_bytes());
    debug_assert_eq!(be16(ip, at), check);
}
