//! Attempts to get a packet with a wrong source to the vendor. The captures beside the vendors and beside the NAT
//! instance, which every lab holds, see every packet of the whole run; a single one fails the scenario.

use std::net::Ipv4Addr;
use std::time::Duration;

use tests::agent::Agent;
use tests::hostile::every_kind;
use tests::long::{Conversation, Pinger};
use tests::topology::{EGRESS, Shape, VENDOR, VPC};
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
