//! The verbs that look inside, with the agent running and without.

use tests::topology::{Shape, VENDOR};

use crate::setting::Setting;

fn names_the_flow(text: &str) -> bool {
    ["10.0.2.7", "40000", "10.0.1.10", "192.0.2.10"].iter().all(|part| text.contains(part))
}

#[test]
fn status_and_flows_while_the_agent_is_down() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        let status = agent.vpnat_json("status");
        assert_eq!(status["agent_running"], true, "{status}");
        assert!(names_the_flow(&agent.vpnat_json("flows list").to_string()));

        agent.kill9();
        let text = agent.vpnat_ok("flows list");
        assert!(names_the_flow(&text), "{text}");
        let flows = agent.vpnat_json("flows list");
        assert!(names_the_flow(&flows.to_string()), "{flows}");
        // Nobody looks after the datapath: the exit status says so, and everything is shown all the same.
        let output = agent.vpnat("status --json");
        assert_eq!(output.status.code(), Some(3));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("status in JSON");
        assert_eq!(
            (&status["agent_running"], &status["configured"]),
            (&false.into(), &true.into()),
            "{status}"
        );
        assert_eq!(status["vendors"][0]["outbound"]["packets"], 1, "{status}");
        assert!(!agent.vpnat("status").stdout.is_empty());
    });
}

/// People debug with bpftool: field names, addresses as octets, states by name.
#[test]
fn bpftool_reads_the_flow_table() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        let dump = agent.bpftool_dump("FLOWS");
        let entries: Vec<_> =
            dump.as_array().into_iter().flatten().map(|entry| &entry["formatted"]).collect();
        assert_eq!(entries.len(), 2, "{dump}");
        let outbound = entries
            .iter()
            .find(|entry| entry["key"]["src"]["octets"] == serde_json::json!([10, 0, 2, 7]))
            .unwrap_or_else(|| panic!("no entry of the pod: {dump}"));
        assert_eq!(outbound["key"]["dst"]["octets"], serde_json::json!([192, 0, 2, 10]));
        assert_eq!(outbound["value"]["new_addr"]["octets"], serde_json::json!([10, 0, 1, 10]));
        assert_eq!(outbound["value"]["phase"], "Udp");
    });
}

#[test]
fn metrics_are_prometheus_text() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        let text = agent.metrics();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let value = line.rsplit(' ').next().unwrap_or_default();
            assert!(line.starts_with("vpnat_") && value.parse::<f64>().is_ok(), "{line}");
        }
    });
}
