//! Attempts to get a packet with a wrong source to the vendor. The captures beside the vendors and beside the NAT
//! instance, which every lab holds, see every packet of the whole run; a single one fails the scenario.

use std::net::Ipv4Addr;
use std::time::Duration;

use tests::agent::Agent;
use tests::hostile::every_kind;
use tests::long::{Conversation, Pinger};
use tests::packet;
use tests::raw::RawSender;
use tests::topology::{EGRESS, EGRESS_B, NAT, Shape, VENDOR, VPC};
use tests::watch::Rule;

use crate::setting::Setting;

const SHORT: Duration = Duration::from_millis(300);

fn dropped(agent: &Agent<'_>, hook: &str, reason: &str) -> f64 {
    let labels = [&format!("hook=\"{hook}\"")[..], "fate=\"dropped\"", &format!("outcome=\"{reason}\"")];
    agent.metric("vpnat_hook_packets_total", if hook.is_empty() { &labels[1..] } else { &labels })
}

fn every_packet_shape(setting: Setting) {
    setting.run(|lab, agent| {
        let stranger = lab.stranger.address;
        let before = |reason| (reason, dropped(agent, "", reason));
        let counted = ["protocol-unsupported", "option-refused", "source-not-allowed"].map(before);
        let (mut protocols, mut packets) = (0, 0);
        for pod in &lab.pods[..2] {
            let tried = every_kind(&pod.raw(), pod.address, VENDOR, 40000);
            protocols += tried.protocols;
            // As many follow from each of the others.
            packets += tried.packets * 3;
            // A pod that claims to be somebody else.
            every_kind(&pod.raw(), Ipv4Addr::new(10, 0, 3, 99), VENDOR, 40001);
        }
        every_kind(&lab.stranger.raw(), stranger, VENDOR, 40000);
        every_kind(&lab.stranger.raw(), EGRESS, VENDOR, 40002);
        lab.watch.check();
        println!("chaos: hostile-packets={packets} leaks=0");
        for (reason, before) in counted {
            assert!(dropped(agent, "", reason) > before, "{reason}:\n{}", agent.metrics());
        }
        let refused = dropped(agent, "", "protocol-unsupported");
        assert!(refused >= protocols as f64, "{refused} of {protocols}:\n{}", agent.metrics());
        // The pods are served as before.
        assert_eq!(*lab.pods[0].http_get(0, VENDOR, "/").expect("an answer").seen.ip(), EGRESS);
    });
}

#[test]
fn every_packet_shape_two_arm_tc() {
    every_packet_shape(Setting::tc(Shape::TwoArm));
}

#[test]
fn every_packet_shape_two_arm_xdp() {
    every_packet_shape(Setting::xdp(Shape::TwoArm));
}

#[test]
fn every_packet_shape_single_arm_xdp() {
    every_packet_shape(Setting::xdp(Shape::SingleArm));
}

#[test]
fn every_packet_shape_tun() {
    every_packet_shape(Setting::tc(Shape::Tun));
}

/// The mark of redirected packets, as anybody on the instance can read it from the map.
fn redirect_mark(agent: &Agent<'_>) -> u32 {
    let mark = &agent.bpftool_dump("SETTINGS")[0]["formatted"]["value"]["redirect_mark"];
    mark.as_u64().and_then(|mark| mark.try_into().ok()).unwrap_or_else(|| panic!("no mark: {mark}"))
}

/// Frames that the instance's kernel takes for something else than the next host does; how many.
fn frames_in_disguise(raw: &RawSender, source: Ipv4Addr) -> u64 {
    let datagram = packet::udp((source, 40002), (VENDOR, 9999), 64, b"what am I?");
    let mut tried = 0;
    // No tag, a tag that routers ignore, one that reads as the first octet of an IPv4 header, two, three.
    for tags in [&[][..], &[0x0000], &[0x4000], &[0, 0], &[0, 0, 0]] {
        let mut frame = Vec::new();
        for control in tags {
            frame.extend([0x81, 0x00]);
            frame.extend(u16::to_be_bytes(*control));
        }
        frame.extend([8, 0]);
        frame.extend(&datagram);
        // IPv4, IPv6, ARP, a VLAN's, one for experiments, none.
        for protocol in [0x0800, 0x86dd, 0x0806, 0x8100, 0x88b5, 0] {
            // Refused where the guard is asked.
            let _ = raw.try_send_frame(protocol, &frame);
            tried += 1;
        }
    }
    tried
}

/// Whoever has the rights on the instance may write any packet, with any mark; from other than the vendor's own
/// egress address none leaves.
fn packets_of_the_instance(setting: Setting) {
    setting.run(|lab, agent| {
        let hook = "tc-egress";
        let before = dropped(agent, hook, "local-source");
        let raw = lab.raw_from_nat();
        let pod = lab.pods[0].address;
        // A flow whose packets can be imitated.
        lab.pods[0].udp_exchange(40000, VENDOR, b"a flow").expect("an answer");
        let mut tried = 0;
        for mark in [0, 1, redirect_mark(agent)] {
            raw.mark(mark);
            for source in [NAT, EGRESS_B, lab.stranger.address, Ipv4Addr::new(192, 0, 2, 77), pod] {
                tried += every_kind(&raw, source, VENDOR, 40001).packets;
            }
        }
        if !lab.shape.is_tunnel() {
            tried += frames_in_disguise(&raw, pod);
        }
        lab.watch.check();
        println!("chaos: hostile-packets={tried}");
        let counted = dropped(agent, hook, "local-source") - before;
        assert!(counted >= tried as f64 / 4.0, "{counted} of {tried}:\n{}", agent.metrics());
        // By the stack, too, from the address that it takes by itself.
        let output = lab.nat.try_run(&format!("ping -n -c 2 -i 0.1 -W 1 -I {NAT} {VENDOR}"));
        assert!(!output.status.success(), "a ping from the instance's own address was answered");
    });
}

#[test]
fn packets_of_the_instance_two_arm() {
    packets_of_the_instance(Setting::tc(Shape::TwoArm));
}

#[test]
fn packets_of_the_instance_tun() {
    packets_of_the_instance(Setting::tc(Shape::Tun));
}

/// Routes, neighbours and devices come and go under traffic, and a second way out appears that nobody has
/// prepared the agent for.
#[test]
fn ways_come_and_go() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let elsewhere = tests::netns::Namespace::new("elsewhere");
        let pinger = Pinger::start(&lab.pods[0], VENDOR, 9, Duration::from_millis(2));
        let talk =
            Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
        let going = || pinger.wait_for(50) && talk.wait_for(20);
        let new_flows = || {
            for pod in &lab.pods {
                every_kind(&pod.raw(), pod.address, VENDOR, 40003);
                let _ = pod.udp_exchange_within(SHORT / 3, 0, VENDOR, b"which way?");
            }
        };
        assert!(going(), "before");
        // No neighbour.
        lab.site().vpc.ip("link set nat0 arp off");
        lab.nat.ip("neigh flush dev eth0");
        new_flows();
        lab.site().vpc.ip("link set nat0 arp on");
        assert!(going(), "with the neighbour back");
        // No route.
        lab.nat.ip("route del default");
        new_flows();
        lab.nat.ip(&format!("route add default via {VPC}"));
        assert!(going(), "with the route back");
        // Another device, which the default route takes at once.
        tests::link::veth((lab.nat, "eth2"), (&elsewhere, "eth0"));
        elsewhere.ip("addr add 10.0.9.1/24 dev eth0");
        lab.watch.start(&elsewhere, "eth0", Rule::FromNat { in_clear: false });
        for _ in 0..5 {
            lab.nat.ip("addr replace 10.0.9.2/24 dev eth2\nroute replace default via 10.0.9.1");
            new_flows();
            lab.nat.ip(&format!("route replace default via {VPC} dev eth0"));
            lab.nat.ip("link del eth2");
            tests::link::veth((lab.nat, "eth2"), (&elsewhere, "eth0"));
            elsewhere.ip("addr add 10.0.9.1/24 dev eth0");
            lab.watch.start(&elsewhere, "eth0", Rule::FromNat { in_clear: false });
        }
        assert!(going(), "after all that");
        assert!(dropped(agent, "", "unguarded-device") > 0.0, "{}", agent.metrics());
        pinger.stop();
        let talk = talk.stop();
        assert!(talk.broken.is_none(), "{talk:?}");
    });
}

/// The tunnel's device is deleted and made anew with its route, faster than the agent can notice.
#[test]
fn a_tunnel_made_anew_at_once() {
    Setting::tc(Shape::Tun).run(|lab, agent| {
        lab.pods[0].http_get(0, VENDOR, "/").expect("an answer");
        for round in 0..5 {
            lab.tunnel_down();
            lab.tunnel_up();
            for pod in &lab.pods {
                every_kind(&pod.raw(), pod.address, VENDOR, 41000 + round);
            }
            lab.watch.check();
        }
        tests::process::wait_until("the agent is ready again", Duration::from_secs(15), || agent.ready());
        assert_eq!(*lab.pods[1].http_get(0, VENDOR, "/").expect("an answer").seen.ip(), EGRESS);
    });
}
