//! Fuzz targets: what a stranger's bytes must never bring about in the code that the BPF programs run.
//!
//! [`hooks`] plays a life: packets, wanted and unwanted, out and back, with time between them, through every hook.
//! [`quotes`] puts arbitrary bytes where an ICMP error quotes a packet. Both run under libFuzzer (`cargo fuzz`) and
//! under [`driver`], which is guided by coverage too and needs no nightly compiler.

pub mod driver;
mod input;
mod judge;
mod template;

#[path = "../../vpnat-common/tests/engine/frame.rs"]
#[allow(dead_code, reason = "shared with the engine's tests, which use all of it")]
mod frame;
#[path = "../../vpnat-common/tests/engine/life.rs"]
#[allow(dead_code, reason = "as above")]
mod life;
#[path = "../../vpnat-common/tests/engine/tables.rs"]
#[allow(dead_code, reason = "as above")]
mod tables;
#[path = "../../vpnat-common/tests/engine/wire.rs"]
#[allow(dead_code, reason = "as above")]
mod wire;

use vpnat_common::addr::Port;
use vpnat_common::layout::vendor::flag;

use input::Input;
use life::{PATHS, Path};
use tables::{EGRESS, World};
use template::Memory;
use wire::{End, echo, finished, tcp, udp};

/// Steps of one life: enough for every state of a connection, few enough for thousands of lives a second.
const STEPS: usize = 48;

/// A life of packets, as `data` tells it.
///
/// # Panics
/// If a packet breaks a rule.
pub fn hooks(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    let mut memory = Memory::default();
    for _ in 0..STEPS {
        let Some(code) = input.byte() else { break };
        let path = PATHS[usize::from(code >> 7)];
        match code & 0x0f {
            0 => world.now = world.now.wrapping_add(u32::from(input.word()) / 4),
            1 => world.neighbours = code & 0x10 != 0,
            2 => world.policy.flags ^= flag::TCP_PICK_UP,
            3 => world.room = if code & 0x10 != 0 { usize::from(code >> 5 & 3) * 2 } else { 1 << 20 },
            4 => {
                let (low, high) = if code & 0x10 != 0 { (40000, 40001) } else { (1024, 65535) };
                (world.policy.port_min, world.policy.port_max) = (Port::new(low), Port::new(high));
            }
            5 => {
                let length = usize::from(input.byte().unwrap_or(0));
                step(&mut world, path, code & 0x10 != 0, input.take(length), &mut memory);
            }
            _ => {
                let (outbound, packet) = memory.packet(&mut input);
                step(&mut world, path, outbound, &packet, &mut memory);
            }
        }
    }
    judge::table(&mut world);
}

fn step(world: &mut World, path: Path, outbound: bool, packet: &[u8], memory: &mut Memory) {
    let (outcome, found) = if outbound { world.out(path, packet) } else { world.back(path, packet) };
    judge::packet(path, outbound, packet, outcome, &found);
    judge::guard(world, packet);
    memory.remember(outbound, packet, outcome, &found);
}

/// An ICMP error whose quote is a flow's packet with `data` laid over it, from outside and from inside.
///
/// # Panics
/// If a packet breaks a rule.
pub fn quotes(data: &[u8]) {
    let mut input = Input::new(data);
    let head = [input.byte(), input.byte(), input.byte(), input.byte()].map(|byte| byte.unwrap_or(0));
    let [choice, kind, rest, cut] = head;
    let mut world = World::new();
    let (pod, server): (End, End) = ((life::pod(1), 40000), (life::server(10), 443));
    let public: End = (EGRESS, 40000);
    let (sent, answer) = match choice % 3 {
        0 => (tcp(pod, server, 2, (7, 0), &[0x5a; 30]), tcp(server, public, 18, (9, 8), &[0x5a; 30])),
        1 => (udp(pod, server, &[0x5a; 30]), udp(server, public, &[0x5a; 30])),
        _ => {
            (echo(8, pod.0, server.0, pod.1, &[0x5a; 30]), echo(0, server.0, public.0, public.1, &[0x5a; 30]))
        }
    };
    let (_, seen) = world.out(Path::Tc, &sent);
    let (_, arrived) = world.back(Path::Tc, &answer);
    let before = world.table();
    for (outbound, quoted) in [(false, &seen), (true, &arrived)] {
        let mut quote = quoted.clone();
        let mut changes = input;
        while let (Some(place), Some(value)) = (changes.byte(), changes.byte()) {
            let place = usize::from(place);
            if place >= quote.len() {
                quote.extend(changes.take(usize::from(value)));
            } else {
                quote[place] = value;
            }
        }
        if choice & 0x80 != 0 && quote.len() >= 20 {
            quote = template::with_header_checksum(quote);
        }
        if cut != 0 {
            quote.truncate(usize::from(cut));
        }
        let (from, to) = if outbound { (pod.0, server.0) } else { (server.0, EGRESS) };
        let mut error = echo([3, 11, 12, 4, 5, 8][usize::from(kind % 6)], from, to, 0, &quote);
        error[21] = kind / 6;
        error[25] = rest;
        let error = if choice & 0x40 != 0 { error } else { finished(error) };
        for path in PATHS {
            let (outcome, found) = if outbound { world.out(path, &error) } else { world.back(path, &error) };
            judge::packet(path, outbound, &error, outcome, &found);
        }
    }
    if kind % 6 < 3 {
        assert_eq!(world.table(), before, "an error neither makes, renews nor ends a flow");
    }
}
