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

/// What translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Nat {
    /// vpnat, TC.
    Vpnat,
    /// netfilter's.
    Iptables,
    /// Nothing: one pod's address, that the vendor knows, and forwarding.
    Plain,
}

fn run(first: First, nat_by: Nat) -> Tally {
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
        xdp: Xdp::Off,
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
    match nat_by {
        Nat::Vpnat => {
            agent.start();
        }
        Nat::Iptables => {
            let rule = format!("-p tcp -s 10.0.2.0/24 -o eth0 -j SNAT --to-source {EGRESS}:1024-65535");
            nat.run(&format!("iptables -t nat -A POSTROUTING {rule}"));
        }
        Nat::Plain => vendor.ip("route add 10.0.2.0/24 via 192.0.2.1"),
    }
    let at = SocketAddrV4::new(VENDOR, 8080);
    let _server = Server::start(&vendor, at, first);
    let (pace, limits) = match long {
        Some(seconds) => (Duration::from_millis(8), (u64::MAX, Duration::from_secs(seconds))),
        None => (PACE, (ENOUGH, Duration::from_secs(120))),
    };
    let tally = connect(&pods, &addresses, at, first, (64, pace), limits);
    if nat_by != Nat::Vpnat {
        println!("{first:?} first, {nat_by:?}: {:.0} a second, {tally:?}", tally.rate());
        return tally;
    }
    let refused = agent.metric("vpnat_hook_packets_total", &["outcome=\"ports-exhausted\""]);
    println!("{first:?} first, {nat_by:?}: {:.0} a second, {tally:?}, {refused} refused", tally.rate());
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
    let tally = run(First::Client, Nat::Vpnat);
    assert_eq!((tally.failed, tally.retried), (0, 0), "{tally:?}");
}

/// The server remembers each connection for a minute, and turns away what is older.
#[test]
fn rfc6191_rfc6056_2_3_the_server_closes_first() {
    let tally = run(First::Server, Nat::Vpnat);
    assert_eq!((tally.failed, tally.retried), (0, 0), "{tally:?}");
}

/// The same beside netfilter and beside plain forwarding, in one run, each for as long as `VPNAT_RECYCLING_SECONDS` says.
/// Whoever closes first, vpnat fails none.
#[test]
#[ignore = "measures for minutes: VPNAT_RECYCLING_SECONDS=120 cargo xtask test --tier lab -- --ignored beside_iptables"]
fn beside_iptables_and_plain_forwarding() {
    assert!(std::env::var_os("VPNAT_RECYCLING_SECONDS").is_some(), "VPNAT_RECYCLING_SECONDS says how long");
    for first in [First::Client, First::Server] {
        let [plain, iptables, vpnat] = [Nat::Plain, Nat::Iptables, Nat::Vpnat].map(|nat| run(first, nat));
        assert_eq!((vpnat.failed, vpnat.retried), (0, 0), "{vpnat:?}");
        println!(
            "{first:?} first, connections a second: plain {:.0}, iptables {:.0} ({} failed, {} tried again), vpnat {:.0}",
            plain.rate(),
            iptables.rate(),
            iptables.failed,
            iptables.retried,
            vpnat.rate()
        );
    }
}
