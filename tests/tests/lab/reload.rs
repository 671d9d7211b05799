//! A new configuration under way: all of it or nothing, and nobody notices who is not concerned.

use std::time::Duration;

use tests::agent::{Config, Xdp};
use tests::hostile::every_kind_during;
use tests::long::{Conversation, Pinger};
use tests::process::wait_until;
use tests::topology::{EGRESS, EGRESS_B, NAT, Shape, VENDOR, VENDOR_B};

use crate::setting::Setting;

const SHORT: Duration = Duration::from_millis(400);

fn write(agent: &tests::agent::Agent<'_>, config: &Config, extra: &str) {
    let text = config.toml().replace("[agent]\n", &format!("[agent]\n{extra}"));
    std::fs::write(agent.file(), text).expect("a configuration");
}

/// What two people on a terminal would see.
fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A vendor comes, goes and comes again while another's flows go on undisturbed.
fn vendors_come_and_go(setting: Setting) {
    setting.run_before_start(|lab, agent| {
        let both = lab.config(setting.xdp);
        let only_a = Config { vendors: vec![both.vendors[0].clone()], ..both.clone() };
        write(agent, &only_a, "");
        agent.start();
        let pinger = Pinger::start(&lab.pods[0], VENDOR, 9, Duration::from_millis(5));
        let talk =
            Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
        let going = || pinger.wait_for(30) && talk.wait_for(30);
        assert!(going());

        write(agent, &both, "");
        let dry = agent.vpnat_ok("reload --dry-run");
        assert!(dry.contains("+ vendor vendor-b: 198.51.100.0/24 as 10.0.1.11"), "{dry}");
        assert_eq!(
            agent.vpnat_json("status")["vendors"].as_array().map(Vec::len),
            Some(1),
            "nothing changed"
        );
        let done = agent.vpnat_ok("reload");
        assert!(done.contains("+ vendor vendor-b") && done.ends_with("reloaded\n"), "{done}");
        assert_eq!(*lab.pods[2].http_get(41000, VENDOR_B, "/").expect("vendor-b").seen.ip(), EGRESS_B);
        assert!(going());

        let to_b = Conversation::start(&lab.pods[2], 41001, VENDOR_B, Duration::from_millis(5))
            .expect("a connection");
        assert!(to_b.wait_for(10));
        write(agent, &only_a, "");
        let done = agent.vpnat_ok("reload");
        assert!(done.contains("- vendor vendor-b") && done.contains("198.51.100.0/24"), "{done}");
        assert!(done.contains("flow(s) that are no longer allowed were ended"), "{done}");
        // The pod goes on sending. The capture beside the vendor, which every lab holds, sees that nothing comes.
        lab.pods[2].http_get_within(SHORT, 41002, VENDOR_B, "/").expect_err("a vendor that is gone");
        assert!(!to_b.wait_for(1), "its connections end as well");
        let closed = agent.metric("vpnat_hook_packets_total", &["outcome=\"closed-prefix\""]);
        assert!(closed > 0.0, "{}", agent.metrics());
        drop(to_b);
        assert!(going());

        // By signal, and with the vendor back.
        write(agent, &both, "");
        agent.signal(nix::sys::signal::Signal::SIGHUP);
        wait_until("the reload is done", Duration::from_secs(5), || agent.log().contains("reloaded "));
        assert_eq!(*lab.pods[2].http_get(41003, VENDOR_B, "/").expect("vendor-b").seen.ip(), EGRESS_B);
        assert!(going());
        let pings = pinger.stop();
        assert_eq!(pings.lost(), 0, "{pings:?}");
        let talk = talk.stop();
        assert!(talk.broken.is_none() && talk.lost == 0, "{talk:?}");
    });
}

#[test]
fn vendors_come_and_go_by_tc() {
    vendors_come_and_go(Setting::tc(Shape::TwoArm));
}

#[test]
fn vendors_come_and_go_by_xdp() {
    vendors_come_and_go(Setting::xdp(Shape::TwoArm));
}

/// Packets of every kind while vendors, sources and egress addresses change.
fn every_kind_of_packet_during_reloads(setting: Setting) {
    setting.run(|lab, agent| {
        let both = lab.config(setting.xdp);
        let [mut only_a, mut fewer, mut swapped] = [both.clone(), both.clone(), both.clone()];
        only_a.vendors.truncate(1);
        fewer.vendors[0].allow_from = vec!["10.0.2.8/29".into()];
        // A vendor by another name, which has to take over prefix and address.
        swapped.vendors[1].name = "vendor-c".into();
        let pinger = Pinger::start(&lab.pods[1], VENDOR, 9, Duration::from_millis(5));
        let senders =
            |pods: &[&tests::pod::Pod]| pods.iter().map(|pod| (pod.raw(), pod.address)).collect::<Vec<_>>();
        let mut packets = 0;
        for vendor in [VENDOR, VENDOR_B] {
            let all = senders(&[&lab.pods[0], &lab.pods[2], &lab.stranger]);
            packets += every_kind_during(&all, vendor, 43000, || {
                for config in [&only_a, &fewer, &swapped, &both] {
                    write(agent, config, "");
                    agent.vpnat_ok("reload");
                }
            });
        }
        assert!(pinger.wait_for(20));
        let pings = pinger.stop();
        println!("chaos: reloads=8 hostile-packets={packets} pings={} lost={}", pings.sent, pings.lost());
        assert_eq!(pings.lost(), 0, "{pings:?}");
    });
}

#[test]
fn every_kind_of_packet_during_reloads_tc() {
    every_kind_of_packet_during_reloads(Setting::tc(Shape::TwoArm));
}

#[test]
fn every_kind_of_packet_during_reloads_xdp() {
    every_kind_of_packet_during_reloads(Setting::xdp(Shape::TwoArm));
}

/// Traffic that flows past vpnat, as nobody's, when its destination becomes a vendor's: from the end of the reload on it is
/// that vendor's.
fn a_prefix_comes_while_its_traffic_flows(setting: Setting) {
    setting.run_before_start(|lab, agent| {
        let both = lab.config(setting.xdp);
        write(agent, &Config { vendors: vec![both.vendors[0].clone()], ..both.clone() }, "");
        agent.start();
        let pause = Duration::from_millis(5);
        let pinger = Pinger::start(&lab.pods[0], VENDOR_B, 9, pause);
        let talk = Conversation::start(&lab.pods[1], 40000, VENDOR_B, pause).expect("a connection, in clear");
        assert!(pinger.wait_for(20) && talk.wait_for(20), "in clear");
        assert!(lab.watch.vendor(1).sources().contains(&lab.pods[0].address), "in clear");
        let senders = [
            (lab.pods[2].raw(), lab.pods[2].address),
            (lab.stranger.raw(), lab.stranger.address),
            (lab.raw_from_nat(), NAT),
        ];
        every_kind_during(&senders, VENDOR_B, 44000, || {
            write(agent, &both, "");
            agent.vpnat_ok("reload");
            // What had passed the hooks before is where it goes by then.
            std::thread::sleep(SHORT / 4);
            lab.watch.begin();
            assert!(pinger.wait_for(20), "translated");
            // Nobody knows in what state it is: it ends, and nothing of it gets through meanwhile.
            assert!(!talk.wait_for(1), "a connection that vpnat has not seen begin");
        });
        lab.watch.check();
        let sources = lab.watch.vendor(1).sources();
        assert!(sources.contains(&EGRESS_B), "{sources:?}");
        pinger.stop();
    });
}

#[test]
fn a_prefix_comes_while_its_traffic_flows_tc() {
    a_prefix_comes_while_its_traffic_flows(Setting::tc(Shape::TwoArm));
}

#[test]
fn a_prefix_comes_while_its_traffic_flows_xdp() {
    a_prefix_comes_while_its_traffic_flows(Setting::xdp(Shape::TwoArm));
}

/// A file that cannot be served changes nothing, says which line, and the exit status says so.
#[test]
fn a_bad_file_changes_nothing() {
    let setting = Setting::tc(Shape::TwoArm);
    setting.run(|lab, agent| {
        let good = lab.config(Xdp::Off);
        let before = agent.vpnat_json("status");
        let flows = agent.bpftool_dump("VENDORS");
        for (text, says) in [
            (good.toml().replace("[datapath]", "[datapath]\nspeed = 3"), "unknown field `speed`"),
            (good.toml().replace("192.0.2.0/24", "192.0.2.0/33"), ".toml:"),
            (good.toml().replace("\"eth0\"", "\"eth7\""), "no such device: eth7"),
            (
                good.toml().replace("max_flows = 65536", "max_flows = 4096"),
                "max_flows cannot change while vpnat runs",
            ),
            (good.toml().replace(":9477", ":9478"), "metrics cannot change while vpnat runs"),
        ] {
            std::fs::write(agent.file(), text).expect("a configuration");
            let output = agent.vpnat("reload");
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert!(said(&output).contains(says), "{says}: {}", said(&output));
            agent.signal(nix::sys::signal::Signal::SIGHUP);
        }
        wait_until("the signals are seen", Duration::from_secs(5), || {
            agent.log().matches("reload refused, nothing was changed").count() >= 5
        });
        std::fs::write(agent.file(), good.toml()).expect("a configuration");
        assert_eq!(agent.vpnat_json("status")["vendors"], before["vendors"]);
        assert_eq!(agent.bpftool_dump("VENDORS"), flows);
        assert_eq!(*lab.pods[0].http_get(0, VENDOR, "/").expect("an answer").seen.ip(), EGRESS);
        assert!(agent.vpnat_ok("reload").contains("nothing has changed"));
    });
}

#[test]
fn without_an_agent() {
    Setting::tc(Shape::TwoArm).run(|_, agent| {
        agent.stop();
        let output = agent.vpnat("reload");
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("no agent is running"), "{}", said(&output));
    });
}

/// A source is taken away while it is connected: its connections end, or go on and no new ones are made.
fn a_source_goes(on_removal: &str) {
    let setting = Setting::tc(Shape::TwoArm);
    setting.run(|lab, agent| {
        let talk =
            Conversation::start(&lab.pods[0], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
        let other =
            Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
        assert!(talk.wait_for(20) && other.wait_for(20));
        let mut config = lab.config(Xdp::Off);
        // Everybody but pod-a, 10.0.2.7.
        config.vendors[0].allow_from = vec!["10.0.2.8/29".into()];
        write(agent, &config, &format!("on_removal = \"{on_removal}\"\n"));
        let done = agent.vpnat_ok("reload");
        assert!(done.contains("- vendor vendor-a allow_from: 10.0.2.0/24"), "{done}");
        assert!(other.wait_for(20), "who is still allowed goes on");
        assert_eq!(talk.wait_for(20), on_removal == "drain");
        lab.pods[0].http_get_within(SHORT, 0, VENDOR, "/").expect_err("a source that is gone");
        let other = other.stop();
        assert!(other.broken.is_none() && other.lost == 0, "{other:?}");
    });
}

#[test]
fn a_source_goes_at_once() {
    a_source_goes("drop");
}

#[test]
fn a_source_drains() {
    a_source_goes("drain");
}

/// The vendor's egress address changes: what had the old one ends, and nothing has it from then on.
#[test]
fn an_egress_address_changes() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let pod = &lab.pods[0];
        assert_eq!(*pod.http_get(0, VENDOR_B, "/").expect("an answer").seen.ip(), EGRESS_B);
        let mut config = lab.config(Xdp::Off);
        config.vendors.remove(0);
        config.vendors[0].name = "another".into();
        write(agent, &config, "");
        agent.vpnat_ok("reload");
        let reply = pod.http_get(0, VENDOR_B, "/").expect("the same prefix under another name");
        assert_eq!(*reply.seen.ip(), EGRESS_B);
        // vendor-a's prefix stays closed over a new start, until somebody opens it.
        agent.stop();
        agent.start();
        pod.http_get_within(SHORT, 0, VENDOR, "/").expect_err("closed");
        assert_eq!(agent.vpnat_json("status")["closed"], serde_json::json!(["192.0.2.0/24"]));
        assert!(agent.vpnat_ok("status").contains("closed     192.0.2.0/24"));
        let opened = agent.vpnat_ok("reload --open-removed");
        assert!(opened.contains("192.0.2.0/24 is open now"), "{opened}");
        assert_eq!(agent.vpnat_json("status")["closed"], serde_json::json!([]));
    });
}
