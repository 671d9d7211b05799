//! The main job: pods talk to the vendor from the same ports, and the vendor sees one address.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::sync::Barrier;

use tests::capture::Way;
use tests::long::download;
use tests::pod::Pod;
use tests::topology::{EGRESS, EGRESS_B, Shape, VENDOR, VENDOR_B};

use crate::fragments::any_order;
use crate::setting::Setting;

in_every_setting! { three_pods_from_one_port, large_transfers }

/// Does the same in all pods at the same moment.
pub fn at_once<T: Send>(pods: &[Pod], work: impl Fn(&Pod) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(pods.len());
    let one = &|pod| {
        start.wait();
        work(pod)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(move || one(pod))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a pod's thread")).collect()
    })
}

fn three_pods_from_one_port(setting: Setting) {
    setting.run(|lab, agent| {
        let replies =
            at_once(&lab.pods, |pod| pod.http_get(40000, VENDOR, "/slow").expect("an answer over HTTP"));
        assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
        one_address_and_three_ports(replies.iter().map(|reply| reply.seen));

        let seen = at_once(&lab.pods, |pod| {
            pod.udp_exchange(40000, VENDOR, b"question").expect("an answer over UDP")
        });
        one_address_and_three_ports(seen);

        let pings = at_once(&lab.pods, |pod| pod.ping(VENDOR, 20, 77));
        assert!(pings.iter().all(|report| report.sent == 20 && report.lost() == 0), "{pings:?}");

        let capture = lab.watch.vendor(0);
        capture.settle();
        let sources: BTreeSet<_> = capture
            .packets()
            .iter()
            .filter(|packet| packet.way == Way::In)
            .filter_map(|packet| packet.ipv4().map(|ip| ip.source()))
            .collect();
        assert_eq!(sources, BTreeSet::from([EGRESS]));
        let translated = |direction: &str| {
            agent.metric(
                "vpnat_packets_total",
                &["vendor=\"vendor-a\"", &format!("direction=\"{direction}\"")],
            )
        };
        // 3 pods with 20 pings, a UDP exchange and at least 5 segments of TCP each.
        assert!(translated("outbound") >= 78.0, "{}", agent.metrics());
        assert!(translated("inbound") >= 78.0, "{}", agent.metrics());
    });
}

fn one_address_and_three_ports(seen: impl IntoIterator<Item = SocketAddrV4>) {
    let seen: Vec<_> = seen.into_iter().collect();
    assert!(seen.iter().all(|address| *address.ip() == EGRESS), "{seen:?}");
    let ports: BTreeSet<_> = seen.iter().map(SocketAddrV4::port).collect();
    assert_eq!(ports.len(), 3, "{seen:?}");
    assert!(ports.contains(&40000), "the port is kept where it is free: {seen:?}");
}

fn large_transfers(setting: Setting) {
    setting.run(|lab, _| {
        let bytes = 8 << 20;
        assert_eq!(download(&lab.pods[0], 41000, VENDOR, bytes).expect("a download"), bytes);
        let upload = tests::long::Upload::start(&lab.pods[1], 41000, VENDOR, std::time::Duration::ZERO);
        let upload = upload.expect("a connection");
        assert!(upload.wait_for(bytes));
        let report = upload.stop().expect("an upload");
        assert_eq!(report.sent, report.right);
    });
}

/// Selectors that leave it to routes what goes through the tunnel, as AWS' VPN has them: strongSwan's own policies let replies on to pods.
#[test]
#[ignore = "needs the kernel's own ESP, as the guests of `cargo xtask vm` have it"]
fn through_any_selectors_xfrm() {
    three_pods_from_one_port(Setting::tc(Shape::KernelIpsecAny));
    any_order(Setting::tc(Shape::KernelIpsecAny));
}

/// The same behind a VTI.
#[test]
#[ignore = "needs the kernel's own ESP, as the guests of `cargo xtask vm` have it"]
fn through_any_selectors_vti() {
    three_pods_from_one_port(Setting::tc(Shape::KernelVtiAny));
    large_transfers(Setting::tc(Shape::KernelVtiAny));
    any_order(Setting::tc(Shape::KernelVtiAny));
}

/// Each vendor has an egress address of its own, and a pod may talk to both from one port at once.
#[test]
fn two_vendors_see_an_address_each() {
    for setting in [Setting::tc(Shape::TwoArm), Setting::xdp(Shape::SingleArm)] {
        setting.run(|lab, _| {
            for pod in &lab.pods {
                let a = pod.http_get(42000, VENDOR, "/").expect("an answer of vendor-a");
                let b = pod.http_get(42000, VENDOR_B, "/").expect("an answer of vendor-b");
                assert_eq!((a.status, *a.seen.ip()), (200, EGRESS));
                assert_eq!((b.status, *b.seen.ip()), (200, EGRESS_B));
            }
        });
    }
}

/// The agent makes a router of the machine, unless it is told not to.
#[test]
fn forwarding_is_switched_on() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        lab.nat.sysctl("net.ipv4.ip_forward", "0");
        agent.start();
        let reply = lab.pods[0].http_get(0, VENDOR, "/").expect("an answer");
        assert_eq!(*reply.seen.ip(), EGRESS);
    });
}
