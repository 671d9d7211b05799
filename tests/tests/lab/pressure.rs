//! Floods beside connections: whoever is there stays.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use tests::crowd::Crowd;
use tests::long::Conversation;
use tests::packet;
use tests::topology::{Shape, VENDOR};

use crate::setting::Setting;

/// Where the vendor's host takes the crowd.
const PORT: u16 = 5000;

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

/// One pod opens connections as fast as it can, more than the table holds: the others' connections stay, the
/// agent does not grow, and nobody waits long for a packet.
#[test]
fn a_flood_of_syns_from_one_pod() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let to = SocketAddrV4::new(VENDOR, PORT);
        let mut crowd = Crowd::connect(&lab.pods[..1], &lab.site().vendors[0], to, 1000);
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
        let after = weight(pid);
        assert_eq!(crowd.answering(), crowd.len(), "connections after the flood");
        assert!(talk.wait_for(50), "the conversation after the flood");
        let talk = talk.stop();
        let refused = agent.metric("vpnat_hook_packets_total", &["outcome=\"table-full\""]);
        println!(
            "{took:.1?}, longest wait {:.0?}, agent {} KiB before and {} KiB after, {} ticks of processor time",
            talk.longest,
            before.0,
            after.0,
            after.1 - before.1,
        );
        println!("chaos: flood-packets={count} refused-table-full={refused} connections-held={}", crowd.len());
        assert!(talk.broken.is_none(), "{talk:?}");
        assert!(talk.longest < Duration::from_secs(2), "{talk:?}");
        assert!(refused > 0.0, "{}", agent.metrics());
        assert!(after.0 < before.0 + 16 * 1024, "the agent grew from {} to {} KiB", before.0, after.0);
        // Mostly idle: less than a quarter of the time that the flood took (100 ticks a second).
        let busy = Duration::from_millis((after.1 - before.1) * 10);
        assert!(busy < took / 4 + Duration::from_millis(500), "the agent was busy for {busy:?} of {took:?}");
    });
}
