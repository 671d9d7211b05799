//! Upgrades: flows live on in a build of another layout, and on the way back; and in a table of another size.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use tests::agent::{Agent, binary, next_binary};
use tests::long::{Conversation, Pinger, Upload};
use tests::sockets::tcp_connect;
use tests::topology::{EGRESS, Shape, Topology, VENDOR};
use tests::vendor::ECHO;

use crate::setting::Setting;

/// Connections that stand while nothing is sent.
const IDLE: u16 = 100;

/// Traffic that must not notice anything.
struct Load {
    pinger: Pinger,
    talk: Conversation,
    upload: Upload,
    idle: Vec<TcpStream>,
}

impl Load {
    fn start(lab: &Topology<'_>) -> Self {
        let pods = &lab.pods;
        let pause = Duration::from_millis(5);
        let connect = |port| tcp_connect(port, SocketAddrV4::new(VENDOR, ECHO), Duration::from_secs(10));
        let load = Self {
            pinger: Pinger::start(&pods[0], VENDOR, 9, pause),
            talk: Conversation::start(&pods[1], 40000, VENDOR, pause).expect("a connection"),
            // Slow enough to lose nothing by itself.
            upload: Upload::start(&pods[2], 40000, VENDOR, pause * 4).expect("a connection"),
            // Half of them from ports that another pod has taken, so that theirs are others outside.
            idle: [0, 1]
                .iter()
                .flat_map(|pod| {
                    pods[*pod].ns.enter(|| {
                        (0..IDLE / 2).map(|n| connect(42000 + n).expect("a connection")).collect::<Vec<_>>()
                    })
                })
                .collect(),
        };
        load.going("before");
        load
    }

    fn going(&self, when: &str) {
        assert!(
            self.pinger.wait_for(50) && self.talk.wait_for(50) && self.upload.wait_for(1 << 17),
            "{when}"
        );
    }

    /// Every idle connection answers.
    fn ask_all(&mut self) {
        for stream in &mut self.idle {
            stream.write_all(b"still there?").expect("a connection that stands");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"still there?");
        }
    }

    fn stop(mut self, lab: &Topology<'_>) {
        self.ask_all();
        let pings = self.pinger.stop();
        assert_eq!(pings.lost(), 0, "{pings:?}");
        let talk = self.talk.stop();
        assert!(talk.broken.is_none() && lab.lost(talk.lost) == 0, "{talk:?}");
        let upload = self.upload.stop().expect("an upload");
        assert_eq!((upload.sent - upload.right, lab.lost(upload.lost)), (0, 0), "{upload:?}");
    }
}

/// Inside address and port, port outside, and packets out of every flow but those of the load that goes on.
fn idle_flows(agent: &Agent<'_>) -> Vec<(String, u64, u64, u64)> {
    let list = agent.vpnat_json("flows list");
    let flows = list["flows"].as_array().expect("flows");
    let mut found: Vec<_> = flows
        .iter()
        .filter(|flow| flow["inside"]["port"].as_u64().is_some_and(|port| (42000..43000).contains(&port)))
        .map(|flow| {
            let number = |value: &serde_json::Value| value.as_u64().expect("a number");
            (
                flow["inside"]["address"].as_str().expect("an address").to_owned(),
                number(&flow["inside"]["port"]),
                number(&flow["egress"]["port"]),
                number(&flow["outbound"]["packets"]),
            )
        })
        .collect();
    found.sort();
    found
}

fn translated(agent: &Agent<'_>) -> f64 {
    agent.metric("vpnat_packets_total", &[])
}

fn up_and_back(setting: Setting) {
    setting.run(|lab, agent| {
        let mut load = Load::start(lab);
        for (build, name) in [(next_binary(), "up"), (binary(), "back")] {
            let (flows, count) = (idle_flows(agent), translated(agent));
            assert_eq!(flows.len(), usize::from(IDLE), "{flows:?}");
            agent.kill9();
            agent.use_binary(build);
            agent.start();
            load.going(name);
            assert_eq!(idle_flows(agent), flows, "every flow with its port and its counts\n{}", agent.log());
            assert!(translated(agent) >= count, "counters go on");
            let layouts: Vec<_> = agent.pins().into_iter().filter(|pin| pin.ends_with("FLOWS")).collect();
            let [only] = layouts.as_slice() else { panic!("{layouts:?}") };
            assert!(only.to_string_lossy().contains(&format!("/{}/", agent_layout(agent))), "{only:?}");
            load.ask_all();
            assert_eq!(
                *lab.pods[0].http_get(45000, VENDOR, "/").expect("a new connection").seen.ip(),
                EGRESS
            );
        }
        load.stop(lab);
    });
}

fn agent_layout(agent: &Agent<'_>) -> String {
    format!("v{}", agent.vpnat_json("status")["layout"])
}

#[test]
fn up_and_back_by_tc() {
    up_and_back(Setting::tc(Shape::TwoArm));
}

#[test]
fn up_and_back_by_xdp() {
    up_and_back(Setting::xdp(Shape::TwoArm));
}

#[test]
fn up_and_back_through_a_tunnel() {
    up_and_back(Setting::tc(Shape::Tun));
}

/// Killed at every stage of taking over, either way, the flows are found by the start that is left alone.
#[test]
fn killed_while_taking_over() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let mut load = Load::start(lab);
        let flows = idle_flows(agent);
        agent.kill9();
        for round in 0..12u64 {
            agent.use_binary(if round % 3 == 2 { binary() } else { next_binary() });
            // Loading takes a second or two, and what follows some ten milliseconds.
            agent.start_and_kill(Duration::from_millis(150 + 270 * round));
            assert!(load.talk.wait_for(20), "round {round}");
            load.ask_all();
        }
        agent.use_binary(next_binary());
        agent.start();
        load.going("after all");
        assert_eq!(idle_flows(agent).len(), flows.len(), "{}", agent.log());
        load.ask_all();
        let talk = load.talk.stop();
        assert!(talk.broken.is_none(), "{talk:?}");
        let upload = load.upload.stop().expect("an upload");
        assert_eq!(upload.sent - upload.right, 0, "{upload:?}");
        load.pinger.stop();
    });
}

/// A table of another size holds the same flows.
#[test]
fn max_flows_changes() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let mut load = Load::start(lab);
        for size in ["131072", "8192"] {
            let flows = idle_flows(agent);
            agent.stop();
            let text = lab.config(tests::agent::Xdp::Off).toml();
            let text = text.replace("max_flows = 65536", &format!("max_flows = {size}"));
            std::fs::write(agent.file(), text).expect("a configuration");
            agent.start();
            load.going(size);
            let status = agent.vpnat_json("status");
            let entries = status["flow_entries_capacity"].as_u64().expect("a number");
            assert_eq!((entries / 2).to_string(), size, "{}", agent.log());
            assert_eq!(idle_flows(agent), flows);
            load.ask_all();
        }
        load.stop(lab);
    });
}
