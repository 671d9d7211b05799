//! The cases: everyday traffic, and what a NAT may do in its own way.

use tests::packet::{self, TCP, UDP, echo_request, icmp, ipv4, tcp, udp};
use tests::topology::EGRESS;

use super::Results;
use super::bench::{Bench, HOST, HOST_2, SERVER, TRANSIT};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The packet with other bytes at `at` and its header checksum right.
fn patched(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = packet::checksum(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let mut packet = [&packet[..20], options, &packet[20..]].concat();
    packet[0] += (options.len() / 4) as u8;
    let total = (packet.len() as u16).to_be_bytes();
    patched(packet, 2, &total)
}

/// The datagram in parts of 512 bytes.
fn parts(datagram: &[u8], id: u16) -> Vec<Vec<u8>> {
    let payload = &datagram[20..];
    let count = payload.len().div_ceil(512);
    let part = |(number, bytes): (usize, &[u8])| {
        let mut part = [&datagram[..20], bytes].concat();
        let total = (part.len() as u16).to_be_bytes();
        part[2..4].copy_from_slice(&total);
        let more = if number + 1 < count { 0x2000 } else { 0 };
        part[6..8].copy_from_slice(&(more | (number as u16 * 64)).to_be_bytes());
        patched(part, 4, &id.to_be_bytes())
    };
    payload.chunks(512).enumerate().map(part).collect()
}

/// Runs every case, each with ports of its own.
pub fn run(bench: &Bench) -> Results {
    let mut results = Results::new();
    datagrams(bench, &mut results);
    connections(bench, &mut results);
    queries(bench, &mut results);
    errors(bench, &mut results);
    odd(bench, &mut results);
    results
}

fn datagrams(bench: &Bench, results: &mut Results) {
    let (pod, rival, server) = ((HOST, 40000), (HOST_2, 40000), (SERVER, 443));
    results.insert("UDP: a datagram", bench.out(&[udp(pod, server, 64, b"question")]));
    results.insert("UDP: its answer", bench.back(&[udp(server, (EGRESS, 40000), 64, b"answer")]));
    results.insert("UDP: another pod from the same port", bench.out(&[udp(rival, server, 64, b"question")]));
    let public = (EGRESS, bench.public());
    results.insert("UDP: the other pod's answer", bench.back(&[udp(server, public, 64, b"answer")]));
    results.insert(
        "UDP: the first pod's answer again",
        bench.back(&[udp(server, (EGRESS, 40000), 64, b"answer")]),
    );
    results.insert(
        "UDP: from another port of the server",
        bench.back(&[udp((SERVER, 444), public, 64, b"answer")]),
    );
    results.insert("UDP: unsolicited", bench.back(&[udp(server, (EGRESS, 40010), 64, b"surprise")]));
    let tos = patched(udp(pod, server, 64, b"question"), 1, &[0xb8]);
    results.insert("UDP: DSCP", bench.out(&[tos]));
    let mut none = udp(pod, server, 64, b"question");
    none[26..28].fill(0);
    results.insert("UDP: without checksum", bench.out(&[none]));
    results.insert("UDP: from a low port", bench.out(&[udp((HOST, 700), server, 64, b"question")]));
    results.insert("UDP: from port 0", bench.out(&[udp((HOST, 0), server, 64, b"question")]));
    results.insert("UDP: to port 0", bench.out(&[udp((HOST, 40003), (SERVER, 0), 64, b"question")]));
    let large = udp((HOST, 40004), server, 64, &[7; 1400]);
    results.insert("parts in order", bench.out(&parts(&large, 77)));
    let mut back = parts(&udp(server, (EGRESS, 40004), 64, &[7; 1400]), 78);
    results.insert("parts of the answer in order", bench.back(&back));
    back.swap(0, 2);
    let mut out = parts(&large, 79);
    out.reverse();
    results.insert("parts in reverse", bench.out(&out));
    for part in &mut back {
        *part = patched(part.clone(), 4, &[0, 80]);
    }
    results.insert("parts of the answer in another order", bench.back(&back));
    results.insert("a part without its first", bench.out(&parts(&large, 81)[1..2]));
}

fn connections(bench: &Bench, results: &mut Results) {
    let (pod, server, public) = ((HOST, 40005), (SERVER, 443), (EGRESS, 40005));
    let out = |flags, numbers, data: &[u8]| bench.out(&[tcp(pod, server, flags, numbers, data)]);
    let back = |flags, numbers, data: &[u8]| bench.back(&[tcp(server, public, flags, numbers, data)]);
    results.insert("TCP: 1 SYN", out(SYN, (100, 0), b""));
    results.insert("TCP: 2 SYN-ACK", back(SYN | ACK, (500, 101), b""));
    results.insert("TCP: 3 ACK", out(ACK, (101, 501), b""));
    results.insert("TCP: 4 data", out(ACK, (101, 501), b"question"));
    results.insert("TCP: 5 data back", back(ACK, (501, 109), b"answer"));
    results.insert("TCP: 6 a reset out of window", back(RST, (501 + 900_000, 0), b""));
    results.insert("TCP: 7 data after it", out(ACK, (109, 507), b"more"));
    results.insert("TCP: 8 FIN", out(FIN | ACK, (113, 507), b""));
    results.insert("TCP: 9 data to the half closed", back(ACK, (507, 114), b"rest"));
    results.insert("TCP: 10 FIN back", back(FIN | ACK, (511, 114), b""));
    results.insert("TCP: 11 last ACK", out(ACK, (114, 512), b""));
    results.insert("TCP: 12 a new SYN on the same ports", out(SYN, (70_000, 0), b""));
    let (pod, public) = ((HOST, 40006), (EGRESS, 40006));
    results.insert("TCP: simultaneous open 1", bench.out(&[tcp(pod, server, SYN, (100, 0), b"")]));
    results.insert("TCP: simultaneous open 2", bench.back(&[tcp(server, public, SYN, (500, 0), b"")]));
    results.insert("TCP: simultaneous open 3", bench.out(&[tcp(pod, server, SYN | ACK, (100, 501), b"")]));
    let (pod, public) = ((HOST, 40007), (EGRESS, 40007));
    bench.out(&[tcp(pod, server, SYN, (100, 0), b"")]);
    bench.back(&[tcp(server, public, SYN | ACK, (500, 101), b"")]);
    bench.out(&[tcp(pod, server, ACK, (101, 501), b"")]);
    results.insert("TCP: a reset in window", bench.back(&[tcp(server, public, RST, (501, 0), b"")]));
    results.insert(
        "TCP: life after a reset, from the pod",
        bench.out(&[tcp(pod, server, ACK, (101, 501), b"")]),
    );
    results.insert("TCP: and from the vendor", bench.back(&[tcp(server, public, ACK, (501, 101), b"")]));
    results.insert("TCP: an unsolicited SYN", bench.back(&[tcp(server, (EGRESS, 40011), SYN, (1, 0), b"")]));
    for (name, port, flags) in [
        ("TCP: ACK without a connection", 40012, ACK),
        ("TCP: FIN without a connection", 40013, FIN | ACK),
        ("TCP: RST without a connection", 40014, RST),
        ("TCP: SYN-ACK without a connection", 40015, SYN | ACK),
        ("TCP: no flags at all", 40016, 0),
    ] {
        results.insert(name, bench.out(&[tcp((HOST, port), server, flags, (101, 501), b"")]));
    }
    let mut wrong = tcp((HOST, 40017), server, SYN, (100, 0), b"");
    wrong[36] ^= 0x55;
    results.insert("TCP: a wrong checksum", bench.out(&[wrong]));
}

fn queries(bench: &Bench, results: &mut Results) {
    results.insert("echo: a request", bench.out(&[echo_request(HOST, SERVER, 40000, 1)]));
    let reply =
        |id: u16| icmp(SERVER, EGRESS, (0, 0), [(id >> 8) as u8, id as u8, 0, 1], b"abcdefghijklmnop");
    results.insert("echo: its reply", bench.back(&[reply(40000)]));
    results.insert(
        "echo: another pod with the same identifier",
        bench.out(&[echo_request(HOST_2, SERVER, 40000, 1)]),
    );
    results.insert("echo: the other pod's reply", bench.back(&[reply(bench.public())]));
    results.insert("echo: an unsolicited reply", bench.back(&[reply(40018)]));
    results.insert(
        "echo: from the vendor to the egress address",
        bench.back(&[echo_request(SERVER, EGRESS, 40019, 1)]),
    );
    for (name, kind) in [
        ("ICMP: timestamp", 13),
        ("ICMP: information request", 15),
        ("ICMP: address mask request", 17),
        ("ICMP: router solicitation", 10),
        ("ICMP: type 40", 40),
        ("ICMP: an echo reply to nobody", 0),
    ] {
        results.insert(name, bench.out(&[icmp(HOST, SERVER, (kind, 0), [0x9c, 0x41, 0, 1], &[0; 12])]));
    }
}

fn errors(bench: &Bench, results: &mut Results) {
    let (pod, server, public) = ((HOST, 40008), (SERVER, 443), (EGRESS, 40008));
    bench.out(&[udp(pod, server, 64, b"question")]);
    bench.back(&[udp(server, public, 64, b"answer")]);
    let seen = udp(public, server, 62, b"question");
    let about = |from, kind, rest, quote: &[u8]| icmp(from, EGRESS, kind, rest, quote);
    for (name, kind, rest) in [
        ("error: port unreachable", (3, 3), [0; 4]),
        ("error: fragmentation needed", (3, 4), [0, 0, 5, 0x14]),
        ("error: time exceeded", (11, 0), [0; 4]),
        ("error: parameter problem", (12, 0), [20, 0, 0, 0]),
        ("error: source quench", (4, 0), [0; 4]),
        ("error: redirect", (5, 1), [10, 0, 1, 1]),
    ] {
        results.insert(name, bench.back(&[about(SERVER, kind, rest, &seen)]));
    }
    results
        .insert("error: from a transit router", bench.on_the_way(&[about(TRANSIT, (11, 0), [0; 4], &seen)]));
    results.insert(
        "error: eight bytes quoted",
        bench.on_the_way(&[about(TRANSIT, (11, 0), [0; 4], &seen[..28])]),
    );
    let options = with_options(&seen, &[1, 1, 1, 1]);
    results.insert(
        "error: options in the quote",
        bench.on_the_way(&[about(TRANSIT, (11, 0), [0; 4], &options)]),
    );
    let mut wrong = about(SERVER, (3, 3), [0; 4], &seen);
    wrong[22] ^= 0x55;
    results.insert("error: a wrong checksum", bench.back(&[wrong]));
    let stray = udp((EGRESS, 40009), server, 62, b"question");
    results.insert("error: about no flow", bench.back(&[about(SERVER, (3, 3), [0; 4], &stray)]));
    let arrived = udp(server, pod, 62, b"answer");
    results.insert("error: from the pod", bench.out(&[icmp(HOST, SERVER, (3, 3), [0; 4], &arrived)]));
    let stray = udp(server, (HOST, 40009), 62, b"answer");
    results.insert(
        "error: from the pod about no flow",
        bench.out(&[icmp(HOST, SERVER, (3, 3), [0; 4], &stray)]),
    );
    results.insert("after all errors, an answer", bench.back(&[udp(server, public, 64, b"answer")]));
}

fn odd(bench: &Bench, results: &mut Results) {
    let packet = udp((HOST, 40001), (SERVER, 443), 64, b"question");
    results.insert("TTL 1", bench.out(&[patched(packet.clone(), 8, &[1])]));
    results.insert("TTL 2", bench.out(&[patched(packet.clone(), 8, &[2])]));
    results.insert("options: router alert", bench.out(&[with_options(&packet, &[148, 4, 0, 0])]));
    results.insert("options: record route", bench.out(&[with_options(&packet, &[7, 7, 4, 0, 0, 0, 0, 0])]));
    results.insert("options: timestamp", bench.out(&[with_options(&packet, &[68, 8, 5, 0, 0, 0, 0, 0])]));
    let route = with_options(&packet, &[131, 7, 8, 10, 0, 1, 1, 0]);
    results.insert("options: a source route, used up", bench.out(&[route]));
    let mut bad = packet.clone();
    bad[10] ^= 0x55;
    results.insert("a wrong header checksum", bench.out(&[bad]));
    results.insert("a UDP length beyond the packet", bench.out(&[patched(packet, 24, &[0, 99])]));
    for (name, protocol) in [("protocol: SCTP", 132), ("protocol: ESP", 50), ("protocol: 253", 253)] {
        results.insert(name, bench.out(&[ipv4(HOST, SERVER, protocol, 64, &[0x5a; 40])]));
    }
    results.insert("TCP cut short", bench.out(&[ipv4(HOST, SERVER, TCP, 64, &[0x9c; 12])]));
    results.insert("UDP cut short", bench.out(&[ipv4(HOST, SERVER, UDP, 64, &[0x9c; 6])]));
}
