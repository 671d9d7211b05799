//! Short connections of many pods to one address and port of one vendor through one egress address, beyond the first
//! wrap of the port range, with Linux at both ends. None may fail and none may have to knock twice.
//!
//! `VPNAT_RECYCLING_SECONDS` makes them run for longer, on the whole range, at up to 8,000 a second.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tests::agent::{Agent, Config, Vendor, Xdp};
use tests::link::{mac, veth};
use tests::netns::Namespace;
use tests::sandbox::Sandbox;
use tests::short::{First, Server, Tally, connect};

const EGRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
const VENDOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const PODS: u8 = 32;
/// The short form: 2,000 connections a second, which keep some 5,000 ports busy, on a range of 8,192, more than twice round.
const PORTS: (u16, u16) = (30_000, 38_191);
const PACE: Duration = Duration::from_millis(32);
const ENOUGH: u64 = 20_000;

fn run(first: First, xdp: Xdp) -> Tally {
    let sandbox = Sandbox::enter();
    let (pods, nat, vendor) = (Namespace::new("pods"), Namespace::new("nat"), Namespace::new("vendor"));
    veth((&pods, "eth0"), (&nat, "eth1"));
    veth((&nat, "eth0"), (&vendor, "eth0"));
    let addresses: Vec<Ipv4Addr> = (0..PODS).map(|pod| Ipv4Addr::new(10, 0, 2, 10 + pod)).collect();
    let mut lines: String =
        addresses.iter().map(|address| format!("addr add {address}/24 dev eth0\n")).collect();
    lines += "route add default via 10.0.2.1";
    pods.ip(&lines);
    pods.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
    nat.ip(&format!(
        "addr add 10.0.2.1/24 dev eth1\naddr add 192.0.2.1/24 dev eth0\naddr add {EGRESS}/32 dev eth0"
    ));
    nat.sysctl("net.ipv4.ip_forward", "1");
    vendor.ip(&format!("addr add {VENDOR}/24 dev eth0\nroute add {EGRESS}/32 via 192.0.2.1"));
    // Known neighbours, so that the first packets have nothing to wait for.
    nat.ip(&format!("neigh replace {VENDOR} lladdr {} dev eth0 nud permanent", address_of(&vendor, "eth0")));

    let long = std::env::var("VPNAT_RECYCLING_SECONDS").ok().and_then(|text| text.parse().ok());
    let config = Config {
        inside: vec!["eth1".into()],
        outside: vec!["eth0".into()],
        xdp,
        vendors: vec![Vendor {
            name: "vendor-a".into(),
            cidrs: vec!["192.0.2.0/24".into()],
            egress: vec![EGRESS],
            allow_from: vec!["10.0.2.0/24".into()],
        }],
    };
    let mut agent = Agent::new(&nat, &sandbox, &config);
    if long.is_none() {
        let text = std::fs::read_to_string(agent.file()).expect("the configuration");
        let ports = format!("ports = \"{}-{}\"\n", PORTS.0, PORTS.1);
        std::fs::write(agent.file(), text + &ports).expect("the configuration");
    }
    agent.start();
    let at = SocketAddrV4::new(VENDOR, 8080);
    let _server = Server::start(&vendor, at, first);
    let (pace, limits) = match long {
        Some(seconds) => (Duration::from_millis(8), (u64::MAX, Duration::from_secs(seconds))),
        None => (PACE, (ENOUGH, Duration::from_secs(120))),
    };
    let tally = connect(&pods, &addresses, at, first, (64, pace), limits);
    let refused = agent.metric("vpnat_hook_packets_total", &["outcome=\"ports-exhausted\""]);
    println!("{first:?} first, {xdp:?}: {:.0} a second, {tally:?}, {refused} refused", tally.rate());
    assert_eq!(refused, 0.0, "no packet finds the ports exhausted");
    if long.is_none() {
        assert!(tally.good >= ENOUGH, "too slow to go round the range: {tally:?}");
    }
    tally
}

fn address_of(namespace: &Namespace, device: &str) -> String {
    mac(namespace, device).map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn rfc6191_the_client_closes_first() {
    let tally = run(First::Client, Xdp::Off);
    assert_eq!((tally.failed, tally.retried), (0, 0), "{tally:?}");
}

/// The server remembers each connection for a minute, and turns away what is older.
#[test]
fn rfc6191_the_server_closes_first() {
    let tally = run(First::Server, Xdp::Off);
    assert_eq!((tally.failed, tally.retried), (0, 0), "{tally:?}");
}
