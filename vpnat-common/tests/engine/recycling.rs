//! Short connections of many pods to one endpoint, for longer than the ports last: the far end must take every one, as
//! Linux does (`tcp_timewait_state_process`), and no port may be in use twice.

use std::collections::{HashMap, VecDeque};

use vpnat_common::addr::Port;
use vpnat_common::layout::outcome::Outcome;

use crate::life::{Path, pod, server};
use crate::tables::{EGRESS, World};
use crate::wire::{End, finished, source, tcp};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

const PODS: u32 = 16;
const RATE: u32 = 400;
/// Ports, a fifth of the connections at most.
const PORTS: (u16, u16) = (30_000, 33_999);
/// Linux' TIME-WAIT, seconds.
const TIME_WAIT: u32 = 60;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Ending {
    /// The pod closes first.
    Client,
    /// The server closes first, and remembers.
    Server,
    /// The pod resets.
    Reset,
}

/// What the server remembers of a port.
#[derive(Clone, Copy, Debug)]
enum Memory {
    Open,
    TimeWait { until: u32, stamp: u32, next: u32 },
}

#[derive(Clone, Copy)]
struct Connection {
    pod: End,
    public: End,
    isn: u32,
    number: u32,
}

struct Play {
    world: World,
    ending: Ending,
    timestamps: bool,
    memory: HashMap<u16, Memory>,
    open: VecDeque<Connection>,
    next_port: [u16; PODS as usize],
    refused: u32,
    rejected: u32,
    chance: u32,
}

/// A segment with a timestamp, or without.
fn segment(from: End, to: End, flags: u8, numbers: (u32, u32), stamp: Option<u32>) -> Vec<u8> {
    let Some(stamp) = stamp else { return tcp(from, to, flags, numbers, b"") };
    let options = [&[1, 1, 8, 10][..], &stamp.to_be_bytes(), &[0; 4]].concat();
    let mut packet = tcp(from, to, flags, numbers, &options);
    packet[32] = 0x80;
    finished(packet)
}

impl Play {
    fn new(ending: Ending, timestamps: bool) -> Self {
        let mut world = World::new();
        (world.policy.port_min, world.policy.port_max) = (Port::new(PORTS.0), Port::new(PORTS.1));
        Self {
            world,
            ending,
            timestamps,
            memory: HashMap::new(),
            open: VecDeque::new(),
            next_port: [32_768; PODS as usize],
            refused: 0,
            rejected: 0,
            chance: 1,
        }
    }

    fn random(&mut self) -> u32 {
        self.chance = self.chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.chance ^ (self.chance >> 15)
    }

    /// Milliseconds, with an offset of the pod's own.
    fn stamp(&self, pod: u32, number: u32) -> Option<u32> {
        let clock = self.world.now * 1000 + number % RATE * 1000 / RATE;
        self.timestamps.then(|| clock.wrapping_add(pod.wrapping_mul(0x1357_9bdf)))
    }

    fn connect(&mut self, number: u32) {
        let place = number % PODS;
        let port = &mut self.next_port[place as usize];
        *port = if *port >= 60_999 { 32_768 } else { *port + 1 };
        let from = (pod(place as u8 + 1), *port);
        let remote = (server(10), 443);
        let isn = self.random();
        let stamp = self.stamp(place, number);
        let (outcome, found) = self.world.out(Path::Xdp, &segment(from, remote, SYN, (isn, 0), stamp));
        if outcome != Outcome::Outbound {
            assert_eq!(outcome, Outcome::PortsExhausted);
            self.refused += 1;
            return;
        }
        let public = (EGRESS, source(&found).1);
        match self.memory.get(&public.1) {
            Some(Memory::Open) => panic!("port {} of an open connection was given away", public.1),
            Some(Memory::TimeWait { until, stamp: last, next }) if *until > self.world.now => {
                let takes = match stamp {
                    Some(stamp) => stamp.wrapping_sub(*last) as i32 > 0,
                    None => isn.wrapping_sub(*next) as i32 > 0,
                };
                if !takes {
                    self.rejected += 1;
                    return;
                }
            }
            _ => {}
        }
        self.memory.insert(public.1, Memory::Open);
        let connection = Connection { pod: from, public, isn, number };
        self.server(connection, SYN | ACK, 500, isn + 1);
        self.client(connection, ACK, 1, 501);
        self.open.push_back(connection);
    }

    fn client(&mut self, connection: Connection, flags: u8, ahead: u32, ack: u32) {
        let Connection { pod, isn, number, .. } = connection;
        let stamp = self.stamp(number % PODS, number);
        let packet = segment(pod, (server(10), 443), flags, (isn.wrapping_add(ahead), ack), stamp);
        assert_eq!(self.world.out(Path::Xdp, &packet).0, Outcome::Outbound);
    }

    fn server(&mut self, connection: Connection, flags: u8, seq: u32, ack: u32) {
        let stamp = self.timestamps.then_some(self.world.now);
        let packet = segment((server(10), 443), connection.public, flags, (seq, ack), stamp);
        assert_eq!(self.world.back(Path::Xdp, &packet).0, Outcome::Inbound);
    }

    fn close(&mut self) {
        let Some(connection) = self.open.pop_front() else { return };
        let Connection { public, isn, number, .. } = connection;
        let seen = |ahead| isn.wrapping_add(ahead);
        self.memory.remove(&public.1);
        match self.ending {
            Ending::Client => {
                self.client(connection, FIN | ACK, 1, 501);
                self.server(connection, FIN | ACK, 501, seen(2));
                self.client(connection, ACK, 2, 502);
            }
            Ending::Server => {
                self.server(connection, FIN | ACK, 501, seen(1));
                self.client(connection, FIN | ACK, 1, 502);
                self.server(connection, ACK, 502, seen(2));
                let stamp = self.stamp(number % PODS, number).unwrap_or_default();
                let until = self.world.now + TIME_WAIT;
                self.memory.insert(public.1, Memory::TimeWait { until, stamp, next: seen(2) });
            }
            Ending::Reset => self.client(connection, RST, 1, 0),
        }
    }

    fn run(&mut self, seconds: u32) {
        for number in 0..seconds * RATE {
            if number % RATE == 0 {
                self.world.now += 1;
            }
            self.connect(number);
            if self.open.len() > 64 {
                self.close();
            }
        }
    }
}

/// RFC 6056 section 2.3, RFC 6191: five times as many connections as there are ports within one TIME-WAIT, none refused
/// here and none by the server.
#[test]
fn rfc6191_row_8_5_ports_are_used_again_at_once() {
    for (ending, timestamps) in [(Ending::Client, true), (Ending::Server, true), (Ending::Client, false)] {
        let mut play = Play::new(ending, timestamps);
        play.run(50);
        assert_eq!((play.refused, play.rejected), (0, 0), "{ending:?}, timestamps {timestamps}");
    }
}

/// Without timestamps the sequence number decides, which is as good as chance: fewer ports are fit, none is misjudged.
#[test]
fn rfc1122_4_2_2_13_without_timestamps_the_sequence_number_decides() {
    let mut play = Play::new(Ending::Server, false);
    play.run(40);
    assert_eq!(play.rejected, 0);
    assert!(play.refused < 40 * RATE / 500, "{} refused", play.refused);
}

/// RFC 7857 section 2.2: what a reset has ended is kept, until nothing else is left.
#[test]
fn rfc7857_2_2_a_reset_connection_is_the_last_resort() {
    let mut play = Play::new(Ending::Reset, true);
    play.run(8);
    // No port has been given away yet: every one that was used still speaks for its connection.
    let kept = play.world.table().len() / 2;
    assert_eq!(kept as u32, 8 * RATE);
    play.run(20);
    assert_eq!(play.refused, 0);
}
