use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::checks::{MANY_FLOWS, STRICT, check};
use super::facts::{allowances as exceeded, merges, without_policy};
use super::firewall;
use super::peers::Peer;
use super::{Facts, Level};
use crate::config::{Config, Mss};
use crate::netlink::links::{Layer, Link};
use crate::netlink::lookup::Way;

/// A machine on which all is well.
fn healthy() -> Facts {
    let config = Config::parse(include_str!("../../vpnat.example.toml"), "x".as_ref()).unwrap();
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        layer: Layer::Ethernet,
        mtu: 1500,
        mac: [0; 6],
        up: true,
        xdp: None,
        lower: None,
        master: None,
        tunnel: false,
    };
    let way = Way { device: 2, gateway: None, mtu: None, local: false };
    Facts {
        ways: vec![("vendor-a".into(), "192.0.2.0/24".parse().unwrap(), Ok(way))],
        default_way: None,
        merging: vec![],
        links: vec![link(2, "eth0"), link(3, "eth1")],
        local: vec![Ipv4Addr::new(10, 0, 1, 10)],
        forwarding: Some(1),
        without_policy: Some(0),
        rp_filter: HashMap::from([("eth0".into(), STRICT)]),
        kernel: ("6.1".into(), Ok(())),
        xdp: Ok("off".into()),
        rewriting_rules: Some(vec![]),
        bound: vec![],
        peers: vec![],
        flows: Some(HashMap::from([(Ipv4Addr::new(10, 0, 2, 7), 5)])),
        available_kib: Some(1 << 30),
        exceeded: vec![],
        config,
    }
}

/// What is wrong after `change`: each check and how bad it is.
fn wrong(change: impl FnOnce(&mut Facts)) -> Vec<(&'static str, Level)> {
    let mut facts = healthy();
    change(&mut facts);
    let findings = check(&facts).into_iter().filter(|finding| finding.level != Level::Ok);
    findings
        .inspect(|finding| assert!(!finding.why.is_empty() && finding.fix.is_some(), "{finding:?}"))
        .map(|finding| (finding.check, finding.level))
        .collect()
}

#[test]
fn a_healthy_machine_is_told_so() {
    assert_eq!(wrong(|_| {}), []);
}

#[test]
fn each_check_tells_what_is_wrong() {
    use Level::{Error, Warning};
    assert_eq!(wrong(|f| f.kernel.1 = Err("no type information".into())), [("kernel", Error)]);
    assert_eq!(wrong(|f| f.forwarding = Some(0)), [("forwarding", Error)]);
    assert_eq!(wrong(|f| f.without_policy = Some(3)), [("ipsec", Warning)]);
    assert_eq!(wrong(|f| f.without_policy = None), []);
    assert_eq!(wrong(|f| f.links[1].up = false), [("device", Error)]);
    assert_eq!(wrong(|f| f.links.truncate(1)), [("device", Error)]);
    assert_eq!(wrong(|f| f.local.clear()), [("egress", Warning)]);
    assert_eq!(wrong(|f| f.ways[0].2 = Err("unreachable".into())), [("route", Error)]);
    let elsewhere = Way { device: 3, gateway: None, mtu: None, local: false };
    assert_eq!(wrong(|f| f.ways[0].2 = Ok(elsewhere)), [("rp_filter", Warning), ("route", Error)]);
    assert_eq!(wrong(|f| f.xdp = Err("the driver".into())), [("xdp", Error)]);
    assert_eq!(wrong(|f| f.config.vendors[0].mss = Mss::Fixed(1461)), [("mss", Warning)]);
    assert_eq!(wrong(|f| f.config.vendors[0].mss = Mss::Fixed(1460)), []);
    let jumbo = |f: &mut Facts| {
        f.config.vendors[0].mss = Mss::Off;
        f.links[1].mtu = 9001;
    };
    assert_eq!(wrong(jumbo), [("mss", Warning)]);
    assert_eq!(wrong(|f| f.rewriting_rules = None), [("firewall", Warning)]);
    let rules =
        |text: &str| Some(firewall::in_nft(&format!("table ip nat {{\nchain post {{\n{text}\n}}\n}}")));
    assert_eq!(wrong(|f| f.rewriting_rules = rules("masquerade")), [("firewall", Warning)]);
    assert_eq!(wrong(|f| f.rewriting_rules = rules("ip daddr != 192.0.2.0/24 masquerade")), []);
    assert_eq!(wrong(|f| f.merging = vec!["eth0".into()]), [("offloads", Error)]);
    let egress = Ipv4Addr::new(10, 0, 1, 10);
    assert_eq!(wrong(|f| f.bound = vec![(egress, 4500)]), [("sockets", Warning)]);
    assert_eq!(wrong(|f| f.bound = vec![(egress, 500)]), []);
    let node = HashMap::from([(Ipv4Addr::new(10, 0, 3, 1), MANY_FLOWS)]);
    assert_eq!(wrong(|f| f.flows = Some(node)), [("sources", Warning)]);
    let short = |f: &mut Facts| {
        f.flows = None;
        f.available_kib = Some(1000);
    };
    assert_eq!(wrong(short), [("memory", Warning)]);
    let counter = ("eth0".into(), "pps_allowance_exceeded".into(), 7);
    assert_eq!(wrong(|f| f.exceeded = vec![counter]), [("allowances", Warning)]);
}

#[test]
fn a_far_end_in_a_vendors_prefix() {
    use Level::{Error, Warning};
    let remote = Ipv4Addr::new(192, 0, 2, 1);
    let peer =
        |is_tunnel, local: [u8; 4], remote| Peer { who: "x".into(), is_tunnel, local: local.into(), remote };
    let tunnel = peer(true, [10, 0, 1, 5], remote);
    assert_eq!(wrong(|f| f.peers = vec![tunnel.clone(), tunnel.clone()]), [("peers", Error)]);
    assert_eq!(wrong(|f| f.peers = vec![peer(false, [10, 0, 1, 5], remote)]), [("peers", Warning)]);
    assert_eq!(wrong(|f| f.peers = vec![peer(false, [10, 0, 1, 10], remote)]), []);
    assert_eq!(wrong(|f| f.peers = vec![peer(true, [10, 0, 1, 5], Ipv4Addr::new(203, 0, 113, 1))]), []);
    let exempted = |f: &mut Facts| {
        f.config.vendors[0].exempt = vec!["192.0.2.1/32".parse().unwrap()];
        f.peers = vec![tunnel];
    };
    assert_eq!(wrong(exempted), []);
}

#[test]
fn listings_are_read() {
    let table = "XfrmInError             \t0\nXfrmInNoPols            \t12\n";
    assert_eq!((without_policy(table), without_policy("")), (Some(12), None));
    let features = "Features for eth0:\nrx-checksumming: on\nlarge-receive-offload: on\n";
    assert!(merges(features) && !merges(&features.replace("offload: on", "offload: off [fixed]")));
    let text = "NIC statistics:\n  pps_allowance_exceeded: 3\n  bw_in_allowance_exceeded: 0\n  conntrack_allowance_available: 9\n";
    assert_eq!(exceeded(text), [("pps_allowance_exceeded".to_owned(), 3)]);
}

#[test]
fn a_route_is_mended_by_what_is_known() {
    let fix = |change: &dyn Fn(&mut Facts)| {
        let mut facts = healthy();
        facts.ways[0].2 = Err("unreachable".into());
        change(&mut facts);
        let findings = check(&facts);
        findings.into_iter().find(|finding| finding.check == "route").and_then(|finding| finding.fix).unwrap()
    };
    assert_eq!(fix(&|_| {}), "ip route replace 192.0.2.0/24 via ROUTER dev eth0");
    let router = Ipv4Addr::new(10, 0, 1, 1);
    let default = Way { device: 2, gateway: Some(router), mtu: None, local: false };
    assert_eq!(
        fix(&|f| f.default_way = Some(default)),
        "ip route replace 192.0.2.0/24 via 10.0.1.1 dev eth0"
    );
    assert_eq!(fix(&|f| f.links[0].layer = Layer::Ip), "ip route replace 192.0.2.0/24 dev eth0");
}
