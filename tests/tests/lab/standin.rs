//! The lab proved on its own, with nftables in the place of the agent: what a scenario relies on works, and
//! the watch notices what it is there to notice.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tests::long::{Conversation, Pinger, Upload, download};
use tests::netns::Namespace;
use tests::pod::Pod;
use tests::topology::{
    EGRESS, EGRESS_B, GATEWAY, NAT, Offload, Shape, Site, Topology, VENDOR, VENDOR_B, VPC,
};

fn everything_works(shape: Shape, offload: Offload) {
    let site = Site::new();
    let lab = Topology::new(&site, shape, offload);
    lab.nftables();
    for (index, pod) in lab.pods.iter().enumerate() {
        let reply = pod.http_get(40000, VENDOR, "/").expect("an answer over HTTP");
        assert_eq!((reply.status, *reply.seen.ip()), (200, EGRESS));
        let seen = pod.udp_exchange(40000, VENDOR, b"question").expect("an answer over UDP");
        assert_eq!(*seen.ip(), EGRESS);
        assert_eq!(pod.ping(VENDOR, 5, 77 + index as u16).lost(), 0);
    }
    let pod = &lab.pods[0];
    if !shape.is_tunnel() {
        assert_eq!(pod.http_get(0, VENDOR_B, "/").map(|reply| *reply.seen.ip()).expect("vendor-b"), EGRESS_B);
    }
    let pinger = Pinger::start(pod, VENDOR, 9, Duration::from_millis(5));
    let talk = Conversation::start(pod, 0, VENDOR, Duration::from_millis(5)).expect("a connection");
    let upload = Upload::start(&lab.pods[1], 0, VENDOR, Duration::from_millis(20)).expect("a connection");
    assert!(pinger.wait_for(50) && talk.wait_for(20) && upload.wait_for(1 << 18));
    assert_eq!(pinger.stop().lost(), 0);
    assert!(talk.stop().broken.is_none());
    let upload = upload.stop().expect("an upload");
    assert_eq!(upload.sent, upload.right);
    // At full speed a tunnel in user space loses packets, so this comes last.
    assert_eq!(download(&lab.pods[2], 0, VENDOR, 3 << 20).expect("a download"), 3 << 20);
    assert!(lab.stranger.http_get_within(Duration::from_millis(500), 0, VENDOR, "/").is_err());
}

#[test]
fn two_arm() {
    everything_works(Shape::TwoArm, Offload::On);
}

#[test]
fn two_arm_without_offloads() {
    everything_works(Shape::TwoArm, Offload::Off);
}

#[test]
fn single_arm() {
    everything_works(Shape::SingleArm, Offload::On);
}

#[test]
fn single_arm_without_offloads() {
    everything_works(Shape::SingleArm, Offload::Off);
}

#[test]
fn tun() {
    everything_works(Shape::Tun, Offload::On);
}

#[test]
fn ipsec() {
    everything_works(Shape::Ipsec, Offload::On);
}

#[test]
fn wireguard() {
    everything_works(Shape::WireGuard, Offload::On);
}

#[test]
#[ignore = "needs the kernel's own ESP, as the guests of `cargo xtask vm` have it"]
fn kernel_ipsec() {
    everything_works(Shape::KernelIpsec, Offload::On);
}

#[test]
#[ignore = "needs the kernel's own WireGuard, as the guests of `cargo xtask vm` have it"]
fn kernel_wireguard() {
    everything_works(Shape::KernelWireGuard, Offload::On);
}

#[test]
fn vxlan() {
    everything_works(Shape::Vxlan, Offload::On);
}

#[test]
fn traceroute_names_every_hop() {
    let two_arm = [Some(GATEWAY), Some(VPC), Some(VENDOR)];
    let single_arm = [Some(GATEWAY), Some(NAT), Some(VPC), Some(VENDOR)];
    for (shape, hops) in [(Shape::TwoArm, &two_arm[..]), (Shape::SingleArm, &single_arm[..])] {
        let site = Site::new();
        let lab = Topology::new(&site, shape, Offload::On);
        lab.nftables();
        assert_eq!(lab.pods[0].traceroute(VENDOR, 5), hops);
    }
}

/// The vendor admits its one address and nobody else.
#[test]
fn the_vendor_refuses_others() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    let gateway = Pod { ns: Namespace::new("other"), address: [192, 0, 2, 50].into(), gateway: [0; 6] };
    tests::link::veth((&gateway.ns, "eth0"), (&site.vpc, "other0"));
    site.vpc.ip("route add 192.0.2.50/32 dev other0");
    site.vpc.sysctl("net.ipv4.conf.all.proxy_arp", "1");
    gateway.ns.ip("addr add 192.0.2.50/24 dev eth0");
    assert_eq!(gateway.http_get(0, VENDOR, "/").expect("an answer").status, 403);
    assert_eq!((lab.vendors[0].seen().admitted, lab.vendors[0].seen().refused), (0, 1));
}

/// Without a NAT the pods' own addresses reach the vendor: the watch must say so.
#[test]
fn the_watch_notices_a_leak() {
    for shape in [Shape::TwoArm, Shape::SingleArm, Shape::Tun] {
        let site = Site::new();
        let lab = Topology::new(&site, shape, Offload::On);
        let _ = lab.pods[0].udp_exchange_within(Duration::from_millis(200), 0, VENDOR, b"leak");
        let complaints = lab.watch.complaints();
        assert!(complaints.iter().any(|text| text.contains("10.0.2.7")), "{shape:?}: {complaints:?}");
        catch_unwind(AssertUnwindSafe(|| drop(lab))).expect_err("a lab with a leak fails");
    }
}

/// With its tunnel gone, the instance sends to the vendor by the default route: the watch must say so.
#[test]
fn the_watch_notices_clear_text() {
    let site = Site::new();
    let mut lab = Topology::new(&site, Shape::Tun, Offload::On);
    lab.nftables();
    lab.pods[0].udp_exchange(0, VENDOR, b"through the tunnel").expect("an answer");
    lab.watch.check();
    lab.tunnel_down();
    let _ = lab.pods[0].udp_exchange_within(Duration::from_millis(200), 0, VENDOR, b"in clear");
    let complaints = lab.watch.complaints();
    assert!(complaints.iter().any(|text| text.contains("in clear")), "{complaints:?}");
    catch_unwind(AssertUnwindSafe(|| drop(lab))).expect_err("a lab with a leak fails");
}

/// A packet with a wrong checksum goes through a router unseen; the watch must say so.
#[test]
fn the_watch_notices_a_wrong_checksum() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    let vpc = tests::link::mac(&site.vpc, "nat0");
    let raw = tests::raw::RawSender::new(&site.nat, "eth0", vpc);
    let mut packet = tests::packet::udp((EGRESS, 5000), (VENDOR, 7), 64, b"data");
    raw.send(&packet);
    lab.watch.check();
    packet[30] ^= 1;
    raw.send(&packet);
    let complaints = lab.watch.complaints();
    assert!(complaints.iter().any(|text| text.contains("UDP checksum")), "{complaints:?}");
    catch_unwind(AssertUnwindSafe(|| drop(lab))).expect_err("a lab with a wrong checksum fails");
}
