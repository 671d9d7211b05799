//! The same packets through two NAT hosts, this one and nftables: what differs is printed with the row of COMPLIANCE.md
//! that explains it, and what no row explains is a failure.
//!
//! nftables here is `snat to` the egress address, which is masquerade for an address that is not the device's first.

mod battery;
mod bench;
mod explained;

use std::collections::BTreeMap;

use tests::agent::Xdp;
use tests::topology::{Offload, Shape, Site, Topology};
use tests::watch::Watch;
use vpnat_common::layout::vendor::Timeouts;

use bench::Bench;
use explained::EXPLAINED;

/// What became of each case's packets.
type Results = BTreeMap<&'static str, String>;

fn ours() -> Results {
    let site = Site::new();
    let mut lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    // Some packets are sent with wrong checksums, which the lab's own rules do not forgive.
    lab.watch = Watch::default();
    let mut agent = lab.agent(Xdp::Off);
    agent.start();
    let mut results = battery::run(&Bench::new(&lab));
    for (name, result) in &results {
        let leaks = |seen: &str| seen.starts_with("vendor sees") && seen.contains("10.0.2.");
        assert!(!result.split("; ").any(leaks), "{name}: a pod's address at the vendor: {result}");
    }
    let timers = Timeouts::DEFAULT;
    for (name, seconds) in [
        ("timer: UDP, not answered", timers.udp),
        ("timer: UDP, answered", timers.udp),
        ("timer: ICMP query", timers.icmp_query),
        ("timer: TCP, SYN sent", timers.tcp_init),
        ("timer: TCP, SYN received", timers.tcp_init),
        ("timer: TCP, established", timers.tcp_established),
        ("timer: TCP, half closed by the pod", timers.tcp_established),
        ("timer: TCP, half closed by the vendor", timers.tcp_established),
        ("timer: TCP, last acknowledgement", timers.tcp_closing),
        ("timer: TCP, time-wait", timers.tcp_closing),
        ("timer: TCP, reset", timers.tcp_trans),
    ] {
        results.insert(name, format!("{seconds} s"));
    }
    results
}

fn theirs() -> Results {
    let site = Site::new();
    let mut lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    // What it lets through untranslated is what this is about.
    lab.watch = Watch::default();
    lab.nftables();
    let mut results = battery::run(&Bench::new(&lab));
    for (name, key) in [
        ("timer: UDP, not answered", "udp_timeout"),
        ("timer: UDP, answered", "udp_timeout_stream"),
        ("timer: ICMP query", "icmp_timeout"),
        ("timer: TCP, SYN sent", "tcp_timeout_syn_sent"),
        ("timer: TCP, SYN received", "tcp_timeout_syn_recv"),
        ("timer: TCP, established", "tcp_timeout_established"),
        ("timer: TCP, half closed by the pod", "tcp_timeout_fin_wait"),
        ("timer: TCP, half closed by the vendor", "tcp_timeout_close_wait"),
        ("timer: TCP, last acknowledgement", "tcp_timeout_last_ack"),
        ("timer: TCP, time-wait", "tcp_timeout_time_wait"),
        ("timer: TCP, reset", "tcp_timeout_close"),
    ] {
        results
            .insert(name, format!("{} s", lab.nat.read_sysctl(&format!("net.netfilter.nf_conntrack_{key}"))));
    }
    results
}

#[test]
fn against_nftables() {
    let (ours, theirs) = (ours(), theirs());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "the same cases");
    let mut unexplained = Vec::new();
    let mut same = 0;
    for (name, here) in &ours {
        let there = &theirs[name];
        if here == there {
            same += 1;
            println!("same: {name}: {here}");
            continue;
        }
        let lines = format!("  vpnat:    {here}\n  nftables: {there}");
        match EXPLAINED.iter().find(|(case, _, _)| case == name) {
            Some((_, row, why)) => println!("differs: {name}\n{lines}\n  {row}: {why}"),
            None => unexplained.push(format!("{name}\n{lines}")),
        }
    }
    println!("{same} of {} cases end alike", ours.len());
    assert!(unexplained.is_empty(), "no row explains:\n{}", unexplained.join("\n"));
    assert!(same > 20, "so few are alike that something else is wrong");
    for (name, _, _) in EXPLAINED {
        assert!(ours.contains_key(name), "`{name}` is explained and no case");
    }
}
