//! Before the agent is ready nothing leaks, and the guard hands over without a gap. What the agent may do, and what it
//! leaves behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tests::agent::Xdp;
use tests::capture::Way;
use tests::hostile::{every_kind, every_kind_during};
use tests::process::wait_until;
use tests::topology::{EGRESS, NAT, Shape, Topology, VENDOR, VPC};

use crate::setting::Setting;

const SHORT: Duration = Duration::from_millis(300);

/// Nothing at all has reached the vendor since the lab stands.
fn nothing_has_left(lab: &Topology<'_>) {
    let capture = lab.watch.vendor(0);
    capture.settle();
    let came = capture.matching(|packet| packet.way == Way::In && packet.ipv4().is_some());
    assert!(came.is_empty(), "the vendor received {came:?}");
}

/// With forwarding on and a way to the vendor, the guard alone holds, and hands over.
#[test]
fn nothing_leaves_before_the_agent_is_ready() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        let said = agent.vpnat_ok("guard");
        assert!(said.contains("closed 192.0.2.0/24") && said.contains("guarded eth0"), "{said}");
        lab.pods[0].http_get_within(SHORT, 0, VENDOR, "/").expect_err("TCP");
        lab.pods[1].udp_exchange_within(SHORT, 0, VENDOR, b"early").expect_err("UDP");
        assert!(!lab.nat.try_run(&format!("ping -n -c 1 -W 1 -I {NAT} {VENDOR}")).status.success());
        nothing_has_left(lab);
        // An agent that never becomes ready changes nothing about that.
        agent.start_and_kill(Duration::from_millis(300));
        lab.pods[0].http_get_within(SHORT, 0, VENDOR, "/").expect_err("TCP");
        nothing_has_left(lab);

        agent.start();
        assert_eq!(*lab.pods[0].http_get(0, VENDOR, "/").expect("an answer").seen.ip(), EGRESS);
        assert!(!lab.nat.run("ip rule").contains("blackhole"), "the rules are gone");
        assert!(agent.vpnat_ok("guard").contains("nothing to do"));
    });
}

/// Every kind of packet, from everybody, behind the guard alone; and beside an agent that starts.
#[test]
fn every_kind_of_packet_stops_at_the_guard() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        agent.vpnat_ok("guard");
        let senders = [
            (lab.pods[0].raw(), lab.pods[0].address),
            (lab.stranger.raw(), lab.stranger.address),
            (lab.raw_from_nat(), lab.pods[1].address),
            (lab.raw_from_nat(), NAT),
            (lab.raw_from_nat(), EGRESS),
        ];
        let mut packets = 0;
        for (raw, source) in &senders {
            packets += every_kind(raw, *source, VENDOR, 40000).packets;
        }
        nothing_has_left(lab);
        packets += every_kind_during(&senders, VENDOR, 40001, || {
            agent.start();
            lab.pods[2].http_get(0, VENDOR, "/").expect("an answer");
        });
        println!("chaos: hostile-packets={packets}");
    });
}

/// A device that did not exist when the guard was put up, with a route of its own.
#[test]
fn a_device_that_comes_later_is_closed() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        agent.vpnat_ok("guard");
        let (nat, vpc) = (&lab.site().nat, &lab.site().vpc);
        tests::link::veth((nat, "late"), (vpc, "late0"));
        nat.ip("addr add 10.9.0.1/30 dev late\nroute add 192.0.2.0/24 via 10.9.0.2 dev late");
        vpc.ip("addr add 10.9.0.2/30 dev late0");
        lab.pods[0].http_get_within(SHORT, 0, VENDOR, "/").expect_err("TCP");
        assert!(!lab.nat.try_run(&format!("ping -n -c 1 -W 1 {VENDOR}")).status.success());
        nothing_has_left(lab);
        let said = agent.vpnat_ok("detach");
        assert!(said.contains("rule that closes 192.0.2.0/24"), "{said}");
        wait_until("everything is detached", Duration::from_secs(2), || agent.attached().is_empty());
        assert!(agent.pins().is_empty(), "{:?}", agent.pins());
    });
}

/// What the running agent may still do: three things, for all of its threads, and nothing that it would run more.
#[test]
fn the_agent_gives_up_what_it_does_not_need() {
    Setting::tc(Shape::TwoArm).run(|_, agent| {
        let tasks = format!("/proc/{}/task", agent.pid().expect("the agent runs"));
        // CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF.
        let kept = format!("{:016x}", 1u64 << 12 | 1 << 38 | 1 << 39);
        let none = format!("{:016x}", 0);
        for task in std::fs::read_dir(tasks).expect("threads").flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).expect("a thread's status");
            let value = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line");
                line.trim_start_matches(':').trim().to_owned()
            };
            assert_eq!([value("CapEff"), value("CapPrm"), value("CapBnd")], [&kept[..]; 3], "{status}");
            assert_eq!([value("CapInh"), value("CapAmb")], [&none[..]; 2], "{status}");
            assert_eq!(value("NoNewPrivs"), "1");
        }
        // It still does all of its work.
        agent.vpnat_ok("reload");
        let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode(Path::new("/run/vpnat/agent.sock")), 0o600);
        assert!(agent.pins().iter().all(|pin| mode(pin) & 0o077 == 0), "{:?}", agent.pins());
    });
}

/// Not root: the three capabilities, a pin directory and a run directory of its own.
#[test]
fn another_user_with_the_capabilities() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        const USER: u32 = 65534;
        let bpffs = tests::sandbox::Sandbox::bpffs();
        for dir in [bpffs.join("vpnat").as_path(), Path::new("/run/vpnat")] {
            std::fs::create_dir_all(dir).expect("a directory");
            std::os::unix::fs::chown(dir, Some(USER), Some(USER)).expect("its owner");
        }
        std::fs::set_permissions(bpffs, PermissionsExt::from_mode(0o711)).expect("a way to the pins");
        agent.run_under(&[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--bounding-set=-all,+bpf,+net_admin,+perfmon",
            "--inh-caps=-all,+bpf,+net_admin,+perfmon",
            "--ambient-caps=-all,+bpf,+net_admin,+perfmon",
            "--",
        ]);
        lab.nat.sysctl("net.ipv4.ip_forward", "0");
        for _ in 0..2 {
            agent.start();
            assert_eq!(*lab.pods[0].http_get(0, VENDOR, "/").expect("an answer").seen.ip(), EGRESS);
            agent.stop();
        }
    });
}

/// Forwarding that the agent has switched on goes off again when everything is detached.
#[test]
fn forwarding_is_put_back() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        lab.nat.sysctl("net.ipv4.ip_forward", "0");
        for _ in 0..2 {
            agent.start();
            assert_eq!(lab.nat.read_sysctl("net.ipv4.ip_forward"), "1");
            agent.stop();
            assert_eq!(lab.nat.read_sysctl("net.ipv4.ip_forward"), "1", "the datapath works on");
        }
        let said = agent.vpnat_ok("detach");
        assert!(said.contains("set net.ipv4.ip_forward = 0, as it was"), "{said}");
        assert_eq!(lab.nat.read_sysctl("net.ipv4.ip_forward"), "0");
    });
}

/// An outside device that is a bridge over another: what it has translated passes below, and nothing else does.
#[test]
fn an_outside_device_stacked_on_another() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        let mac = tests::link::mac(lab.nat, "eth0");
        let address = mac.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":");
        lab.nat.ip(&format!(
            "addr flush dev eth0
             link add br1 address {address} type bridge
             link set eth0 master br1
             link set br1 up
             addr add {NAT}/24 dev br1
             addr add 10.0.1.10/32 dev br1
             addr add 10.0.1.11/32 dev br1
             route add default via {VPC}"
        ));
        let mut config = lab.config(Xdp::Off);
        config.outside = vec!["br1".into()];
        std::fs::write(agent.file(), config.toml()).expect("a configuration");
        agent.start();
        assert_eq!(*lab.pods[0].http_get(0, VENDOR, "/").expect("an answer").seen.ip(), EGRESS);
        let count =
            |outcome: &str| agent.metric("vpnat_hook_packets_total", &[&format!("outcome=\"{outcome}\"")]);
        assert!(count("carried") > 0.0, "{}", agent.metrics());
        // Past the bridge, straight to its port: with a pod's address it stops there.
        let raw = tests::raw::RawSender::new(lab.nat, "eth0", tests::link::mac(&lab.site().vpc, "nat0"));
        let before = count("unguarded-device");
        let packet = tests::packet::udp(([10, 0, 2, 7].into(), 1), (VENDOR, 7), 64, b"past the bridge");
        raw.try_send(&packet).expect_err("a drop by the guard");
        wait_until("it is counted", Duration::from_secs(2), || count("unguarded-device") > before);
    });
}
