//! Floods beside connections: whoever is there stays.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use tests::crowd::Crowd;
use tests::long::Conversation;
use tests::packet;
use tests::process::wait_until;
use tests::topology::{EGRESS, Shape, VENDOR};

use crate::setting::Setting;

/// Where the vendor's host takes the crowd.
const PORT: u16 = 5000;

/// Connections that are there before.
const CONNECTIONS: usize = 1000;

/// A few seconds' worth, or all of it if `cargo xtask chaos` asks.
fn scaled(few: u32, all: u32) -> u32 {
    if std::env::var_os("VPNAT_CHAOS_SECONDS").is_some() { all } else { few }
}

/// Resident memory in KiB and processor time in clock ticks of a process.
fn weight(pid: u32) -> (u64, u64) {
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}"))
            .unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    let resident = read("status")
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    let stat = read("stat");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok());
    (resident.expect("resident memory"), ticks.sum())
}

/// One pod opens connections as fast as it can, more than the table holds or than it may: the others' connections stay, the
/// agent does not grow, and nobody waits long for a packet.
fn a_flood_of_syns(limit: Option<u32>) {
    let setting = Setting::tc(Shape::TwoArm);
    setting.run_before_start(|lab, agent| {
        if let Some(limit) = limit {
            let text = lab.config(setting.xdp).toml();
            let text = text.replace("allow_from", &format!("max_flows_per_source = {limit}\nallow_from"));
            std::fs::write(agent.file(), text).expect("a configuration");
        }
        agent.start();
        let to = SocketAddrV4::new(VENDOR, PORT);
        let mut crowd = Crowd::connect(&lab.pods[..1], &lab.site().vendors[0], to, CONNECTIONS);
        let talk =
            Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
        let pid = agent.pid().expect("a running agent");
        let (before, start) = (weight(pid), Instant::now());
        let flooder = &lab.pods[2];
        let count = scaled(150_000, 2_000_000);
        let raw = flooder.raw();
        for number in 0..count {
            let (port, remote) = (1024 + (number % 60_000) as u16, 20_000 + (number / 60_000) as u16);
            raw.send(&packet::tcp((flooder.address, port), (VENDOR, remote), 2, (number, 0), b""));
        }
        let took = start.elapsed();
        // A walk over all of that, beside the conversation. The table has room for 65,536 flows of two entries.
        let many = 2 * CONNECTIONS as u32 + limit.unwrap_or(100_000);
        wait_until("a sweep of the full table", Duration::from_secs(70), || {
            agent.metric("vpnat_flow_table_entries", &[]) >= many.into()
        });
        let (after, watched) = (weight(pid), start.elapsed());
        assert_eq!(crowd.answering(), crowd.len(), "connections after the flood");
        assert!(talk.wait_for(50), "the conversation after the flood");
        let talk = talk.stop();
        let refused =
            |why: &str| agent.metric("vpnat_hook_packets_total", &[&format!("outcome=\"{why}\"")]);
        let (full, limited) = (refused("table-full"), refused("source-limit"));
        println!(
            "{took:.1?}, longest wait {:.0?}, agent {} KiB before and {} KiB after, {} ms of processor time in {watched:.0?}, \
             {:.3} s of it for the last sweep",
            talk.longest,
            before.0,
            after.0,
            (after.1 - before.1) * 10,
            agent.metric("vpnat_sweep_duration_seconds", &[]),
        );
        println!(
            "chaos: flood-packets={count} refused-table-full={full} refused-source-limit={limited} connections-held={} \
             lost={}",
            crowd.len(),
            crowd.lost() + talk.lost,
        );
        assert!(talk.broken.is_none(), "{talk:?}");
        assert!(talk.longest < Duration::from_secs(2), "{talk:?}");
        assert!(after.0 < before.0 + 16 * 1024, "the agent grew from {} to {} KiB", before.0, after.0);
        // Mostly idle: less than a quarter of the time (100 ticks a second).
        let busy = Duration::from_millis((after.1 - before.1) * 10);
        assert!(busy < watched / 4, "the agent was busy for {busy:?} of {watched:?}");
        let Some(limit) = limit else {
            assert!(full > 0.0, "{}", agent.metrics());
            return;
        };
        // The flooder has what it may, and everybody else finds room.
        assert!(limited > 0.0 && full == 0.0, "{}", agent.metrics());
        let list = agent.vpnat_json("flows list");
        let flows = list["flows"].as_array().expect("flows");
        let source = flooder.address.to_string();
        let has = flows.iter().filter(|flow| flow["inside"]["address"] == *source).count();
        assert!(has > 0 && has <= limit as usize, "{has} flows, and {limit} are allowed");
        assert_eq!(*lab.pods[1].http_get(0, VENDOR, "/").expect("a new connection").seen.ip(), EGRESS);
    });
}

#[test]
fn a_flood_of_syns_from_one_pod() {
    a_flood_of_syns(None);
}

#[test]
fn a_flood_of_syns_within_a_limit() {
    a_flood_of_syns(Some(2 * CONNECTIONS as u32));
}
