//! The documentation's commands, run against a live agent: a page that names a verb or a flag that is not there fails.

use std::process::Output;
use std::time::Duration;

use tests::long::Conversation;
use tests::netns::Namespace;
use tests::pages::{PAGES, commands, page, runs_here};
use tests::topology::{EGRESS, Shape, VENDOR};

use crate::setting::Setting;

/// Verbs that end the datapath, or do not end; run below, and by every other test.
const NOT_HERE: &[&str] = &["detach", "run"];

/// The words for a verb that nobody sits in front of: what a person answers or ends by hand.
fn by_itself(words: &str) -> String {
    let helps = [("flows kill", "--yes"), ("top", "--once"), ("trace", "--seconds 1")];
    let help = helps.iter().find(|(verb, help)| {
        let option = help.split(' ').next().unwrap_or_default();
        words.starts_with(verb) && !words.contains(option)
    });
    help.map_or(words.to_owned(), |(_, help)| format!("{words} {help}"))
}

#[test]
fn every_command_of_the_documentation_runs() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        // As the pages have it: a flow log, and the files where the packages put them.
        let etc = lab.site().sandbox.dir().join("etc");
        std::fs::create_dir_all(&etc).expect("a folder");
        let text = std::fs::read_to_string(agent.file()).expect("the configuration");
        let log = etc.join("flows.jsonl");
        std::fs::write(agent.file(), format!("{text}\n[flow_log]\njson = {:?}\n", log.display().to_string()))
            .expect("the configuration");
        agent.start();
        let talk = Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(20));
        let talk = talk.expect("a connection");
        assert!(talk.wait_for(5));
        let mut ran = 0;
        for (page, text) in PAGES {
            for line in commands(page, text).into_iter().filter(|line| runs_here(line)) {
                let output: Output = match line.strip_prefix("vpnat ") {
                    Some(words) if NOT_HERE.iter().any(|verb| words.starts_with(verb)) => continue,
                    Some(words) => {
                        let words = words.replace(" --config /etc/vpnat/vpnat.toml", "");
                        agent.vpnat(&by_itself(&words))
                    }
                    None => lab.nat.try_run(&line),
                };
                // 3 and 4 are findings, not failures: of the doctor's, and that nobody had an address and port.
                let code = output.status.code();
                let found = (line.starts_with("vpnat doctor") && matches!(code, Some(3 | 4)))
                    || (line.starts_with("vpnat who") && code == Some(4));
                assert!(
                    output.status.success() || found,
                    "{page}: `{line}` ended with {code:?}:\n{}{}",
                    String::from_utf8_lossy(&output.stderr),
                    String::from_utf8_lossy(&output.stdout)
                );
                ran += 1;
            }
        }
        assert!(ran > 30, "only {ran} commands found");
        let talk = talk.stop();
        assert!(talk.broken.is_none() && talk.lost == 0, "{talk:?}");
    });
}

/// The way back: in the runbook's order nothing leaves with a pod's address (the captures judge), and pods go on being served.
#[test]
fn rolled_back_to_iptables() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        lab.pods[0].http_get(0, VENDOR, "/").expect("an answer");
        let (_, section) =
            page("docs/runbooks.md").split_once("## Roll back to iptables").expect("the section");
        let lines = commands("docs/runbooks.md", section);
        assert_eq!(lines.len(), 3, "{lines:?}");
        for line in &lines {
            match line.strip_prefix("vpnat ") {
                Some(words) => drop(agent.vpnat_ok(words)),
                None if line.starts_with("systemctl disable --now") => agent.stop(),
                None => drop(lab.nat.run(line)),
            }
        }
        assert!(agent.attached().is_empty() && agent.pins().is_empty());
        lab.nat.sysctl("net.ipv4.ip_forward", "1");
        let reply = lab.pods[0].http_get(0, VENDOR, "/").expect("an answer by way of iptables");
        assert_eq!(*reply.seen.ip(), EGRESS);
    });
}

/// The lines that make an XFRM interface and let replies through it, as they stand on the page.
#[test]
#[ignore = "needs the kernel's own ESP, as the guests of `cargo xtask vm` have it"]
fn the_tunnel_of_the_setups() {
    let (nat, router) = (Namespace::new("nat"), Namespace::new("router"));
    tests::link::veth((&nat, "eth0"), (&router, "eth0"));
    let lines =
        commands("docs/setups.md", page("docs/setups.md")).into_iter().filter(|line| line.starts_with("ip "));
    for line in lines {
        nat.run(&line);
    }
    let device = nat.run("ip -d link show ipsec0");
    assert!(device.contains("mtu 1400") && device.contains("if_id 0x2a"), "{device}");
    let route = nat.run("ip route get 192.0.2.10");
    assert!(route.contains("dev ipsec0"), "{route}");
    let policies = nat.run("ip xfrm policy");
    assert!(policies.contains("dir fwd") && policies.contains("if_id 0x2a"), "{policies}");
}
