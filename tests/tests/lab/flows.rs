//! Listing with filters, ending flows, and how far ports are used up.

use tests::topology::{Shape, VENDOR};

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
