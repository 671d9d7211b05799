//! The flow log: JSON lines, IPFIX as another program reads it, and the auditors' question.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tests::agent::Agent;
use tests::packet::udp;
use tests::process::{self, wait_until};
use tests::topology::{Shape, Topology, VENDOR};

use crate::setting::Setting;

const PATIENCE: Duration = Duration::from_secs(20);

/// Adds a flow log to the agent's configuration; where its file will be.
fn with_log(lab: &Topology<'_>, agent: &Agent<'_>, more: &str) -> PathBuf {
    let log = lab.site().sandbox.dir().join("log").join("flows.jsonl");
    let text = std::fs::read_to_string(agent.file()).expect("the configuration");
    let text = format!("{text}\n[flow_log]\njson = {:?}\n{more}", log.display().to_string());
    std::fs::write(agent.file(), text).expect("the configuration");
    log
}

/// The records so far; every line must be one.
fn records(log: &PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn wait_for(log: &PathBuf, count: usize) -> Vec<Value> {
    wait_until("records", PATIENCE, || records(log).len() >= count);
    records(log)
}

#[test]
fn a_record_when_a_flow_starts_and_one_when_it_ends() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        let log = with_log(lab, agent, "");
        agent.start();
        lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        let [start] = &wait_for(&log, 1)[..] else { panic!("one record") };
        assert_eq!((&start["event"], &start["vendor"]), (&"start".into(), &"vendor-a".into()), "{start}");
        assert_eq!(start["inside"], serde_json::json!({"address": "10.0.2.7", "port": 40000}), "{start}");
        assert_eq!(start["egress"], serde_json::json!({"address": "10.0.1.10", "port": 40000}), "{start}");
        assert_eq!(start["remote"], serde_json::json!({"address": "192.0.2.10", "port": 7}), "{start}");

        // Who was that? The log and the table know, and the port alone is not enough.
        let who = agent.vpnat_ok("who 10.0.1.10:40000");
        assert!(who.contains("10.0.2.7:40000") && who.contains("vendor-a"), "{who}");
        let nobody = agent.vpnat("who 10.0.1.10:40009");
        assert_eq!(nobody.status.code(), Some(4));

        // It ends while the agent is down: told when the agent is back.
        agent.stop();
        agent.vpnat_ok("flows kill --inside 10.0.2.7:40000 --yes");
        assert_eq!(records(&log).len(), 1);
        let gone = agent.vpnat_json("who 10.0.1.10:40000");
        assert_eq!(gone["flows"][0]["ended"], Value::Null, "the log does not know yet: {gone}");
        agent.start();
        let [_, end] = &wait_for(&log, 2)[..] else { panic!("two records") };
        assert_eq!((&end["event"], &end["reason"]), (&"end".into(), &"killed".into()), "{end}");
        assert_eq!(
            (&end["outbound"]["packets"], &end["inbound"]["packets"]),
            (&1.into(), &1.into()),
            "{end}"
        );
        assert_eq!(end["outbound"]["bytes"], 28 + 8, "{end}");
        let then = start["time"].as_str().expect("a time");
        let gone = agent.vpnat_json(&format!("who 10.0.1.10:40000 --at {then}"));
        let flow = &gone["flows"][0];
        assert!(flow["inside"]["address"] == "10.0.2.7" && flow["reason"] == "killed", "{gone}");
        assert_eq!(agent.metric("vpnat_flow_log_records_total", &["to=\"json\""]), 1.0, "since this start");
        assert_eq!(agent.metric("vpnat_flow_events_lost_total", &[]), 0.0);
    });
}

/// A reload starts the log, moves it and stops it; one that cannot be is refused whole.
#[test]
fn a_reload_starts_moves_and_stops_the_log() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let plain = std::fs::read_to_string(agent.file()).expect("the configuration");
        let set = |text: &str| std::fs::write(agent.file(), text).expect("the configuration");
        let talk = |port| lab.pods[0].udp_exchange(port, VENDOR, b"question").expect("an answer");
        talk(40000);
        let log = with_log(lab, agent, "");
        let first = std::fs::read_to_string(agent.file()).expect("the configuration");
        assert!(agent.vpnat_ok("reload --dry-run").contains("~ [flow_log]: none becomes JSON to "));
        assert!(!log.exists(), "a rehearsal makes no file");
        agent.vpnat_ok("reload");
        talk(40001);
        let [start] = &wait_for(&log, 1)[..] else { panic!("one record") };
        assert_eq!(start["inside"]["port"], 40001, "{start}");

        // A file is no directory: nothing changes, and the log goes on.
        set(&first.replace("flows.jsonl", "flows.jsonl/x"));
        let output = agent.vpnat("reload");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && words.contains("opening the flow log"), "{words}");
        talk(40002);
        wait_for(&log, 2);
        set(&format!("{first}buffer_kib = 64\n"));
        let output = agent.vpnat("reload");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            words.contains("[flow_log] buffer_kib cannot change while vpnat runs (4096 to 64)"),
            "{words}"
        );

        let moved = log.with_file_name("moved.jsonl");
        set(&first.replace("flows.jsonl", "moved.jsonl"));
        agent.vpnat_ok("reload");
        talk(40003);
        wait_for(&moved, 1);
        assert_eq!(records(&log).len(), 2);

        set(&plain);
        assert!(agent.vpnat_ok("reload").contains("becomes none"));
        talk(40004);
        assert_eq!(agent.vpnat_json("status")["flow_events_lost"], 0);
        agent.stop();
        assert_eq!((records(&log).len(), records(&moved).len()), (2, 1));
    });
}

/// While nobody reads, the buffer fills: events are lost, no packet is, and the log says how many.
#[test]
fn lost_records_are_told_of() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        let log = with_log(lab, agent, "buffer_kib = 64\n");
        agent.start();
        agent.kill9();
        // 80 bytes each.
        for port in 0..900 {
            lab.pods[0].udp_exchange(20000 + port, VENDOR, b"question").expect("an answer");
        }
        agent.start();
        wait_until("a record of the loss", PATIENCE, || {
            records(&log).iter().any(|record| record["event"] == "lost")
        });
        let all = records(&log);
        let lost: u64 = all.iter().filter_map(|record| record["records"].as_u64()).sum();
        let told = all.iter().filter(|record| record["event"] == "start").count() as u64;
        assert!(lost > 50, "{lost}");
        assert_eq!(lost + told, 900);
        assert_eq!(agent.metric("vpnat_flow_events_lost_total", &[]), lost as f64);
        let status = agent.vpnat_json("status");
        assert_eq!(status["flow_events_lost"], lost, "{status}");
        // Once is enough.
        agent.stop();
        agent.start();
        lab.pods[1].udp_exchange(20000, VENDOR, b"question").expect("an answer");
        wait_for(&log, all.len() + 1);
        assert_eq!(records(&log).iter().filter(|record| record["event"] == "lost").count(), 1);
    });
}

#[test]
fn wireshark_reads_the_ipfix() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        let collector = lab.site().nat.enter(|| UdpSocket::bind("127.0.0.1:4739")).expect("a collector");
        collector.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        with_log(lab, agent, "ipfix = \"127.0.0.1:4739\"\nipfix_domain = 42\n");
        agent.start();
        lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        agent.vpnat_ok("flows kill --inside 10.0.2.7:40000 --yes");

        let mut messages: Vec<Vec<u8>> = Vec::new();
        let mut bytes = vec![0; 65536];
        // Templates and the start, then the end; in one message if the machine is slow.
        let data_records = |messages: &[Vec<u8>]| {
            messages.iter().filter(|message| message.windows(4).any(|four| four == [10, 0, 2, 7])).count()
        };
        while data_records(&messages) < 2 {
            let Ok(length) = collector.recv(&mut bytes) else { break };
            messages.push(bytes[..length].to_vec());
        }
        let path = lab.site().sandbox.dir().join("ipfix.pcap");
        std::fs::write(&path, pcap(&messages)).expect("a capture");
        let mut tshark = process::command("tshark", None);
        tshark.arg("-r").arg(&path).args(["-d", "udp.port==4739,cflow", "-V", "-O", "cflow"]);
        let text = process::checked(tshark);
        for expected in [
            "Version: 10",
            "Observation Domain Id: 42",
            "Nat Event: NAT44 session create (4)",
            "Nat Event: NAT44 session delete (5)",
            "SrcAddr: 10.0.2.7",
            "SrcPort: 40000",
            "DstAddr: 192.0.2.10",
            "DstPort: 7",
            "Post NAT Source IPv4 Address: 10.0.1.10",
            "Post NAPT Source Transport Port: 40000",
            "Post NAT Destination IPv4 Address: 192.0.2.10",
            "Protocol: UDP (17)",
            "Flow End Reason: Forced end (4)",
            "Initiator Octets: 36",
            "Initiator Packets: 1",
            "Observation Time Milliseconds: ",
        ] {
            assert!(text.to_lowercase().contains(&expected.to_lowercase()), "no `{expected}` in\n{text}");
        }
        assert!(!text.contains("Malformed") && !text.contains("No template"), "{text}");
    });
}

/// A capture of the messages as UDP over IPv4 (pcap, link type 101).
fn pcap(messages: &[Vec<u8>]) -> Vec<u8> {
    let here = std::net::Ipv4Addr::LOCALHOST;
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4u32.to_ne_bytes());
    file.extend([2u16, 4].map(u16::to_ne_bytes).concat());
    file.extend([0u32, 0, 65535, 101].map(u32::to_ne_bytes).concat());
    for message in messages {
        let packet = udp((here, 50000), (here, 4739), 64, message);
        let length = packet.len() as u32;
        file.extend([0, 0, length, length].map(u32::to_ne_bytes).concat());
        file.extend(packet);
    }
    file
}
