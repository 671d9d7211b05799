//! Listing with filters, ending flows, and how far ports are used up.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::agent::Agent;
use tests::patience::patient;
use tests::sockets::udp_connect;
use tests::topology::{Shape, VENDOR};
use tests::vendor::ECHO;

use crate::setting::Setting;

#[test]
fn filters_say_which_flows_are_meant() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        for (pod, port) in [(0, 40000), (0, 40001), (1, 40000)] {
            lab.pods[pod].udp_exchange(port, VENDOR, b"question").expect("an answer");
        }
        lab.pods[2].http_get(40002, VENDOR, "/").expect("an answer");
        let count = |words: &str| {
            let list = agent.vpnat_json(&format!("flows list {words}"));
            list["flows"].as_array().map_or(0, Vec::len)
        };
        for (words, flows) in [
            ("", 4),
            ("--protocol udp", 3),
            ("--inside 10.0.2.7", 2),
            ("--inside 10.0.2.7:40001", 1),
            ("--inside 10.0.2.0/29 --protocol udp", 2),
            ("--egress 10.0.1.10:40000", 1),
            ("--remote :80", 1),
            ("--state udp --remote 192.0.2.10", 3),
            ("--vendor vendor-a", 4),
            ("--vendor vendor-b", 0),
        ] {
            assert_eq!(count(words), flows, "flows list {words}");
        }
        let text = agent.vpnat_ok("flows list --inside 10.0.2.8");
        assert_eq!(text.lines().count(), 2, "{text}");

        let ports = agent.vpnat_json("flows ports");
        let udp = ports["ports"].as_array().into_iter().flatten().find(|pool| pool["protocol"] == "udp");
        let udp = udp.unwrap_or_else(|| panic!("{ports}"));
        assert_eq!((&udp["used"], &udp["busiest"]["used"]), (&3.into(), &3.into()), "{ports}");
        assert_eq!(udp["configured"], 64512, "{ports}");
        assert!(agent.vpnat_ok("flows ports").contains("192.0.2.10:7"));
        let status = agent.vpnat_json("status");
        assert_eq!((&status["flows"], &status["flow_entries"]), (&4.into(), &8.into()), "{status}");
        assert_eq!(status["ports"], ports["ports"], "{status}");
    });
}

/// Where a pod's port is its own towards everybody, all of them together run out: so the share says, which is what alerts go by.
#[test]
fn ports_that_are_owned_count_towards_every_destination() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        let text = std::fs::read_to_string(agent.file()).expect("the configuration");
        let mode = "name = \"vendor-a\"\nmapping = \"endpoint-independent\"\nports = \"20000-20007\"\n";
        std::fs::write(agent.file(), text.replace("name = \"vendor-a\"\n", mode))
            .expect("write the configuration");
        agent.start();
        for (pod, to) in [(0, ECHO), (0, 9), (1, ECHO), (2, 9)] {
            let socket = lab.pods[pod].ns.enter(|| {
                udp_connect(41000, SocketAddrV4::new(VENDOR, to), Duration::from_secs(2)).expect("a socket")
            });
            socket.send(b"a flow").expect("send");
        }
        bindings_are_listed(agent);
        let used = |ports: &Value| {
            let udp = ports["ports"].as_array().into_iter().flatten().find(|pool| pool["protocol"] == "udp");
            udp.cloned().unwrap_or_else(|| panic!("{ports}"))
        };
        let udp = used(&agent.vpnat_json("flows ports"));
        assert_eq!((&udp["used"], &udp["owned"], &udp["busiest"]["used"]), (&3.into(), &3.into(), &2.into()));
        assert_eq!(udp["ratio"], 0.375, "{udp}");
        assert!(agent.vpnat_ok("status").contains("3 of 8 (37.5 %) owned towards everybody"));
        let metric = || agent.metric("vpnat_port_use_ratio", &["vendor=\"vendor-a\"", "protocol=\"udp\""]);
        // Walks begin every half a minute.
        let until = Instant::now() + patient(Duration::from_secs(60));
        while (metric() - 0.375).abs() > 1e-9 {
            assert!(Instant::now() < until, "{}", agent.metrics());
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

/// Which port a pod's end owns is listed, with the number of flows that use it.
fn bindings_are_listed(agent: &Agent<'_>) {
    let listed = |words: &str| {
        let list = agent.vpnat_json(&format!("flows list {words}"));
        let flows = list["flows"].as_array().map_or(0, Vec::len);
        (flows, list["bindings"].as_array().cloned().unwrap_or_default())
    };
    for (words, flows, bindings) in [
        ("", 4, 3),
        ("--inside 10.0.2.7", 2, 1),
        ("--inside :41000 --protocol udp --vendor vendor-a", 4, 3),
        ("--protocol tcp", 0, 0),
        ("--vendor vendor-b", 0, 0),
        ("--egress 10.0.1.11", 0, 0),
        // Towards nobody in particular.
        ("--remote 192.0.2.10", 4, 0),
        ("--state udp", 4, 0),
    ] {
        let found = listed(words);
        assert_eq!((found.0, found.1.len()), (flows, bindings), "{words}: {found:?}");
    }
    let binding = &listed("--inside 10.0.2.7").1[0];
    assert_eq!(binding["inside"], serde_json::json!({ "address": "10.0.2.7", "port": 41000 }), "{binding}");
    assert_eq!((&binding["flows"], &binding["orphan"]), (&2.into(), &false.into()), "{binding}");
    let end = format!("10.0.1.10:{}", binding["egress"]["port"]);
    let text = agent.vpnat_ok("flows list --inside 10.0.2.7");
    let [_, line, one, other] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert!(line.contains("everybody") && line.contains("binding of 2"), "{text}");
    assert!([line, one, other].iter().all(|line| line.contains(&end)), "{text}");
    let found = listed(&format!("--egress {end}"));
    assert_eq!((found.0, found.1.len()), (2, 1), "who owns {end}: {found:?}");
}

/// How many ports rest after use is a setting as well as for how long: beyond that the oldest serve again.
#[test]
fn rfc6888_req8_so_many_ports_rest_and_no_more() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        let text = std::fs::read_to_string(agent.file()).expect("the configuration");
        let rest = "timeouts = { udp = 2, allow_short = true }\nport_hold = 3600\nmax_held_ports = 2\n";
        let name = "name = \"vendor-a\"\n";
        std::fs::write(agent.file(), text.replace(name, &format!("{name}{rest}")))
            .expect("write the configuration");
        agent.start();
        for port in 41000..41006 {
            let seen = lab.pods[0].udp_exchange(port, VENDOR, b"question").expect("an answer");
            assert_eq!(seen.port(), port);
        }
        let used = || {
            let ports = agent.vpnat_json("flows ports");
            let mut pools = ports["ports"].as_array().into_iter().flatten();
            pools.find(|pool| pool["protocol"] == "udp").and_then(|pool| pool["used"].as_u64()).unwrap_or(0)
        };
        std::thread::sleep(Duration::from_secs(4));
        let seen = lab.pods[1].udp_exchange(41000, VENDOR, b"question").expect("an answer");
        assert_ne!(seen.port(), 41000, "it rests");
        assert!(used() >= 7);
        // One walk counts, the next one gives away.
        let until = Instant::now() + patient(Duration::from_secs(120));
        while used() > 2 {
            assert!(Instant::now() < until, "{} rest\n{}", used(), agent.log());
            std::thread::sleep(Duration::from_secs(1));
        }
        let seen = lab.pods[2].udp_exchange(41000, VENDOR, b"question").expect("an answer");
        assert_eq!(seen.port(), 41000, "nobody's any more");
        assert!(agent.log().contains("ports rest after use"), "{}", agent.log());
    });
}

/// Both halves go, the others stay, nothing is done without consent, and the pod goes on with a new flow.
#[test]
fn an_operator_ends_flows() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        lab.pods[1].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        let entries = |agent: &tests::agent::Agent<'_>| agent.vpnat_json("status")["flow_entries"].as_u64();

        for words in ["flows kill --yes", "flows kill --all --inside 10.0.2.7 --yes", "flows kill --all"] {
            let output = agent.vpnat(words);
            assert!(!output.status.success(), "{words}");
            assert_eq!(entries(agent), Some(4), "{words}");
        }
        let said = agent.vpnat_ok("flows kill --inside 10.0.2.9 --yes");
        assert!(said.contains("no flow matches"), "{said}");
        // While the agent is down, too.
        agent.kill9();
        let said = agent.vpnat_ok("flows kill --inside 10.0.2.7 --yes");
        assert!(said.contains("2 entries"), "{said}");
        let left = agent.vpnat_json("flows list");
        assert_eq!(left["flows"].as_array().map(Vec::len), Some(1), "{left}");
        assert_eq!(left["flows"][0]["inside"]["address"], "10.0.2.8", "{left}");
        assert_eq!(left["flows"][0]["orphan"], false, "{left}");
        lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("a new flow");
    });
}
