//! `vpnat doctor` on a real machine: well, and with one thing wrong after the other.

use std::time::Duration;

use serde_json::Value;
use tests::agent::Agent;
use tests::sockets::udp_connect;
use tests::topology::{Shape, VENDOR};
use tests::vendor::ECHO;

use crate::setting::Setting;

/// What is found of `check`, and the exit status.
fn doctor(agent: &Agent<'_>, check: &str) -> (Vec<(String, String)>, Option<i32>) {
    let output = agent.vpnat("doctor --json");
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let findings = answer["findings"].as_array().expect("findings").iter();
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let mine = findings.filter(|finding| finding["check"] == check);
    (mine.map(|finding| (text(finding, "level"), text(finding, "found"))).collect(), output.status.code())
}

#[test]
fn what_is_wrong_is_found_and_what_is_right_is_not() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        for check in ["kernel", "forwarding", "device", "route", "xdp", "mss", "sockets", "peers", "sources"]
        {
            let (findings, _) = doctor(agent, check);
            assert!(!findings.is_empty(), "{check}");
            assert!(findings.iter().all(|(level, _)| level == "ok"), "{check}: {findings:?}");
        }
        let level = |check: &str, words: &str| {
            let (findings, status) = doctor(agent, check);
            let found = findings.iter().find(|(_, found)| found.contains(words));
            (found.unwrap_or_else(|| panic!("{check}: {findings:?}")).0.clone(), status)
        };
        lab.nat.sysctl("net.ipv4.ip_forward", "0");
        assert_eq!(level("forwarding", "ip_forward is 0"), ("error".into(), Some(4)));
        lab.nat.sysctl("net.ipv4.ip_forward", "1");

        lab.nat.ip("route add unreachable 192.0.2.0/24 metric 1");
        assert_eq!(level("route", "no way to 192.0.2.0/24"), ("error".into(), Some(4)));
        lab.nat.ip("route del unreachable 192.0.2.0/24 metric 1");

        lab.nat.run("nft add table ip other");
        lab.nat.run("nft add chain ip other post { type nat hook postrouting priority 100 ; }");
        lab.nat.run("nft add rule ip other post oifname nowhere masquerade");
        assert_eq!(level("firewall", "spare the packets to vendors").0, "ok");
        lab.nat.run("nft add rule ip other post oifname eth0 masquerade");
        assert_eq!(level("firewall", "masquerade").0, "warning");
        lab.nat.run("nft delete table ip other");

        let other = std::net::SocketAddrV4::new(VENDOR, ECHO);
        let socket = lab.nat.enter(|| udp_connect(4500, other, Duration::from_secs(1))).expect("a socket");
        assert_eq!(level("peers", "udp").0, "warning");
        drop(socket);
        assert_eq!(level("peers", "no vendor").0, "ok");

        let text = String::from_utf8(agent.vpnat("doctor").stdout).expect("UTF-8");
        assert!(text.contains("ok       forwarding: net.ipv4.ip_forward is 1"), "{text}");
    });
}

/// The policies of a tunnel that know the egress address only let no reply on to a pod: said with the counter that shows it.
#[test]
#[ignore = "needs the kernel's own ESP, as the guests of `cargo xtask vm` have it"]
fn a_tunnel_without_a_policy_for_replies() {
    Setting::tc(Shape::KernelIpsec).run(|lab, agent| {
        let level = || doctor(agent, "ipsec").0.into_iter().map(|(level, _)| level).collect::<Vec<_>>();
        lab.pods[0].http_get(0, VENDOR, "/").expect("an answer");
        assert_eq!(level(), ["ok"]);
        lab.nat.ip("xfrm policy delete src 192.0.2.0/24 dst 10.0.2.0/24 dir fwd if_id 42");
        lab.pods[0].http_get_within(Duration::from_millis(500), 0, VENDOR, "/").expect_err("no policy");
        assert_eq!(level(), ["warning"]);
    });
}
