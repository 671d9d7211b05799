//! Pods are told that their packets are refused; the vendor sees nothing of it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use tests::agent::Agent;
use tests::capture::Way;
use tests::packet::{self, ICMP};
use tests::pod::Pod;
use tests::sockets::{PATIENCE, tcp_connect};
use tests::topology::{Shape, Topology, VENDOR};
use tests::vendor;

use crate::setting::Setting;

const SETTINGS: [Setting; 6] = [
    Setting::tc(Shape::TwoArm),
    Setting::tc_complete(Shape::TwoArm),
    Setting::xdp(Shape::TwoArm),
    Setting::tc(Shape::SingleArm),
    Setting::tc(Shape::Tun),
    Setting::xdp(Shape::Tun),
];

/// Runs `scenario` in each setting, with these lines in the configuration.
fn each(datapath: &str, vendor: &str, scenario: impl Fn(&Topology<'_>, &Agent<'_>)) {
    for setting in SETTINGS {
        println!("{setting:?}");
        setting.run_before_start(|lab, agent| {
            let text = std::fs::read_to_string(agent.file()).expect("the configuration");
            let text = text
                .replace("[datapath]\n", &format!("[datapath]\n{datapath}\n"))
                .replace("name = \"vendor-a\"\n", &format!("name = \"vendor-a\"\n{vendor}\n"));
            std::fs::write(agent.file(), text).expect("write the configuration");
            agent.start();
            scenario(lab, agent);
        });
    }
}

fn unreachable<T: std::fmt::Debug>(result: io::Result<T>, start: Instant) {
    let error = result.expect_err("it was refused");
    assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
    assert!(start.elapsed() < PATIENCE, "told after {:?}", start.elapsed());
}

/// Codes of the "unreachable" messages that came to a pod from its gateway.
fn codes(lab: &Topology<'_>, pod: usize, gateway: Ipv4Addr) -> Vec<u8> {
    let capture = lab.watch.pod(pod);
    capture.settle();
    let of = |packet: &tests::capture::Captured| {
        let ip = packet.ipv4().filter(|ip| packet.way == Way::In && ip.protocol() == ICMP)?;
        let (kind, code) = ip.icmp_type()?;
        (kind == 3 && ip.source() == gateway).then_some(code)
    };
    capture.packets().iter().filter_map(of).collect()
}

/// The instance's address towards the pods.
fn inside_address(lab: &Topology<'_>) -> Ipv4Addr {
    let device = if lab.shape == Shape::SingleArm { "eth0" } else { "eth1" };
    let text = lab.nat.run(&format!("ip -4 -o addr show dev {device}"));
    let word = text.split_whitespace().skip_while(|word| *word != "inet").nth(1).expect("an address");
    word.split('/').next().and_then(|word| word.parse().ok()).expect("an IPv4 address")
}

fn connect(pod: &Pod) -> io::Result<std::net::TcpStream> {
    pod.ns.enter(|| tcp_connect(0, SocketAddrV4::new(VENDOR, vendor::HTTP), PATIENCE))
}

#[test]
fn rfc6888_req11_a_pod_without_a_port_is_told() {
    each("", "ports = \"50000-50000\"", |lab, agent| {
        let kept = connect(&lab.pods[0]).expect("the one port's connection");
        lab.watch.vendor(0).settle();
        let before = lab.watch.vendor(0).count();
        let start = Instant::now();
        unreachable(connect(&lab.pods[1]), start);
        assert_eq!(codes(lab, 1, inside_address(lab)), [1]);
        lab.watch.vendor(0).settle();
        assert_eq!(lab.watch.vendor(0).count(), before, "the vendor saw something");
        let sent = agent.metric("vpnat_refusal_answers_total", &["state=\"sent\""]);
        assert_eq!(sent, 1.0, "{}", agent.metrics());
        drop(kept);
    });
}

#[test]
fn rfc5508_req8_a_stranger_is_told() {
    each("", "", |lab, _| {
        let start = Instant::now();
        unreachable(connect(&lab.stranger), start);
        let start = Instant::now();
        unreachable(lab.stranger.udp_exchange(0, VENDOR, b"let me in"), start);
        assert_eq!(codes(lab, 3, inside_address(lab)), [13, 13]);
        let came = lab.watch.vendor(0).matching(|packet| packet.way == Way::In && packet.ipv4().is_some());
        assert!(came.is_empty(), "the vendor received {came:?}");
    });
}

#[test]
fn rfc5508_req10f_a_flood_of_refusals_gets_few_answers() {
    const RATE: u64 = 20;
    const FLOOD: u16 = 10_000;
    each(&format!("refusal_answers = {RATE}"), "", |lab, agent| {
        let raw = lab.stranger.raw();
        let start = Instant::now();
        for number in 0..FLOOD {
            raw.send(&packet::udp((lab.stranger.address, 1024 + number), (VENDOR, 7), 64, b"flood"));
        }
        let answers = codes(lab, 3, inside_address(lab)).len() as u64;
        let seconds = start.elapsed().as_secs() + 2;
        assert!((1..=RATE * seconds).contains(&answers), "{answers} answers in {seconds} s");
        let metric = |name: &str, label: &str| agent.metric(name, &[label]);
        assert_eq!(metric("vpnat_refusal_answers_total", "state=\"sent\""), answers as f64);
        // Each refused packet is counted once as such, wherever that was.
        let refused = metric("vpnat_hook_packets_total", "outcome=\"source-not-allowed\"");
        assert_eq!(refused, f64::from(FLOOD), "{}", agent.metrics());
        let came = lab.watch.vendor(0).matching(|packet| packet.way == Way::In && packet.ipv4().is_some());
        assert!(came.is_empty(), "the vendor received {came:?}");
    });
}
