//! `vpnat explain` says what then happens, and leaves no trace.

use std::collections::BTreeSet;

use aya::maps::{Map, MapData, PerCpuArray};
use serde_json::Value;
use tests::agent::Agent;
use tests::topology::{EGRESS, Shape, Topology, VENDOR};
use vpnat_common::layout::outcome::{COUNTER_SLOTS, Count, Hook, Outcome, counter_index};

use crate::setting::Setting;

/// The pinned maps but for the counters, which are too many for bpftool.
const MAPS: [&str; 9] = [
    "SETTINGS",
    "VENDORS",
    "VENDOR_PREFIXES",
    "SOURCES",
    "EGRESS",
    "DEVICES",
    "XDP_PORTS",
    "FLOWS",
    "FRAGMENTS",
];

/// What all maps hold, entry by entry, and what is pinned.
fn everything(agent: &Agent<'_>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for map in MAPS {
        let dump = agent.bpftool_dump(map);
        all.extend(
            dump.as_array().into_iter().flatten().map(|entry| format!("{map} {}", entry["formatted"])),
        );
    }
    let counters = MapData::from_pin(agent.pin("COUNTERS").expect("the counters")).expect("the counters");
    let counters = PerCpuArray::<_, Count>::try_from(Map::PerCpuArray(counters)).expect("the counters");
    // The lab's own ARP goes on, and is nobody's.
    let strays = Hook::ALL.map(|hook| counter_index(0, hook, Outcome::NotOurs as u32));
    for index in (0..COUNTER_SLOTS).filter(|index| !strays.contains(index)) {
        let values = counters.get(&index, 0).expect("a counter");
        let packets: u64 = values.iter().map(|count| count.packets).sum();
        let bytes: u64 = values.iter().map(|count| count.bytes).sum();
        all.insert(format!("counter {index}: {packets} packets, {bytes} bytes"));
    }
    all.extend(agent.pins().iter().map(|pin| pin.display().to_string()));
    all
}

/// Asks with the maps held against what they were before.
fn explain(agent: &Agent<'_>, question: &str) -> Value {
    let before = everything(agent);
    let answer = agent.vpnat_json(&format!("explain {question}"));
    let after = everything(agent);
    let traces: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(traces.is_empty(), "explain {question} left a trace: {traces:#?}");
    answer
}

/// Takes the rest of the world's packets out of the picture: the agent's sweep and the pods' own.
fn quiet(agent: &mut Agent<'_>) {
    agent.kill9();
    std::thread::sleep(std::time::Duration::from_millis(300));
}

fn hooks(answer: &Value) -> Vec<(&str, &str)> {
    let hooks = answer["hooks"].as_array().expect("hooks");
    hooks
        .iter()
        .map(|hook| (hook["hook"].as_str().unwrap(), hook["outcome"].as_str().unwrap_or("-")))
        .collect()
}

fn a_flow_that_would_be(setting: Setting) {
    setting.run(|lab, agent| {
        // Neighbours are known from here on.
        lab.pods[0].udp_exchange(40001, VENDOR, b"question").expect("an answer");
        quiet(agent);
        let question = "--from 10.0.2.7:40000 --to 192.0.2.10:7 --proto udp";
        let answer = explain(agent, question);
        assert_eq!(answer["verdict"], "translated", "{answer:#}");
        assert_eq!(answer["flow"]["exists"], false, "{answer:#}");
        assert_eq!(answer["vendor"]["name"], "vendor-a", "{answer:#}");
        assert_eq!(answer["source"]["rule"], "10.0.2.0/24", "{answer:#}");
        assert_eq!(answer["becomes"]["from"]["address"], EGRESS.to_string(), "{answer:#}");
        assert_eq!(answer["becomes"]["from"]["port"], 40000, "{answer:#}");
        assert_eq!(answer["route"]["device"], lab.outside_device(), "{answer:#}");

        // And so it comes.
        let seen = lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        assert_eq!((*seen.ip(), seen.port()), (EGRESS, 40000));
        let answer = explain(agent, question);
        assert_eq!(answer["flow"]["exists"], true, "{answer:#}");
        assert_eq!(answer["verdict"], "translated", "{answer:#}");

        // The vendor's answer finds its way; a packet that nobody asked for does not.
        let answer = explain(agent, "--from 192.0.2.10:7 --to 10.0.1.10:40000 --proto udp");
        assert_eq!(answer["verdict"], "translated", "{answer:#}");
        assert_eq!(answer["becomes"]["to"]["address"], "10.0.2.7", "{answer:#}");
        let answer = explain(agent, "--from 192.0.2.10:7 --to 10.0.1.10:50000 --proto udp");
        assert_eq!(answer["verdict"], "dropped", "{answer:#}");
        assert_eq!(hooks(&answer).last().unwrap().1, "unsolicited", "{answer:#}");
    });
}

in_every_setting!(a_flow_that_would_be);

fn refused(answer: &Value, outcome: &str, line: &str) {
    assert_eq!(answer["verdict"], "dropped", "{answer:#}");
    assert_eq!(hooks(answer).last().unwrap().1, outcome, "{answer:#}");
    assert!(answer["remedy"].as_str().is_some_and(|remedy| remedy.contains(line)), "{answer:#}");
}

#[test]
fn refusals_name_what_would_change_them() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        quiet(agent);
        let answer = explain(agent, "--from 10.0.3.7:40000 --to 192.0.2.10:443 --device eth1");
        refused(&answer, "source-not-allowed", "allow_from");
        assert_eq!(answer["source"]["allowed"], false, "{answer:#}");
        let answer = explain(agent, "--from 10.0.1.5:40000 --to 192.0.2.10:443");
        refused(&answer, "local-source", "10.0.1.10");
        let answer = explain(agent, "--from 10.0.2.7:40000 --to 192.0.2.10:443 --device eth0");
        refused(&answer, "wrong-side", "inside");

        let answer = explain(agent, "--from 10.0.2.7:40000 --to 8.8.8.8:53 --proto udp");
        assert_eq!(answer["verdict"], "passed", "{answer:#}");
        assert!(answer["remedy"].as_str().unwrap().contains("cidrs"), "{answer:#}");

        // A route to a device that nobody translates on.
        lab.nat.ip("link add other0 type veth peer name other1\nlink set other0 up\nlink set other1 up\n\
                    route add 192.0.2.64/26 dev other0");
        let answer = explain(agent, "--from 10.0.2.7:40000 --to 192.0.2.65:443");
        refused(&answer, "unguarded-device", "other0");
        lab.nat.ip("route del 192.0.2.64/26\nroute add unreachable 192.0.2.64/26");
        let answer = explain(agent, "--from 10.0.2.7:40000 --to 192.0.2.65:443");
        assert_eq!(answer["verdict"], "not-forwarded", "{answer:#}");
        lab.nat.ip("route del unreachable 192.0.2.64/26\nlink del other0");
    });
}

/// A SYN's MSS and a packet that is too large, on the way through a tunnel of 1400 bytes.
#[test]
fn sizes() {
    Setting::tc(Shape::Tun).run(|_, agent| {
        quiet(agent);
        let answer = explain(agent, "--from 10.0.2.7:40000 --to 192.0.2.10:443");
        assert_eq!(answer["mss"]["sent"], 1360, "{answer:#}");
        let answer = explain(agent, "--from 10.0.2.7:40000 --to 192.0.2.10:443 --proto udp --size 1401");
        assert_eq!(answer["verdict"], "not-forwarded", "{answer:#}");
        let answer = explain(agent, "--from 10.0.2.7:40000 --to 192.0.2.10:443 --proto udp --size 1400");
        assert_eq!(answer["verdict"], "translated", "{answer:#}");
        let text = agent.vpnat_ok("explain --from 10.0.2.7:40000 --to 192.0.2.10:443");
        for line in ["vendor     vendor-a, by 192.0.2.0/24", "verdict    translated: 10.0.1.10:40000"] {
            assert!(text.contains(line), "{text}");
        }
    });
}

/// A port that another pod has is not given out twice, and is not taken away by asking.
#[test]
fn a_taken_port() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        lab.pods[1].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        quiet(agent);
        let answer = explain(agent, "--from 10.0.2.7:40000 --to 192.0.2.10:7 --proto udp");
        assert_eq!(answer["verdict"], "translated", "{answer:#}");
        assert!(answer["flow"]["ports_taken"].as_u64().unwrap() > 0, "{answer:#}");
        assert_ne!(answer["becomes"]["from"]["port"], 40000, "{answer:#}");
        still_there(lab);
    });
}

fn still_there(lab: &Topology<'_>) {
    let seen = lab.pods[1].udp_exchange(40000, VENDOR, b"question").expect("an answer");
    assert_eq!((*seen.ip(), seen.port()), (EGRESS, 40000));
}

#[test]
fn questions_that_make_no_sense() {
    Setting::tc(Shape::TwoArm).run_before_start(|_, agent| {
        let complaint = |words: &str| {
            let output = agent.vpnat(&format!("explain {words}"));
            assert!(!output.status.success(), "explain {words}");
            String::from_utf8(output.stderr).expect("UTF-8")
        };
        assert!(complaint("--from 10.0.2.7:1 --to 192.0.2.10:2").contains("nothing is pinned"));
        assert!(complaint("--from 10.0.2.7 --to 192.0.2.10:2").contains("a port is missing"));
        assert!(complaint("--from 10.0.2:1 --to 192.0.2.10:2").contains("no IPv4 address"));
        assert!(agent.pins().is_empty(), "{:?}", agent.pins());
    });
}
