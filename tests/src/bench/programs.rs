//! The bench's own XDP programs: a generator, a sink, and a host that only sends on.

use std::os::fd::{AsRawFd, OwnedFd};

use super::asm::{Asm, If, Op, Reg, Size};
use super::bpf::{self, Shared};
use crate::link::Mac;

/// The most flows that the generator can have.
pub const MOST_FLOWS: usize = 1 << 20;

/// The places of [`array()`]'s table: as many as the flow table has.
pub const LINES: usize = 1 << 21;

/// Bytes of a frame: 64 with the check sequence that no virtual device has.
pub const FRAME: usize = 60;

/// The type of service by which the sink knows the bench's packets from the namespace's own.
const MARK: u8 = 0x28;

/// Payload: the flow's number, then the time of sending where it is asked for.
pub const PAYLOAD: usize = 18;
const TOTAL_LENGTH: u16 = (20 + 8 + PAYLOAD) as u16;

mod at {
    pub const ETHER_TYPE: i16 = 12;
    pub const TYPE_OF_SERVICE: i16 = 15;
    pub const LENGTH_TO_PROTOCOL: i16 = 16;
    pub const IP_CHECK: i16 = 24;
    pub const ADDRESSES: i16 = 26;
    pub const PORTS: i16 = 34;
    pub const UDP_LENGTH: i16 = 38;
    pub const UDP_CHECK: i16 = 40;
    pub const NUMBER: i16 = 42;
    pub const TIME: i16 = 46;
}

mod action {
    pub const ABORTED: i32 = 0;
    pub const DROP: i32 = 1;
    pub const PASS: i32 = 2;
}

mod helper {
    pub const MAP_LOOKUP: i32 = 1;
    pub const MAP_UPDATE: i32 = 2;
    pub const KTIME_GET_NS: i32 = 5;
    pub const REDIRECT: i32 = 23;
    pub const REDIRECT_MAP: i32 = 51;
}

/// What differs from flow to flow, as it stands in the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Template {
    /// Source and destination address.
    pub addresses: [[u8; 4]; 2],
    /// Source and destination port.
    pub ports: [[u8; 2]; 2],
    /// Header checksum, then UDP checksum.
    pub checks: [[u8; 2]; 2],
}

impl Template {
    /// The template of flow `number` from `from` to `to`.
    pub fn new(number: u32, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Self {
        let word = |high: u8, low: u8| u32::from(high) << 8 | u32::from(low);
        let address = |octets: [u8; 4]| word(octets[0], octets[1]) + word(octets[2], octets[3]);
        let addresses = address(from.0) + address(to.0);
        let header = word(0x45, MARK) + u32::from(TOTAL_LENGTH) + 0x4000 + word(64, 17) + addresses;
        let length = u32::from(TOTAL_LENGTH) - 20;
        let payload = address(number.to_le_bytes());
        let udp = addresses + 17 + 2 * length + u32::from(from.1) + u32::from(to.1) + payload;
        let udp = match finish(udp) {
            0 => 0xffff,
            sum => sum,
        };
        Self {
            addresses: [from.0, to.0],
            ports: [from.1.to_be_bytes(), to.1.to_be_bytes()],
            checks: [finish(header).to_be_bytes(), udp.to_be_bytes()],
        }
    }

    /// The IPv4 packet, without time.
    pub fn packet(&self, number: u32) -> Vec<u8> {
        let length = TOTAL_LENGTH.to_be_bytes();
        let mut packet = vec![0x45, MARK, length[0], length[1], 0, 0, 0x40, 0, 64, 17];
        packet.extend(self.checks[0]);
        packet.extend(self.addresses.as_flattened());
        packet.extend(self.ports.as_flattened());
        packet.extend((TOTAL_LENGTH - 20).to_be_bytes());
        packet.extend(self.checks[1]);
        packet.extend(number.to_le_bytes());
        packet.resize(usize::from(TOTAL_LENGTH), 0);
        packet
    }
}

/// The packet with the time of sending in its payload, and the checksum that goes with it.
pub fn stamped(mut packet: Vec<u8>, nanos: u64) -> Vec<u8> {
    // Behind Ethernet's 14 bytes.
    let (time, check) = (at::TIME as usize - 14, at::UDP_CHECK as usize - 14);
    let bytes = nanos.to_ne_bytes();
    packet[time..time + 8].copy_from_slice(&bytes);
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let old = !u16::from_be_bytes([packet[check], packet[check + 1]]);
    let sum = match finish(u32::from(old) + words.sum::<u32>()) {
        0 => 0xffff,
        sum => sum,
    };
    packet[check..check + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn finish(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// Which flow is next, and how many there are from the first on.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Turn {
    /// The next flow.
    pub next: u32,
    /// Where the next round begins.
    pub first: u32,
    /// Where a round ends.
    pub end: u32,
    /// Alignment.
    pub padding: u32,
}

/// Makes each frame the next flow's packet and sends it out of the device `ifindex`. A frame comes back as
/// the path has left it, so everything is written but the payload's end.
pub fn generator(ifindex: u32, to: Mac, from: Mac, turn: &Shared<Turn>, flows: &Shared<Template>) -> OwnedFd {
    use Reg::*;
    use Size::*;
    let word = |bytes: [u8; 8]| u64::from_ne_bytes(bytes);
    let length = TOTAL_LENGTH.to_be_bytes();
    let mut asm = Asm::default();
    let (same_round, short) = (asm.label(), asm.label());
    // The turn.
    asm.map_value(R6, turn.fd(), 0)
        .load(B4, R7, R6, 0)
        .mov(R2, R7)
        .alu(Op::Add, R2, 1)
        .load(B4, R3, R6, 8)
        .jump_if_reg(If::Less, R2, R3, same_round)
        .load(B4, R2, R6, 4)
        .here(same_round)
        .store(B4, R6, 0, R2)
        .alu(Op::And, R7, MOST_FLOWS as i32 - 1);
    // The frame.
    asm.load(B4, R2, R1, 0)
        .load(B4, R3, R1, 4)
        .mov(R4, R2)
        .alu(Op::Add, R4, FRAME as i32)
        .jump_if_reg(If::Greater, R4, R3, short)
        .set64(R4, word([to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1]]))
        .store(B8, R2, 0, R4)
        .set64(R4, word([from[2], from[3], from[4], from[5], 0x08, 0x00, 0x45, MARK]))
        .store(B8, R2, 8, R4)
        .set64(R4, word([length[0], length[1], 0, 0, 0x40, 0, 64, 17]))
        .store(B8, R2, at::LENGTH_TO_PROTOCOL, R4)
        .store_imm(B2, R2, at::UDP_LENGTH, i32::from((TOTAL_LENGTH - 20).to_be()))
        .store(B4, R2, at::NUMBER, R7);
    // The flow.
    asm.map_value(R5, flows.fd(), 0)
        .alu(Op::Lsh, R7, size_of::<Template>().trailing_zeros() as i32)
        .alu_reg(Op::Add, R5, R7)
        .load(B8, R4, R5, 0)
        .store(B8, R2, at::ADDRESSES, R4)
        .load(B4, R4, R5, 8)
        .store(B4, R2, at::PORTS, R4)
        .load(B2, R4, R5, 12)
        .store(B2, R2, at::IP_CHECK, R4)
        .load(B2, R4, R5, 14)
        .store(B2, R2, at::UDP_CHECK, R4)
        .set(R1, ifindex as i32)
        .set(R2, 0)
        .call(helper::REDIRECT)
        .exit()
        .here(short)
        .set(R0, action::ABORTED)
        .exit();
    bpf::load_xdp("bench_generator", &asm.finish())
}

/// What a sink is to expect of a packet that has come the right way.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Whether the source is looked at, or else the destination.
    pub source: bool,
    /// The address, as far as the mask goes.
    pub address: [u8; 4],
    /// Which of its bits count.
    pub mask: [u8; 4],
}

/// What a sink has seen.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Seen {
    /// Packets as expected.
    pub right: u64,
    /// Packets with another address.
    pub wrong: u64,
    /// Set by the bench: note each flow's source in `learned`.
    pub learn: u64,
}

/// What the sink has learned of a flow: its source as it arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Learned {
    /// Address.
    pub address: [u8; 4],
    /// Port.
    pub port: [u8; 2],
    /// 1 if the flow was seen.
    pub seen: u16,
}

/// Counts the bench's packets and drops them; everything else passes.
pub fn sink(expected: Expected, seen: &Shared<Seen>, learned: &Shared<Learned>) -> OwnedFd {
    use Reg::*;
    use Size::*;
    let mut asm = Asm::default();
    let (pass, wrong, drop) = (asm.label(), asm.label(), asm.label());
    marked(&mut asm, pass);
    let address = at::ADDRESSES + if expected.source { 0 } else { 4 };
    asm.map_value(R6, seen.fd(), 0)
        .load(B4, R4, R2, address)
        .alu(Op::And, R4, i32::from_ne_bytes(expected.mask))
        .set64(R5, u64::from(u32::from_ne_bytes(expected.address)))
        .jump_if_reg(If::NotEqual, R4, R5, wrong)
        .load(B8, R4, R6, 0)
        .alu(Op::Add, R4, 1)
        .store(B8, R6, 0, R4)
        .load(B8, R4, R6, 16)
        .jump_if(If::Equal, R4, 0, drop)
        .load(B4, R7, R2, at::NUMBER)
        .alu(Op::And, R7, MOST_FLOWS as i32 - 1)
        .alu(Op::Lsh, R7, size_of::<Learned>().trailing_zeros() as i32)
        .map_value(R5, learned.fd(), 0)
        .alu_reg(Op::Add, R5, R7)
        .load(B4, R4, R2, at::ADDRESSES)
        .store(B4, R5, 0, R4)
        .load(B2, R4, R2, at::PORTS)
        .store(B2, R5, 4, R4)
        .store_imm(B2, R5, 6, 1)
        .here(drop)
        .set(R0, action::DROP)
        .exit()
        .here(wrong)
        .load(B8, R4, R6, 8)
        .alu(Op::Add, R4, 1)
        .store(B8, R6, 8, R4)
        .set(R0, action::DROP)
        .exit()
        .here(pass)
        .set(R0, action::PASS)
        .exit();
    bpf::load_xdp("bench_sink", &asm.finish())
}

/// Jumps to `pass` unless the frame is one of the bench's; its start is in `R2` then.
fn marked(asm: &mut Asm, pass: super::asm::Label) {
    use Reg::*;
    use Size::*;
    asm.load(B4, R2, R1, 0)
        .load(B4, R3, R1, 4)
        .mov(R4, R2)
        .alu(Op::Add, R4, FRAME as i32)
        .jump_if_reg(If::Greater, R4, R3, pass)
        .load(B2, R4, R2, at::ETHER_TYPE)
        .jump_if(If::NotEqual, R4, i32::from(0x0800u16.to_be()), pass)
        .load(B1, R4, R2, at::TYPE_OF_SERVICE)
        .jump_if(If::NotEqual, R4, i32::from(MARK), pass);
}

/// Steps of a [`clock`]'s histogram.
pub const STEPS: usize = 1 << 16;
/// Nanoseconds in a step, as a power of two.
pub const STEP_SHIFT: u32 = 5;

/// A sink that notes how old each packet is, by the monotonic clock that its sender has written into it.
pub fn clock(ages: &Shared<u64>) -> OwnedFd {
    use Reg::*;
    use Size::*;
    let mut asm = Asm::default();
    let (pass, in_range) = (asm.label(), asm.label());
    marked(&mut asm, pass);
    asm.load(B8, R6, R2, at::TIME)
        .call(helper::KTIME_GET_NS)
        .alu_reg(Op::Sub, R0, R6)
        .alu(Op::Rsh, R0, STEP_SHIFT as i32)
        .jump_if(If::Less, R0, STEPS as i32, in_range)
        .set(R0, STEPS as i32 - 1)
        .here(in_range)
        .alu(Op::Lsh, R0, 3)
        .map_value(R5, ages.fd(), 0)
        .alu_reg(Op::Add, R5, R0)
        .load(B8, R4, R5, 0)
        .alu(Op::Add, R4, 1)
        .store(B8, R5, 0, R4)
        .set(R0, action::DROP)
        .exit()
        .here(pass)
        .set(R0, action::PASS)
        .exit();
    bpf::load_xdp("bench_clock", &asm.finish())
}

/// A host that does nothing but write the next hop's Ethernet addresses and send on: the least that
/// forwarding can cost.
pub fn redirect(target: &OwnedFd, to: Mac, from: Mac) -> OwnedFd {
    use Reg::*;
    use Size::*;
    let mut asm = Asm::default();
    let pass = asm.label();
    let first = u64::from_ne_bytes([to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1]]);
    asm.load(B4, R2, R1, 0)
        .load(B4, R3, R1, 4)
        .mov(R4, R2)
        .alu(Op::Add, R4, 34)
        .jump_if_reg(If::Greater, R4, R3, pass)
        .load(B2, R4, R2, at::ETHER_TYPE)
        .jump_if(If::NotEqual, R4, i32::from(0x0800u16.to_be()), pass)
        .set64(R4, first)
        .store(B8, R2, 0, R4)
        .store_imm(B4, R2, 8, i32::from_ne_bytes([from[2], from[3], from[4], from[5]]))
        .map(R1, target.as_raw_fd())
        .set(R2, 0)
        .set(R3, 0)
        .call(helper::REDIRECT_MAP)
        .exit()
        .here(pass)
        .set(R0, action::PASS)
        .exit();
    bpf::load_xdp("bench_redirect", &asm.finish())
}

/// As [`redirect`], but with what any NAT that keeps its flows in a hash map has to do besides: look the packet up in
/// `table`, count it there, and enter it with its answer where it is new.
pub fn lookup(table: &OwnedFd, target: &OwnedFd, to: Mac, from: Mac) -> OwnedFd {
    use Reg::*;
    use Size::*;
    /// Below the frame pointer: the key, the answer's key, an empty value.
    const KEY: i16 = -16;
    const ANSWER: i16 = -32;
    const VALUE: i16 = -96;
    const NO_EXIST: i32 = 1;
    let mut asm = Asm::default();
    let (pass, found, send) = (asm.label(), asm.label(), asm.label());
    let first = u64::from_ne_bytes([to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1]]);
    marked(&mut asm, pass);
    asm.mov(R6, R2)
        .load(B8, R4, R6, at::ADDRESSES)
        .store(B8, R10, KEY, R4)
        .load(B4, R4, R6, at::PORTS)
        .store(B4, R10, KEY + 8, R4)
        .store_imm(B4, R10, KEY + 12, 17)
        .map(R1, table.as_raw_fd())
        .mov(R2, R10)
        .alu(Op::Add, R2, i32::from(KEY))
        .call(helper::MAP_LOOKUP)
        .jump_if(If::NotEqual, R0, 0, found);
    for offset in (0..64).step_by(8) {
        asm.store_imm(B8, R10, VALUE + offset, 0);
    }
    asm.load(B4, R4, R6, at::ADDRESSES + 4)
        .store(B4, R10, ANSWER, R4)
        .load(B4, R4, R6, at::ADDRESSES)
        .store(B4, R10, ANSWER + 4, R4)
        .load(B2, R4, R6, at::PORTS + 2)
        .store(B2, R10, ANSWER + 8, R4)
        .load(B2, R4, R6, at::PORTS)
        .store(B2, R10, ANSWER + 10, R4)
        .store_imm(B4, R10, ANSWER + 12, 17);
    for key in [ANSWER, KEY] {
        asm.map(R1, table.as_raw_fd())
            .mov(R2, R10)
            .alu(Op::Add, R2, i32::from(key))
            .mov(R3, R10)
            .alu(Op::Add, R3, i32::from(VALUE))
            .set(R4, NO_EXIST)
            .call(helper::MAP_UPDATE);
    }
    // `R0` is a number here and a place where the entry was found.
    asm.set(R0, 0).jump_if(If::Equal, R0, 0, send);
    asm.here(found)
        .load(B8, R4, R0, 0)
        .alu(Op::Add, R4, 1)
        .store(B8, R0, 0, R4)
        .load(B8, R4, R0, 8)
        .alu(Op::Add, R4, i32::from(TOTAL_LENGTH))
        .store(B8, R0, 8, R4)
        .here(send)
        .set64(R4, first)
        .store(B8, R6, 0, R4)
        .store_imm(B4, R6, 8, i32::from_ne_bytes([from[2], from[3], from[4], from[5]]))
        .map(R1, target.as_raw_fd())
        .set(R2, 0)
        .set(R3, 0)
        .call(helper::REDIRECT_MAP)
        .exit()
        .here(pass)
        .set(R0, action::PASS)
        .exit();
    bpf::load_xdp("bench_lookup", &asm.finish())
}

/// What [`array()`] keeps of a flow: one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Line {
    /// Addresses, ports and protocol.
    pub key: [u64; 2],
    /// Packets and bytes.
    pub count: [u64; 2],
    /// What a NAT would have there besides.
    pub rest: [u64; 4],
}

/// As [`lookup`], but in a table that touches one cache line for each packet: an array whose place for a flow is its hash, and who
/// comes last has it. No NAT can be like this, since nothing keeps two flows, or two processors, apart; it shows what the memory
/// that a kernel hash map touches costs.
pub fn array(table: &Shared<Line>, target: &OwnedFd, to: Mac, from: Mac) -> OwnedFd {
    use Reg::*;
    use Size::*;
    /// An odd number near 2^63 / phi (Fibonacci hashing).
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut asm = Asm::default();
    let (pass, other, found) = (asm.label(), asm.label(), asm.label());
    let first = u64::from_ne_bytes([to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1]]);
    marked(&mut asm, pass);
    asm.mov(R6, R2)
        .load(B8, R7, R6, at::ADDRESSES)
        .load(B4, R8, R6, at::PORTS)
        .alu(Op::Add, R8, 17)
        .set64(R4, SPREAD)
        .mov(R5, R7)
        .alu_reg(Op::Mul, R5, R4)
        .alu_reg(Op::Xor, R5, R8)
        .alu_reg(Op::Mul, R5, R4)
        .alu(Op::Rsh, R5, 64 - LINES.trailing_zeros() as i32)
        .alu(Op::And, R5, LINES as i32 - 1)
        .alu(Op::Lsh, R5, size_of::<Line>().trailing_zeros() as i32)
        .map_value(R9, table.fd(), 0)
        .alu_reg(Op::Add, R9, R5)
        .load(B8, R4, R9, 0)
        .jump_if_reg(If::NotEqual, R4, R7, other)
        .load(B8, R4, R9, 8)
        .jump_if_reg(If::Equal, R4, R8, found)
        .here(other)
        .store(B8, R9, 0, R7)
        .store(B8, R9, 8, R8)
        .here(found)
        .load(B8, R4, R9, 16)
        .alu(Op::Add, R4, 1)
        .store(B8, R9, 16, R4)
        .load(B8, R4, R9, 24)
        .alu(Op::Add, R4, i32::from(TOTAL_LENGTH))
        .store(B8, R9, 24, R4)
        .set64(R4, first)
        .store(B8, R6, 0, R4)
        .store_imm(B4, R6, 8, i32::from_ne_bytes([from[2], from[3], from[4], from[5]]))
        .map(R1, target.as_raw_fd())
        .set(R2, 0)
        .set(R3, 0)
        .call(helper::REDIRECT_MAP)
        .exit()
        .here(pass)
        .set(R0, action::PASS)
        .exit();
    bpf::load_xdp("bench_array", &asm.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, Sums};

    #[test]
    fn templates_are_sound_packets() {
        for number in [0, 1, 0xffff, 0x1_2345, 999_999] {
            let template = Template::new(number, ([10, 2, 0, 7], 40000), ([198, 18, 0, 9], 443));
            let bytes = template.packet(number);
            let packet = Packet::new(&bytes).expect("an IPv4 packet");
            packet.verify(Sums::Complete).unwrap_or_else(|wrong| panic!("{packet:?}: {wrong}"));
            let bytes = stamped(bytes.clone(), 0x0123_4567_89ab_cdef + u64::from(number));
            let packet = Packet::new(&bytes).expect("an IPv4 packet");
            packet.verify(Sums::Complete).unwrap_or_else(|wrong| panic!("{packet:?}: {wrong}"));
        }
    }
}
