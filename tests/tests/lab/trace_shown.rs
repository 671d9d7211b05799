//! While packets are traced, which costs each of them something, whoever looks sees it.

use std::time::Duration;

use tests::agent::Agent;
use tests::process::{Background, wait_until};
use tests::topology::Shape;

use crate::setting::Setting;

const PATIENCE: Duration = Duration::from_secs(20);

/// Of the hooks that `vpnat status` lists, those that it calls traced, and all.
fn hooks(agent: &Agent<'_>) -> (usize, usize) {
    // Its exit status says whether all is in order, which it is not without an agent.
    let output = agent.vpnat("status --json");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let hooks = status["hooks"].as_array().expect("hooks");
    assert!(hooks.iter().all(|hook| hook["traced"].is_boolean()), "root can know: {hooks:?}");
    (hooks.iter().filter(|hook| hook["traced"] == true).count(), hooks.len())
}

fn words(agent: &Agent<'_>) -> String {
    String::from_utf8(agent.vpnat("status").stdout).expect("UTF-8")
}

fn begin(agent: &Agent<'_>, line: &str) -> Background {
    let trace = agent.background(line);
    wait_until("the trace", PATIENCE, || trace.log().contains("tracing, for"));
    trace
}

fn a_trace_is_seen(setting: Setting, prefix: &[&str]) {
    setting.run_before_start(|_, agent| {
        agent.run_under(prefix);
        agent.start();
        let (traced, all) = hooks(agent);
        assert!(traced == 0 && all > 0, "{traced} of {all}");
        assert_eq!(agent.metric("vpnat_tracing", &[]), 0.0);
        assert!(!words(agent).contains("trace"), "{}", words(agent));

        let mut trace = begin(agent, "trace --json");
        assert_eq!(hooks(agent), (all, all));
        let said = words(agent);
        assert!(said.contains(&format!("trace      at {all} hooks")), "{said}");
        assert!(said.contains("ends with `vpnat trace`") && said.contains("), traced"), "{said}");
        wait_until("the metric", PATIENCE, || agent.metric("vpnat_tracing", &[]) == 1.0);

        trace.signal(nix::sys::signal::Signal::SIGINT);
        trace.wait(PATIENCE).expect("an end");
        wait_until("no trace", PATIENCE, || hooks(agent) == (0, all));
        wait_until("the metric", PATIENCE, || agent.metric("vpnat_tracing", &[]) == 0.0);

        // Of an agent that is killed the programs stay, and only a start puts the others back.
        let mut trace = begin(agent, "trace --json --seconds 600");
        agent.kill9();
        trace.wait(PATIENCE).expect("an end");
        assert_eq!(hooks(agent), (all, all));
        assert!(words(agent).contains("the agent ended meanwhile: start it"), "{}", words(agent));
        agent.start();
        assert_eq!(hooks(agent), (0, all));
    });
}

#[test]
fn a_trace_is_seen_tc() {
    a_trace_is_seen(Setting::tc(Shape::TwoArm), &[]);
}

#[test]
fn a_trace_is_seen_xdp() {
    a_trace_is_seen(Setting::xdp(Shape::SingleArm), &[]);
}

#[test]
fn a_trace_is_seen_clsact() {
    a_trace_is_seen(Setting::tc(Shape::TwoArm), &["env", "VPNAT_FORCE_CLSACT=1"]);
}
