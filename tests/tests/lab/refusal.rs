//! What must not reach the vendor, or must not be answered, and that it is counted.

use std::net::Ipv4Addr;
use std::time::Duration;

use tests::agent::Agent;
use tests::capture::Way;
use tests::packet::{self, GRE, ICMP, TCP};
use tests::raw::RawSender;
use tests::topology::{EGRESS, Topology, VENDOR};

use crate::setting::Setting;

in_every_setting! { stranger, other_protocols, unsolicited }

const SHORT: Duration = Duration::from_millis(300);

fn dropped(agent: &Agent<'_>, reason: &str) -> f64 {
    agent.metric("vpnat_hook_packets_total", &["fate=\"dropped\"", &format!("outcome=\"{reason}\"")])
}

fn nothing_came_in(lab: &Topology<'_>) {
    let capture = lab.watch.vendor(0);
    capture.settle();
    let came = capture.matching(|packet| packet.way == Way::In && packet.ipv4().is_some());
    assert!(came.is_empty(), "the vendor received {came:?}");
}

fn stranger(setting: Setting) {
    setting.run(|lab, agent| {
        let before = dropped(agent, "source-not-allowed");
        lab.stranger.http_get_within(SHORT, 0, VENDOR, "/").expect_err("TCP of a stranger");
        lab.stranger.udp_exchange_within(SHORT, 0, VENDOR, b"let me in").expect_err("UDP of a stranger");
        let pings = lab.stranger.ping(VENDOR, 2, 5);
        assert_eq!(pings.received, 0);
        nothing_came_in(lab);
        // One SYN at least, one datagram, two echo requests.
        let counted = dropped(agent, "source-not-allowed") - before;
        assert!(counted >= 4.0, "{counted} counted:\n{}", agent.metrics());
    });
}

fn other_protocols(setting: Setting) {
    setting.run(|lab, agent| {
        let before = dropped(agent, "protocol-unsupported");
        let pod = &lab.pods[0];
        let raw = pod.raw();
        for protocol in [GRE, 50, 132] {
            raw.send(&packet::ipv4(pod.address, VENDOR, protocol, 64, &[0; 32]));
        }
        nothing_came_in(lab);
        assert_eq!(dropped(agent, "protocol-unsupported") - before, 3.0, "{}", agent.metrics());
    });
}

/// The egress address is the instance's own: its stack must not answer what nobody asked for.
fn unsolicited(setting: Setting) {
    setting.run(|lab, agent| {
        let before = dropped(agent, "unsolicited");
        let vendor = &lab.site().vendors[0];
        let gateway = if setting.shape.is_tunnel() { &lab.site().gateway } else { &lab.site().vpc };
        let raw = RawSender::new(vendor, "eth0", tests::link::mac(gateway, "vendor0"));
        for port in [22, 80, 9477, 40000] {
            raw.send(&packet::tcp((VENDOR, 5000), (EGRESS, port), 2, (1, 0), b""));
            raw.send(&packet::udp((VENDOR, 5000), (EGRESS, port), 64, b"hello"));
        }
        raw.send(&packet::echo_request(VENDOR, EGRESS, 1, 1));
        nothing_came_in(lab);
        assert_eq!(dropped(agent, "unsolicited") - before, 9.0, "{}", agent.metrics());
    });
}

/// The instance's own packets reach the vendor from the egress address or not at all.
#[test]
fn local_packets_from_another_address() {
    Setting::tc(tests::topology::Shape::TwoArm).run(|lab, agent| {
        let before = dropped(agent, "local-source");
        let output = lab.nat.try_run(&format!("ping -n -c 1 -W 1 -I 10.0.1.5 {VENDOR}"));
        assert!(!output.status.success(), "a ping from the instance's own address was answered");
        nothing_came_in(lab);
        assert!(dropped(agent, "local-source") > before, "{}", agent.metrics());
    });
}

/// A spoofed source: a packet from the outside that claims to be a pod.
#[test]
fn spoofed_pod_on_the_outside() {
    Setting::tc(tests::topology::Shape::TwoArm).run(|lab, _| {
        let vpc = &lab.site().vpc;
        let raw = RawSender::new(vpc, "nat0", tests::link::mac(lab.nat, "eth0"));
        let pod = Ipv4Addr::new(10, 0, 2, 7);
        raw.send(&packet::udp((pod, 1), (VENDOR, 7), 64, b"spoofed"));
        raw.send(&packet::tcp((pod, 1), (VENDOR, 80), 2, (1, 0), b""));
        nothing_came_in(lab);
        let back = lab.watch.underlay().matching(|packet| {
            packet.way == Way::In && packet.is(|ip| matches!(ip.protocol(), TCP | packet::UDP | ICMP))
        });
        assert!(back.is_empty(), "{back:?}");
    });
}
