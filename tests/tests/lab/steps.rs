//! The agent killed between any two of its steps, at its first start and while it reads its file again: nothing leaks, and the
//! next start heals whatever was left.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::agent::{Agent, Config};
use tests::hostile::every_kind;
use tests::long::{Conversation, Pinger};
use tests::steps::Got;
use tests::topology::{EGRESS, EGRESS_B, Shape, Topology, VENDOR, VENDOR_B};

use crate::chaos::{self, Choices};
use crate::setting::Setting;

/// Steps to be killed at without an order to go on longer.
const FEW: u32 = 8;

/// Steps spread over all `total`, or any at random for as long as was asked.
fn chosen(total: u32, choices: &mut Choices) -> impl Iterator<Item = u32> {
    let (time, begun) = (chaos::time(), Instant::now());
    let (mut count, first) = (0, choices.up_to(total.div_ceil(FEW)));
    std::iter::from_fn(move || {
        count += 1;
        match time {
            Some(time) => (begun.elapsed() < time).then(|| choices.up_to(total)),
            None => Some(first + (count - 1) * (total / FEW).max(1)).filter(|step| *step <= total),
        }
    })
}

/// From pods, a stranger and the instance itself, to both vendors.
fn everybody_tries(lab: &Topology<'_>, port: u16) -> u64 {
    let mut packets = 0;
    for vendor in [VENDOR, VENDOR_B] {
        for pod in [&lab.pods[0], &lab.stranger] {
            packets += every_kind(&pod.raw(), pod.address, vendor, port).packets;
        }
        packets += every_kind(&lab.raw_from_nat(), lab.pods[1].address, vendor, port).packets;
    }
    packets
}

fn at_any_step_of_the_first_start(setting: Setting) {
    let mut choices = Choices::new();
    setting.run_before_start(|lab, agent| {
        let fresh = |agent: &mut Agent<'_>| {
            // Between `detach` and `guard` nothing guards, so nothing is forwarded.
            lab.nat.sysctl("net.ipv4.ip_forward", "0");
            let _ = agent.vpnat("detach");
            agent.vpnat_ok("guard");
            lab.nat.sysctl("net.ipv4.ip_forward", "1");
        };
        fresh(agent);
        let Got::Done(total) = agent.start_and_kill_at(u32::MAX) else { panic!("so many steps") };
        agent.kill9();
        let (mut kills, mut packets) = (0, 0);
        for step in chosen(total, &mut choices) {
            fresh(agent);
            packets += everybody_tries(lab, 41000);
            match agent.start_and_kill_at(step) {
                Got::Killed(_) => kills += 1,
                Got::Done(_) => agent.kill9(),
            }
            packets += everybody_tries(lab, 41001);
            lab.watch.check();
        }
        agent.start();
        assert_eq!(*lab.pods[0].http_get(0, VENDOR, "/").expect("an answer").seen.ip(), EGRESS);
        println!("chaos: steps-of-a-start={total} kills={kills} hostile-packets={packets}");
        assert!(kills > 0);
    });
}

#[test]
fn at_any_step_of_the_first_start_tc() {
    at_any_step_of_the_first_start(Setting::tc(Shape::TwoArm));
}

#[test]
fn at_any_step_of_the_first_start_xdp() {
    at_any_step_of_the_first_start(Setting::xdp(Shape::TwoArm));
}

/// What the configuration's maps say, with vendors by name: they may have other slots.
fn configured(agent: &Agent<'_>) -> Vec<String> {
    let dump = |map: &str| match agent.bpftool_dump(map) {
        Value::Array(entries) => entries.into_iter().map(|mut entry| entry["formatted"].take()).collect(),
        other => panic!("{map}: {other}"),
    };
    let octets = |value: &Value| {
        let octets: Vec<String> =
            value["octets"].as_array().expect("octets").iter().map(Value::to_string).collect();
        octets.join(".")
    };
    let vendors: Vec<Value> = dump("VENDORS");
    let name = |slot: u64| {
        let policy = &vendors[slot as usize]["value"];
        match (slot, policy["egress_count"].as_u64()) {
            (0, _) => "nobody".to_owned(),
            (_, Some(0)) => format!("free slot {slot}"),
            _ => policy["name"].to_string(),
        }
    };
    let mut all = Vec::new();
    for slot in 1..vendors.len() as u64 {
        let policy = &vendors[slot as usize]["value"];
        if policy["egress_count"] != 0 {
            all.push(format!("vendor {} as {} of {}", name(slot), policy["egress"], policy["egress_count"]));
        }
    }
    for entry in dump("VENDOR_PREFIXES") as Vec<Value> {
        let (key, target) = (&entry["key"], &entry["value"]);
        let owner = name(target["vendor"].as_u64().expect("a slot"));
        all.push(format!(
            "prefix {}/{} of {owner}, exempt {}",
            octets(&key["data"]),
            key["prefix_len"],
            target["exempt"]
        ));
    }
    for entry in dump("SOURCES") as Vec<Value> {
        let data = &entry["key"]["data"];
        let owner = name(data["vendor"][3].as_u64().expect("a slot"));
        all.push(format!("source {}/{} of {owner}", octets(&data["address"]), entry["key"]["prefix_len"]));
    }
    for entry in dump("EGRESS") as Vec<Value> {
        let uses = entry["value"]["vendors"].as_u64().expect("bits");
        let users: Vec<String> = (0..64).filter(|slot| uses >> slot & 1 != 0).map(name).collect();
        all.push(format!("egress address {} of {}", octets(&entry["key"]), users.join(" and ")));
    }
    all.sort();
    all
}

/// vendor-b comes and goes, and with it a source of vendor-a's.
fn two_configurations(lab: &Topology<'_>, setting: Setting) -> [Config; 2] {
    let both = lab.config(setting.xdp);
    let mut other = both.clone();
    other.vendors.truncate(1);
    other.vendors[0].allow_from = vec!["10.0.2.8/29".into(), "10.0.2.7/32".into()];
    [other, both]
}

fn at_any_step_of_a_reload(setting: Setting) {
    let mut choices = Choices::new();
    setting.run(|lab, agent| {
        let pause = Duration::from_millis(5);
        let pinger = Pinger::start(&lab.pods[1], VENDOR, 9, pause);
        let talk = Conversation::start(&lab.pods[2], 40000, VENDOR, pause).expect("a connection");
        let configs = two_configurations(lab, setting);
        let write = |agent: &Agent<'_>, config: &Config| {
            std::fs::write(agent.file(), config.toml()).expect("a configuration");
        };
        // What each comes to, and in how many steps, if nobody disturbs.
        let mut undisturbed = Vec::new();
        for config in &configs {
            write(agent, config);
            let Got::Done(total) = agent.reload_and_kill_at(u32::MAX) else { panic!("so many steps") };
            undisturbed.push((configured(agent), total));
        }
        assert_ne!(undisturbed[0].0, undisturbed[1].0);
        let total = undisturbed[0].1.min(undisturbed[1].1);
        let (mut kills, mut packets) = (0, 0);
        for (round, step) in chosen(total, &mut choices).enumerate() {
            let (config, (expected, _)) = (&configs[round % 2], &undisturbed[round % 2]);
            write(agent, config);
            let got = agent.reload_and_kill_at(step);
            packets += everybody_tries(lab, 42000);
            assert!(pinger.wait_for(10) && talk.wait_for(10), "after {got:?} at {step}");
            if let Got::Killed(_) = got {
                kills += 1;
                agent.start();
            }
            assert_eq!(&configured(agent), expected, "healed after {got:?} at step {step} of {total}\n{}", agent.log());
            packets += everybody_tries(lab, 42001);
            assert_eq!(*lab.pods[0].http_get(0, VENDOR, "/").expect("vendor-a").seen.ip(), EGRESS);
            let other = lab.pods[0].udp_exchange_within(pause * 60, 0, VENDOR_B, b"anybody?");
            match round % 2 {
                0 => drop(other.expect_err("a vendor that is gone")),
                _ => assert_eq!(*other.expect("vendor-b").ip(), EGRESS_B),
            }
            lab.watch.check();
        }
        let (pings, talk) = (pinger.stop(), talk.stop());
        println!(
            "chaos: steps-of-a-reload={total} kills={kills} hostile-packets={packets} pings={} exchanges={} lost={}",
            pings.sent,
            talk.exchanges,
            pings.lost() + u64::from(talk.lost)
        );
        assert!(kills > 0);
        assert_eq!(pings.lost(), 0, "{pings:?}");
        assert!(talk.broken.is_none() && talk.lost == 0, "{talk:?}");
    });
}

#[test]
fn at_any_step_of_a_reload_tc() {
    at_any_step_of_a_reload(Setting::tc(Shape::TwoArm));
}

#[test]
fn at_any_step_of_a_reload_xdp() {
    at_any_step_of_a_reload(Setting::xdp(Shape::TwoArm));
}
