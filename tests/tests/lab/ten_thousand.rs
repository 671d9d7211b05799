//! Ten thousand connections, a transfer and pings through everything that happens to an agent: not one connection is reset, and
//! not one packet is lost.

use std::net::SocketAddrV4;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tests::agent::{Agent, Xdp, binary, next_binary};
use tests::crowd::Crowd;
use tests::link::gro;
use tests::long::{Pinger, Upload};
use tests::netns::Namespace;
use tests::sockets::resets;
use tests::topology::{EGRESS_B, Shape, Topology, VENDOR, VENDOR_B};

use crate::setting::Setting;

const CONNECTIONS: usize = 10_000;

/// Where the vendor's host takes them.
const PORT: u16 = 5000;

/// What happens to the agent.
type Event = (&'static str, fn(&Topology<'_>, &mut Agent<'_>, Xdp));

const EVENTS: &[Event] = &[
    // So that what is lost by itself is not laid at somebody's door.
    ("left alone", |_, _, _| std::thread::sleep(Duration::from_secs(2))),
    ("killed and started again", |_, agent, _| {
        agent.kill9();
        agent.start();
    }),
    ("stopped and started again", |_, agent, _| {
        agent.stop();
        agent.start();
    }),
    ("reloaded without vendor-b", |lab, agent, xdp| {
        let mut config = lab.config(xdp);
        config.vendors.truncate(1);
        config.vendors[0].allow_from.push("10.0.4.0/24".into());
        std::fs::write(agent.file(), config.toml()).expect("a configuration");
        agent.vpnat_ok("reload");
    }),
    ("reloaded with vendor-b again", |lab, agent, xdp| {
        std::fs::write(agent.file(), lab.config(xdp).toml()).expect("a configuration");
        agent.vpnat_ok("reload");
        let seen = lab.pods[0].udp_exchange(0, VENDOR_B, b"back again?").expect("vendor-b");
        assert_eq!(*seen.ip(), EGRESS_B);
    }),
    ("refused a bad file", |lab, agent, xdp| {
        let bad = lab.config(xdp).toml().replace("192.0.2.0/24", "192.0.2.0/33");
        std::fs::write(agent.file(), bad).expect("a configuration");
        assert!(!agent.vpnat("reload").status.success());
        std::fs::write(agent.file(), lab.config(xdp).toml()).expect("a configuration");
    }),
    ("upgraded to a build of another layout", |_, agent, _| {
        agent.stop();
        agent.use_binary(next_binary());
        agent.start();
    }),
    ("back to the build before", |_, agent, _| {
        agent.stop();
        agent.use_binary(binary());
        agent.start();
    }),
];

/// All devices on the way.
fn devices<'a>(lab: &'a Topology<'_>) -> Vec<(&'a Namespace, &'a str)> {
    let site = lab.site();
    let mut devices = vec![(&site.subnet, "router"), (lab.nat, "eth1"), (lab.nat, "eth0")];
    devices.extend([(&site.vpc, "nat0"), (&site.vpc, "vendor0"), (&site.vendors[0], "eth0")]);
    devices.extend(lab.pods.iter().flat_map(|pod| [(&pod.ns, "eth0"), (&site.subnet, pod.name())]));
    devices
}

fn through_everything(setting: Setting) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    setting.run(|lab, agent| {
        // A veth device that polls has a queue of its own, of 256 packets, and counts what does not fit. Others share the
        // processor's, which whatever else runs on the machine may fill.
        devices(lab).into_iter().for_each(|(namespace, device)| gro(namespace, device, true));
        let to = SocketAddrV4::new(VENDOR, PORT);
        let mut crowd = Crowd::connect(&lab.pods, &lab.site().vendors[0], to, CONNECTIONS);
        let pinger = Pinger::start(&lab.pods[0], VENDOR, 9, Duration::from_millis(5));
        // Slow enough to lose nothing by itself.
        let upload =
            Upload::start(&lab.pods[2], 40000, VENDOR, Duration::from_millis(10)).expect("a connection");
        let everybody = || lab.pods.iter().map(|pod| &pod.ns).chain([&lab.site().vendors[0]]);
        let resets = || everybody().map(|ns| ns.enter(resets)).sum::<u64>();
        let before = resets();
        let mut rounds = 0;
        for (what, happen) in EVENTS {
            rounds += crowd.during(what, || happen(lab, agent, setting.xdp));
            assert!(pinger.wait_for(50) && upload.wait_for(1 << 17), "{what}");
            assert_eq!(lab.lost(crowd.lost()), 0, "segments lost: {what}");
        }
        let (pings, upload) = (pinger.stop(), upload.stop().expect("an upload"));
        let reset = resets() - before;
        println!(
            "chaos: events={} connections-held={} exchanges={} pings={} bytes={} resets={reset} lost={}",
            EVENTS.len(),
            crowd.len(),
            u64::from(rounds) * crowd.len() as u64,
            pings.sent,
            upload.right,
            pings.lost() + lab.lost(crowd.lost() + upload.lost),
        );
        assert_eq!((reset, lab.lost(crowd.lost())), (0, 0), "connections reset, segments lost");
        assert_eq!(pings.lost(), 0, "{pings:?}");
        assert_eq!((upload.sent - upload.right, lab.lost(upload.lost)), (0, 0), "{upload:?}");
    });
}

#[test]
fn through_everything_tc() {
    through_everything(Setting::tc(Shape::TwoArm));
}

#[test]
fn through_everything_xdp() {
    through_everything(Setting::xdp(Shape::TwoArm));
}
