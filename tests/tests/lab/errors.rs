//! ICMP errors: the pod sees who sent them, and its own packet quoted. And fragments.

use std::net::SocketAddrV4;
use std::time::Duration;

use tests::agent::Xdp;
use tests::capture::Way;
use tests::packet::{self, UDP};
use tests::sockets::udp_connect;
use tests::topology::{EGRESS, GATEWAY, NAT, Offload, Shape, VENDOR, VPC};
use tests::vendor::ECHO;

use crate::setting::Setting;

in_every_setting! { traceroute, closed_port, path_mtu, fragments }

/// The TTL ends at the instance, behind it, and not at all: each hop is named, whichever hook works.
fn traceroute(setting: Setting) {
    setting.run(|lab, _| {
        for pod in &lab.pods {
            let hops = pod.traceroute(VENDOR, 6);
            match setting.shape {
                Shape::TwoArm => assert_eq!(hops, [Some(GATEWAY), Some(VPC), Some(VENDOR)]),
                Shape::SingleArm => assert_eq!(hops, [Some(GATEWAY), Some(NAT), Some(VPC), Some(VENDOR)]),
                // The vendor's gateway answers from one of its addresses.
                _ => {
                    assert_eq!(hops.len(), 3, "{hops:?}");
                    assert_eq!((hops[0], hops[2]), (Some(GATEWAY), Some(VENDOR)));
                    assert!(hops[1].is_some(), "{hops:?}");
                }
            }
        }
    });
}

/// A closed port at the vendor: the pod's socket is told, and the quote is the pod's datagram to the last byte.
fn closed_port(setting: Setting) {
    setting.run(|lab, _| {
        let pod = &lab.pods[0];
        let to = SocketAddrV4::new(VENDOR, 9999);
        let refused = pod.ns.enter(|| {
            let socket = udp_connect(40000, to, Duration::from_secs(2)).expect("a socket");
            socket.send(b"anybody there?").expect("send");
            socket.recv(&mut [0; 64]).expect_err("nobody is there")
        });
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let capture = lab.watch.pod(0);
        capture.settle();
        let sent = capture.matching(|packet| packet.way == Way::Out && packet.is(|ip| ip.protocol() == UDP));
        let errors = capture.matching(|packet| packet.is(|ip| ip.icmp_type() == Some((3, 3))));
        assert_eq!((sent.len(), errors.len()), (1, 1), "{:?}", capture.packets());
        let error = errors[0].ipv4().expect("an IPv4 packet");
        assert_eq!(error.source(), VENDOR);
        if setting.offload == Offload::Off {
            let (sent, quoted) = (sent[0].ipv4().expect("IPv4"), error.quoted().expect("a quote"));
            assert_eq!(sent.payload(), quoted.payload(), "{sent:?} quoted as {quoted:?}");
        }
    });
}

/// What is too large for the way to the vendor comes back as an error with the size that fits, from the
/// instance, quoting the pod; a packet of that size passes.
fn path_mtu(setting: Setting) {
    // The kernel's lookup for XDP heeds a route's MTU only if it is locked.
    path_mtu_with(setting, if setting.xdp == Xdp::Off { "mtu" } else { "mtu lock" });
}

/// As the stack does, XDP must heed a route's MTU that is not locked.
#[test]
fn path_mtu_of_a_route_that_is_not_locked() {
    path_mtu_with(Setting::xdp(Shape::TwoArm), "mtu");
}

fn path_mtu_with(setting: Setting, route_mtu: &str) {
    setting.run_before_start(|lab, agent| {
        let (mtu, reporter) = match setting.shape {
            Shape::TwoArm => (1300, GATEWAY),
            Shape::SingleArm => (1300, NAT),
            Shape::Tun | Shape::Ipsec | Shape::KernelIpsec | Shape::KernelIpsecAny | Shape::KernelVtiAny => {
                (1400, GATEWAY)
            }
            Shape::WireGuard | Shape::KernelWireGuard => (1420, GATEWAY),
            Shape::Ipip => (1480, GATEWAY),
            Shape::Vxlan => (1450, GATEWAY),
            Shape::Gretap => (1462, GATEWAY),
        };
        if !setting.shape.is_tunnel() {
            // Known to the route only: the device takes more.
            lab.nat.ip(&format!("route add 192.0.2.0/24 via {VPC} {route_mtu} {mtu}"));
        }
        agent.start();
        let pod = &lab.pods[0];
        // XDP leaves the first packet of a way to the stack, which finds the neighbour.
        pod.udp_exchange(41000, VENDOR, b"small").expect("an answer");
        pod.udp_exchange(41000, VENDOR, b"small").expect("an answer");
        let raw = pod.raw();
        let datagram =
            |length: usize| packet::udp((pod.address, 40000), (VENDOR, ECHO), 64, &vec![7; length - 28]);
        let capture = lab.watch.pod(0);
        raw.send(&datagram(mtu + 1));
        capture.settle();
        let errors = capture.matching(|packet| packet.is(|ip| ip.icmp_type() == Some((3, 4))));
        assert_eq!(errors.len(), 1, "{:?}\n{}", capture.packets(), agent.metrics());
        let error = errors[0].ipv4().expect("an IPv4 packet");
        assert_eq!(error.source(), reporter);
        assert_eq!(usize::from(u16::from_be_bytes([error.payload()[6], error.payload()[7]])), mtu);
        let quoted = error.quoted().expect("a quote");
        assert_eq!((quoted.source(), quoted.ports()), (pod.address, Some((40000, ECHO))));

        raw.send(&datagram(mtu));
        let vendor = lab.watch.vendor(0);
        vendor.settle();
        let came = vendor.matching(|packet| {
            packet.way == Way::In && packet.length > 1000 && packet.is(|ip| ip.protocol() == UDP)
        });
        assert_eq!(came.iter().map(|packet| packet.length).collect::<Vec<_>>(), [mtu]);
    });
}

/// Datagrams in several fragments, both ways.
fn fragments(setting: Setting) {
    setting.run(|lab, _| {
        for (pod, length) in lab.pods.iter().zip([2000, 4000, 20000]) {
            let seen = pod.udp_exchange(40000, VENDOR, &vec![9; length]).expect("an answer in fragments");
            assert_eq!(*seen.ip(), EGRESS);
        }
    });
}
