//! Pods: clients in a namespace of their own, which speak to the vendor from ports of their choice.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::link::Mac;
use crate::netns::Namespace;
use crate::packet::Packet;
use crate::patience::patient;
use crate::raw::RawSender;
use crate::sockets::{PATIENCE, icmp, readable, tcp_connect, udp_connect};
use crate::vendor;

/// A client behind the NAT.
pub struct Pod {
    /// Its namespace; its one device is `eth0`.
    pub ns: Namespace,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its gateway's Ethernet address.
    pub gateway: Mac,
}

/// What the vendor's HTTP server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpReply {
    /// Status code.
    pub status: u16,
    /// The address and port that the vendor saw.
    pub seen: SocketAddrV4,
    /// From the first SYN to the last byte.
    pub took: Duration,
}

/// What a train of pings came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub received: u32,
}

impl PingReport {
    /// Requests without answer.
    pub fn lost(&self) -> u32 {
        self.sent - self.received
    }
}

impl Pod {
    /// The name for messages.
    pub fn name(&self) -> &str {
        self.ns.name()
    }

    /// Gets `path` from the vendor's HTTP server, from `port` (0: any).
    pub fn http_get(&self, port: u16, to: Ipv4Addr, path: &str) -> io::Result<HttpReply> {
        self.http_get_within(PATIENCE, port, to, path)
    }

    /// As [`Pod::http_get`], giving up after `patience`.
    pub fn http_get_within(
        &self,
        patience: Duration,
        port: u16,
        to: Ipv4Addr,
        path: &str,
    ) -> io::Result<HttpReply> {
        self.ns.enter(|| {
            let start = Instant::now();
            let mut stream = tcp_connect(port, SocketAddrV4::new(to, vendor::HTTP), patience)?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let bad =
                || io::Error::new(io::ErrorKind::InvalidData, format!("not the vendor's answer: {answer:?}"));
            let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(bad)?;
            let seen = answer.lines().last().and_then(|line| line.parse().ok()).ok_or_else(bad)?;
            Ok(HttpReply { status, seen, took: start.elapsed() })
        })
    }

    /// Sends `data` to the vendor's UDP echo from `port` (0: any) and returns the address and port that the
    /// vendor saw. Sends once only: a lost packet is an error.
    pub fn udp_exchange(&self, port: u16, to: Ipv4Addr, data: &[u8]) -> io::Result<SocketAddrV4> {
        self.udp_exchange_within(PATIENCE, port, to, data)
    }

    /// As [`Pod::udp_exchange`], giving up after `patience`.
    pub fn udp_exchange_within(
        &self,
        patience: Duration,
        port: u16,
        to: Ipv4Addr,
        data: &[u8],
    ) -> io::Result<SocketAddrV4> {
        self.ns.enter(|| {
            let socket = udp_connect(port, SocketAddrV4::new(to, vendor::ECHO), patience)?;
            socket.send(data)?;
            let mut answer = vec![0; 1 << 16];
            let length = socket.recv(&mut answer)?;
            let mut parts = answer[..length].splitn(2, |byte| *byte == b' ');
            let seen = parts.next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
            match (seen, parts.next()) {
                (Some(seen), Some(rest)) if rest == data => Ok(seen),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not what was sent")),
            }
        })
    }

    /// Runs the real `ping`. `id` is the ICMP identifier.
    pub fn ping(&self, to: Ipv4Addr, count: u32, id: u16) -> PingReport {
        let output = self.ns.try_run(&format!(
            "ping -n -q -c {count} -i 0.01 -W {} -e {id} {to}",
            patient(Duration::from_secs(1)).as_secs()
        ));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |before: &str| -> Option<u32> {
            text.lines().find_map(|line| line.split(before).next()?.rsplit([' ', ',']).next()?.parse().ok())
        };
        match (number(" packets transmitted"), number(" received")) {
            (Some(sent), Some(received)) => PingReport { sent, received },
            _ => panic!("ping in {}: {text}{}", self.name(), String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// Traces the way to an address as traceroute does: UDP with a TTL of 1, 2, … and the addresses that the
    /// errors come from, until the address itself answers. `None` stands for a silent hop.
    pub fn traceroute(&self, to: Ipv4Addr, max: u32) -> Vec<Option<Ipv4Addr>> {
        self.ns.enter(|| {
            let listener = icmp().expect("a raw ICMP socket");
            let mut hops = Vec::new();
            for ttl in 1..=max {
                // Three probes for each hop, as traceroute sends them.
                let hop = (0..3).find_map(|_| {
                    let port = 33434 + ttl as u16;
                    let probe = udp_connect(0, SocketAddrV4::new(to, port), PATIENCE).expect("a UDP socket");
                    let from = probe.local_addr().expect("an own address").port();
                    probe.set_ttl(ttl).expect("a TTL");
                    probe.send(b"traceroute probe").expect("send a probe");
                    answer_to(&listener, (self.address, from), (to, port))
                });
                hops.push(hop);
                if hop == Some(to) {
                    break;
                }
            }
            hops
        })
    }

    /// A sender of crafted packets, through the pod's device to its gateway.
    pub fn raw(&self) -> RawSender {
        RawSender::new(&self.ns, "eth0", self.gateway)
    }
}

/// Where an ICMP error came from that quotes a UDP packet exactly as it was sent.
fn answer_to(listener: &socket2::Socket, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Option<Ipv4Addr> {
    let until = Instant::now() + patient(Duration::from_secs(1));
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        if !readable(listener, left) {
            break;
        }
        let mut buffer = [0; 2048];
        let length = (&mut &*listener).read(&mut buffer).expect("read an ICMP message");
        let Some(packet) = Packet::new(&buffer[..length]) else { continue };
        let Some(quoted) = packet.quoted() else { continue };
        if (quoted.source(), quoted.destination()) == (from.0, to.0) && quoted.ports() == Some((from.1, to.1))
        {
            return Some(packet.source());
        }
    }
    None
}
