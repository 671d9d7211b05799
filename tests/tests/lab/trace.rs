//! `vpnat trace` says what happens, and nothing else changes: no packet is lost when it begins or ends, and without it the
//! programs are those that tell nothing.

use std::time::{Duration, Instant};

use aya::programs::{TcAttachType, loaded_programs};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::agent::Agent;
use tests::long::{Conversation, Pinger, Upload};
use tests::process::{Background, wait_until};
use tests::topology::{EGRESS, Shape, Topology, VENDOR};
use vpnat_agent::datapath::{sys, tc};
use vpnat_agent::netlink::links;

use crate::setting::Setting;

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// What the kernel's names of traced programs begin with.
const TRACED: &str = "traced_";

/// The programs on the devices of the NAT instance: their numbers, and their names as far as the kernel keeps them.
fn programs(lab: &Topology<'_>) -> Vec<(u32, String)> {
    let mut ids = lab.nat.enter(|| {
        let mut ids = Vec::new();
        for link in links::dump().expect("the devices") {
            ids.extend(link.xdp.map(|(_, id)| id));
            for (direction, ingress) in [(TcAttachType::Ingress, true), (TcAttachType::Egress, false)] {
                ids.extend(sys::tcx_programs(link.index, ingress).unwrap_or_default());
                let filters = tc::our_filters(link.index, direction).expect("the filters");
                ids.extend(filters.iter().map(|filter| filter.program_id));
            }
        }
        ids
    });
    ids.sort_unstable();
    let names: std::collections::HashMap<u32, String> = loaded_programs()
        .flatten()
        .map(|info| (info.id(), info.name_as_str().unwrap_or_default().to_owned()))
        .collect();
    ids.into_iter().map(|id| (id, names.get(&id).cloned().unwrap_or_default())).collect()
}

fn all_traced(programs: &[(u32, String)]) -> bool {
    !programs.is_empty() && programs.iter().all(|(_, name)| name.starts_with(TRACED))
}

fn none_traced(programs: &[(u32, String)]) -> bool {
    !programs.is_empty() && programs.iter().all(|(_, name)| !name.starts_with(TRACED))
}

/// A trace that has begun, and may have ended.
fn begin(agent: &Agent<'_>, words: &str) -> Background {
    let start = Instant::now();
    let mut trace = agent.background(&format!("trace {words}"));
    wait_until("the trace", PATIENCE, || {
        // What it has said is whole once its end was waited for.
        let ended = trace.ended().is_some() && trace.wait(PATIENCE).is_some();
        let begun = trace.log().contains("tracing, for");
        assert!(begun || !ended, "{}", trace.last_words());
        begun
    });
    println!("trace {words}: begun after {:?}", start.elapsed());
    trace
}

/// What a trace has said so far.
fn told(trace: &Background) -> Vec<Value> {
    let log = trace.log();
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn end(mut trace: Background) -> String {
    trace.signal(Signal::SIGINT);
    let status = trace.wait(PATIENCE).expect("the trace ends");
    assert!(status.success(), "{}", trace.last_words());
    trace.log()
}

fn place(address: &str, port: u16) -> Value {
    serde_json::json!({"address": address, "port": port})
}

fn has(told: &[Value], what: impl Fn(&Value) -> bool) -> bool {
    told.iter().any(what)
}

fn what_happens_is_told(setting: Setting) {
    setting.run(|lab, agent| {
        let before = programs(lab);
        assert!(none_traced(&before), "{before:?}");
        let trace = begin(agent, "--json");
        let during = programs(lab);
        assert!(all_traced(&during) && during.len() == before.len(), "{during:?} for {before:?}");

        let seen = lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        assert_eq!((*seen.ip(), seen.port()), (EGRESS, 40000));
        lab.stranger.udp_exchange_within(SHORT, 40001, VENDOR, b"let me in").expect_err("a stranger");
        // An echo reply comes by way of the fast path, too, once the neighbours are known.
        assert_eq!(lab.pods[1].ping(VENDOR, 3, 77).lost(), 0);

        let (pod, public, vendor) =
            (place("10.0.2.7", 40000), place("10.0.1.10", 40000), place("192.0.2.10", 7));
        let out = |line: &Value| {
            line["verdict"] == "translated"
                && line["reason"] == "outbound"
                && line["vendor"] == "vendor-a"
                && line["protocol"] == "udp"
                && line["before"]["from"] == pod
                && line["before"]["to"] == vendor
                && line["after"]["from"] == public
                && line["after"]["to"] == vendor
        };
        let back = |line: &Value| {
            line["reason"] == "inbound" && line["before"]["to"] == public && line["after"]["to"] == pod
        };
        let refused = |line: &Value| {
            line["verdict"] == "dropped"
                && line["reason"] == "source-not-allowed"
                && line["before"]["from"] == place("10.0.3.7", 40001)
                && line["after"].is_null()
        };
        let pinged = |line: &Value| {
            line["protocol"] == "icmp" && line["before"]["from"]["port"] == 77 && line["reason"] == "outbound"
        };
        wait_until("all that happened", PATIENCE, || {
            let told = told(&trace);
            has(&told, out) && has(&told, back) && has(&told, refused) && has(&told, pinged)
        });
        if setting.xdp != tests::agent::Xdp::Off {
            assert!(has(&told(&trace), |line| line["hook"] == "xdp"), "{}", trace.log());
        }
        let said = end(trace);
        assert!(said.contains(" 0 above the limit of 1000 a second, 0 lost"), "{said}");
        wait_until("the programs that tell nothing", PATIENCE, || programs(lab) == before);
    });
}

in_every_setting!(what_happens_is_told);

/// How clsact filters are forced.
const CLSACT: [&str; 2] = ["env", "VPNAT_FORCE_CLSACT=1"];

/// Everything goes on while traces begin and end, and while either end of one is killed.
fn nothing_is_lost(setting: Setting, clsact: bool) {
    setting.run_before_start(|lab, agent| {
        if clsact {
            agent.run_under(&CLSACT);
        }
        agent.start();
        let pinger = Pinger::start(&lab.pods[0], VENDOR, 9, Duration::from_millis(5));
        let talk =
            Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
        // Slow enough to lose nothing by itself.
        let upload =
            Upload::start(&lab.pods[2], 40000, VENDOR, Duration::from_millis(20)).expect("a connection");
        let going = || pinger.wait_for(50) && talk.wait_for(25) && upload.wait_for(1 << 16);
        assert!(going(), "before");
        let plain = programs(lab);
        assert!(none_traced(&plain), "{plain:?}");
        let back = |lab: &Topology<'_>| {
            wait_until("the programs that tell nothing", PATIENCE, || programs(lab) == plain);
        };
        for round in 0..4 {
            let trace = begin(agent, "--json --host 10.0.2.8");
            assert!(all_traced(&programs(lab)), "{:?}", programs(lab));
            assert!(going(), "traced, round {round}");
            // Its new flows, too, are made by the traced programs.
            let reply = lab.pods[0].http_get(0, VENDOR, "/").expect("an answer");
            assert_eq!(*reply.seen.ip(), EGRESS);
            wait_until("the conversation", PATIENCE, || {
                has(&told(&trace), |line| line["before"]["from"]["address"] == "10.0.2.8")
            });
            end(trace);
            back(lab);
            assert!(going(), "after round {round}");
        }
        // Who traces is killed.
        let mut trace = begin(agent, "--json");
        trace.kill();
        back(lab);
        // The time is up, and those who asked for a few have them.
        let status = begin(agent, "--seconds 1 --reason unsolicited").wait(PATIENCE);
        assert!(status.expect("an end").success());
        back(lab);
        let status = begin(agent, "--count 5 --proto icmp").wait(PATIENCE);
        assert!(status.expect("an end").success());
        back(lab);
        // The agent is told to end: it leaves the programs that tell nothing.
        let mut trace = begin(agent, "--json");
        agent.stop();
        trace.wait(PATIENCE).expect("an end");
        assert!(trace.log().contains("the agent ends"), "{}", trace.log());
        assert_eq!(programs(lab), plain);
        agent.start();
        // It is killed: what it left goes on as well, and the next one puts its own in place.
        let mut trace = begin(agent, "--json --seconds 600");
        agent.kill9();
        trace.wait(PATIENCE).expect("an end");
        assert!(trace.log().contains("the agent has gone"), "{}", trace.log());
        assert!(all_traced(&programs(lab)));
        assert!(going(), "traced, and nobody there");
        agent.start();
        let healed = programs(lab);
        assert!(none_traced(&healed) && healed.len() == plain.len(), "{healed:?} for {plain:?}");
        assert!(going(), "after a new start");

        let pings = pinger.stop();
        assert_eq!(pings.lost(), 0, "{pings:?}");
        let talk = talk.stop();
        assert!(talk.broken.is_none() && lab.lost(talk.lost) == 0, "{talk:?}");
        let upload = upload.stop().expect("an upload");
        assert_eq!((upload.sent - upload.right, lab.lost(upload.lost)), (0, 0), "{upload:?}");
    });
}

#[test]
fn nothing_is_lost_tc() {
    nothing_is_lost(Setting::tc(Shape::TwoArm), false);
}

#[test]
fn nothing_is_lost_clsact() {
    nothing_is_lost(Setting::tc(Shape::TwoArm), true);
}

#[test]
fn nothing_is_lost_xdp() {
    nothing_is_lost(Setting::xdp(Shape::TwoArm), false);
}

#[test]
fn nothing_is_lost_single_arm_xdp() {
    nothing_is_lost(Setting::xdp(Shape::SingleArm), false);
}

/// What is asked for is what is shown, and no more than that in a second.
#[test]
fn filters_and_limit() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let everything = |words: &str| {
            let trace = begin(agent, words);
            lab.pods[0].udp_exchange(0, VENDOR, b"question").expect("an answer");
            lab.pods[1].udp_exchange(0, VENDOR, b"question").expect("an answer");
            lab.stranger.udp_exchange_within(SHORT, 0, VENDOR, b"let me in").expect_err("a stranger");
            assert_eq!(lab.pods[0].ping(VENDOR, 1, 5).lost(), 0);
            let said = end(trace);
            let lines = said.lines().filter(|line| line.starts_with('{'));
            lines.map(|line| serde_json::from_str::<Value>(line).expect("a line")).collect::<Vec<_>>()
        };
        let all_are = |told: &[Value], what: &dyn Fn(&Value) -> bool| {
            assert!(!told.is_empty() && told.iter().all(what), "{told:#?}");
        };
        all_are(&everything("--json --verdict dropped"), &|line| line["reason"] == "source-not-allowed");
        all_are(&everything("--json --reason inbound --proto udp"), &|line| {
            line["reason"] == "inbound" && line["protocol"] == "udp"
        });
        let pod = everything("--json --host 10.0.2.8 --vendor vendor-a --verdict translated,dropped");
        all_are(&pod, &|line| {
            line["before"]["from"]["address"] == "10.0.2.8" || line["after"]["to"]["address"] == "10.0.2.8"
        });
        assert!(
            has(&pod, |line| line["reason"] == "inbound") && has(&pod, |line| line["reason"] == "outbound")
        );
        all_are(&everything("--json --from 10.0.2.0/29 --to :7"), &|line| {
            // 10.0.2.7 and what it becomes; nobody else is in there.
            line["before"]["to"]["port"] == 7 && line["before"]["from"]["address"] != "10.0.2.8"
        });
        all_are(&everything("--json --hook tc-egress"), &|line| line["hook"] == "tc-egress");

        // For people, and with more to tell of than is wanted.
        let pinger = Pinger::start(&lab.pods[0], VENDOR, 9, Duration::from_millis(2));
        let trace = begin(agent, "--rate 5 --reason outbound");
        assert!(pinger.wait_for(1000));
        let said = end(trace);
        pinger.stop();
        let shown = said.lines().filter(|line| line.contains(" icmp 10.0.2.7:9 > 192.0.2.10 => 10.0.1.10:"));
        let shown = shown.count();
        assert!((5..=5 * 60).contains(&shown), "{shown}: {said}");
        assert!(
            !said.contains(" 0 above the limit of 5 a second") && said.contains("above the limit of 5"),
            "{said}"
        );
    });
}

/// What cannot be is said, and the programs stay what they are.
#[test]
fn what_cannot_be_is_said() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let plain = programs(lab);
        let complaint = |words: &str| {
            let output = agent.vpnat(&format!("trace {words}"));
            assert!(!output.status.success(), "trace {words}");
            String::from_utf8(output.stderr).expect("UTF-8")
        };
        for (words, says) in [
            ("--from 10.0.2", "`10.0.2` is no IPv4 address or prefix"),
            ("--to 192.0.2.10/24", "192.0.2.0/24 is meant?"),
            ("--host 10.0.2.7:http", "`http` is no port"),
            ("--verdict allowed", "there are translated, passed, dropped, held"),
            ("--reason because", "source-not-allowed"),
            ("--hook egress", "there are xdp, tc-ingress, tc-egress, tc-guard"),
            ("--rate 0", "0 is not in 1..=65535"),
            ("--seconds 3601", "3601 is not in 1..=3600"),
            ("--vendor nobody", "no such vendor: --vendor nobody: there are vendor-a"),
        ] {
            let complaint = complaint(words);
            assert!(complaint.contains(says) && !complaint.contains("panicked"), "{words}: {complaint}");
        }
        assert_eq!(programs(lab), plain);

        let mut first = begin(agent, "--json");
        assert!(complaint("").contains("another trace is running"));
        assert!(all_traced(&programs(lab)));
        // New vendors, other programs: a reload ends it.
        agent.vpnat_ok("reload --dry-run");
        assert!(all_traced(&programs(lab)));
        agent.vpnat_ok("reload");
        first.wait(PATIENCE).expect("an end");
        assert!(first.log().contains("the configuration is read again"), "{}", first.log());
        assert!(none_traced(&programs(lab)));
        lab.pods[0].udp_exchange(0, VENDOR, b"question").expect("an answer");

        agent.kill9();
        let output = agent.vpnat("trace");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no agent is running"), "{output:?}");
    });
}

/// A device that comes while packets are traced is closed to vendors as ever, and one that goes is no reason to stumble.
#[test]
fn devices_come_and_go() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let closed = |device: &str| {
            wait_until(device, PATIENCE, || agent.log().contains(&format!("{device}: closed to vendors")));
        };
        lab.nat.ip("link add late0 type veth peer name late1\nlink set late0 up\nlink set late1 up");
        closed("late0");
        let trace = begin(agent, "--json");
        lab.nat.ip("link del late0\nlink add later0 type veth peer name later1\nlink set later0 up\nlink set later1 up");
        closed("later0");
        lab.nat.ip("route add 192.0.2.64/26 dev later0");
        lab.pods[0]
            .udp_exchange_within(SHORT, 0, std::net::Ipv4Addr::new(192, 0, 2, 65), b"in clear?")
            .expect_err("a device that does not translate");
        wait_until("the drop", PATIENCE, || has(&told(&trace), |line| line["reason"] == "unguarded-device"));
        lab.nat.ip("route del 192.0.2.64/26");
        end(trace);
        wait_until("the programs that tell nothing", PATIENCE, || none_traced(&programs(lab)));
        lab.pods[0].udp_exchange(0, VENDOR, b"question").expect("an answer");
    });
}
