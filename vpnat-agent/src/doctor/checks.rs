//! The checks, each a function of the facts.

use super::{Facts, Finding, Level, peers};
use crate::config::Mss;

/// What a flow takes of the kernel's memory, bytes: two entries and their buckets.
const FLOW_BYTES: u64 = 260;
/// IPv4 and TCP headers without options, bytes.
const HEADERS: u32 = 40;
/// Flows of one source from which on it looks like a node that stands for many pods.
const MANY_FLOWS: usize = 1000;
/// Strict reverse-path filter (`Documentation/networking/ip-sysctl.rst`).
const STRICT: u32 = 1;

/// All checks, in the order in which they are shown.
pub fn check(facts: &Facts) -> Vec<Finding> {
    [
        kernel,
        forwarding,
        devices,
        rp_filter,
        ipsec,
        egress,
        routes,
        xdp,
        mss,
        firewall,
        sockets,
        peers::check,
        sources,
        memory,
        allowances,
    ]
    .into_iter()
    .flat_map(|check| check(facts))
    .collect()
}

pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, level: Level::Ok, found: found.into(), why: "", fix: None }
}

pub(super) fn bad(
    check: &'static str,
    level: Level,
    found: impl Into<String>,
    why: &'static str,
    fix: impl Into<String>,
) -> Finding {
    Finding { check, level, found: found.into(), why, fix: Some(fix.into()) }
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    let (release, features) = &facts.kernel;
    vec![match features {
        Ok(()) => ok("kernel", format!("Linux {release}, with type information")),
        Err(reason) => bad(
            "kernel",
            Level::Error,
            reason.clone(),
            "The programs cannot be loaded.",
            "use Linux 6.1 or newer with CONFIG_DEBUG_INFO_BTF=y",
        ),
    }]
}

fn forwarding(facts: &Facts) -> Vec<Finding> {
    const WHY: &str = "Without it the kernel drops what pods send on.";
    vec![match facts.forwarding {
        Some(1) => ok("forwarding", "net.ipv4.ip_forward is 1"),
        Some(_) => bad(
            "forwarding",
            Level::Error,
            "net.ipv4.ip_forward is 0",
            WHY,
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        None => bad("forwarding", Level::Warning, "net.ipv4.ip_forward cannot be read", WHY, "mount /proc"),
    }]
}

fn devices(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in facts.config.devices() {
        const WHY: &str = "No packet passes it.";
        findings.push(match facts.links.iter().find(|link| link.name == name) {
            None => bad(
                "device",
                Level::Error,
                format!("{name} is not there"),
                WHY,
                format!("bring up the tunnel that makes {name}, or correct [datapath]"),
            ),
            Some(link) if !link.up => bad(
                "device",
                Level::Error,
                format!("{name} is down"),
                WHY,
                format!("ip link set dev {name} up"),
            ),
            Some(link) => ok("device", format!("{name} is up, MTU {}", link.mtu)),
        });
    }
    findings
}

fn rp_filter(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in &facts.config.outside {
        let strict = facts.rp_filter.get(name) == Some(&STRICT);
        let index = facts.links.iter().find(|link| link.name == *name).map(|link| link.index);
        let elsewhere = facts
            .ways
            .iter()
            .find(|(_, _, way)| way.as_ref().is_ok_and(|way| index.is_some_and(|index| way.device != index)));
        findings.push(match elsewhere {
            Some((_, prefix, _)) if strict => bad(
                "rp_filter",
                Level::Warning,
                format!("{name} has a strict reverse-path filter, and {prefix} is routed through another device"),
                "Replies that arrive here are dropped before the pod gets them, for instance when two tunnels share the load.",
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
            ),
            _ => ok("rp_filter", format!("{name}: no reply is dropped for the way that it comes")),
        });
    }
    findings
}

fn ipsec(facts: &Facts) -> Vec<Finding> {
    let found = facts.without_policy.map(|count| match count {
        0 => ok("ipsec", "every packet that came through IPsec had a policy"),
        _ => bad(
            "ipsec",
            Level::Warning,
            format!("{count} packets came through IPsec and were dropped for want of a policy (XfrmInNoPols)"),
            "The tunnel's policies know the egress address only, and replies go on to pods: these need a policy, too.",
            "ip xfrm policy add src VENDOR dst PODS dir fwd if_id N tmpl proto esp mode tunnel",
        ),
    });
    found.into_iter().collect()
}

fn egress(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for vendor in &facts.config.vendors {
        for address in &vendor.egress_ips {
            findings.push(if facts.local.contains(address) {
                ok("egress", format!("{address} ({}) is an address of this machine", vendor.name))
            } else {
                bad(
                    "egress",
                    Level::Warning,
                    format!("{address} ({}) is not an address of this machine", vendor.name),
                    "Replies come here only if the network routes the address to this machine.",
                    format!(
                        "assign it to the network interface, then `ip address add {address}/32 dev DEVICE`"
                    ),
                )
            });
        }
    }
    findings
}

fn routes(facts: &Facts) -> Vec<Finding> {
    const WHY: &str = "Packets to this vendor are refused: they may leave by outside devices only.";
    let mut findings = Vec::new();
    for (vendor, prefix, way) in &facts.ways {
        let way = match way {
            Ok(way) => way,
            Err(reason) => {
                findings.push(bad(
                    "route",
                    Level::Error,
                    format!("no way to {prefix} ({vendor}): {reason}"),
                    WHY,
                    format!("ip route add {prefix} dev {}", facts.config.outside.join(" or ")),
                ));
                continue;
            }
        };
        let link = facts.links.iter().find(|link| link.index == way.device);
        let name = link.map_or("?", |link| link.name.as_str());
        let outside = facts.config.outside.iter().any(|device| device == name);
        findings.push(if outside {
            ok("route", format!("{prefix} ({vendor}) is reached through {name}"))
        } else {
            bad(
                "route",
                Level::Error,
                format!("{prefix} ({vendor}) is routed through {name}, which is not in outside"),
                WHY,
                format!("ip route replace {prefix} dev {}", facts.config.outside.join(" or ")),
            )
        });
    }
    findings
}

fn xdp(facts: &Facts) -> Vec<Finding> {
    vec![match &facts.xdp {
        Ok(decision) => ok("xdp", decision.clone()),
        Err(reason) => bad(
            "xdp",
            Level::Error,
            reason.clone(),
            "The agent does not start with XDP as it is configured.",
            "set xdp = \"off\" or \"auto\" in [datapath]",
        ),
    }]
}

fn mss(facts: &Facts) -> Vec<Finding> {
    const WHY: &str = "Connections open and then hang: VPNs often have no path MTU discovery.";
    let mut findings = Vec::new();
    for vendor in &facts.config.vendors {
        let mine = facts.ways.iter().filter(|(name, _, _)| *name == vendor.name);
        let takes = mine.filter_map(|(_, _, way)| {
            let way = way.as_ref().ok()?;
            let device = facts.links.iter().find(|link| link.index == way.device).map(|link| link.mtu);
            way.mtu.or(device)
        });
        let Some(takes) = takes.min() else { continue };
        let fits = takes.saturating_sub(HEADERS);
        let name = &vendor.name;
        let widest = facts.links.iter().filter(|link| facts.config.inside.contains(&link.name));
        let widest = widest.map(|link| link.mtu).max().unwrap_or(0);
        let fix = format!("tcp_mss = \"auto\" or {fits} in [[vendor]] {name}");
        findings.push(match vendor.mss {
            Mss::Fixed(mss) if u32::from(mss) > fits => bad(
                "mss",
                Level::Warning,
                format!("{name}: tcp_mss = {mss}, and the way takes {takes} bytes, an MSS of {fits}"),
                WHY,
                fix,
            ),
            Mss::Off if widest > takes => bad(
                "mss",
                Level::Warning,
                format!(
                    "{name}: the MSS stays as it is, pods may send {widest} bytes, and the way takes {takes}"
                ),
                WHY,
                fix,
            ),
            _ => ok("mss", format!("{name}: the way takes {takes} bytes, an MSS of {fits}")),
        });
    }
    findings
}

fn firewall(facts: &Facts) -> Vec<Finding> {
    const WHY: &str = "Rules that rewrite sources track every packet of the stack, and may claim those that vpnat leaves to it.";
    vec![match facts.rewriting_rules.as_deref() {
        None => bad(
            "firewall",
            Level::Warning,
            "neither nft nor iptables-legacy-save could list the rules",
            WHY,
            "apt-get install nftables",
        ),
        Some([]) => ok("firewall", "no rule rewrites sources"),
        Some(rules) => bad(
            "firewall",
            Level::Warning,
            format!("{} rules rewrite sources: {}", rules.len(), rules.join("; ")),
            WHY,
            "delete them (`nft -a list ruleset` shows their handles), or keep the vendors' prefixes out of them",
        ),
    }]
}

fn sockets(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (address, port) in &facts.bound {
        let ranges = facts.config.vendors.iter().filter(|vendor| vendor.egress_ips.contains(address));
        let inside = ranges.map(|vendor| vendor.ports).find(|range| (range.min..=range.max).contains(port));
        if let Some(range) = inside {
            findings.push(bad(
                "sockets",
                Level::Warning,
                format!(
                    "a local socket has {address}:{port}, and ports {}-{} are given to pods",
                    range.min, range.max
                ),
                "What a vendor sends to that port is dropped unless this machine asked first, or is a pod's.",
                "let the service use another address, or leave its port out of [[vendor]] ports",
            ));
        }
    }
    if findings.is_empty() {
        findings.push(ok("sockets", "no local socket holds an egress address's port of the range"));
    }
    findings
}

fn sources(facts: &Facts) -> Vec<Finding> {
    let Some(flows) = &facts.flows else {
        return vec![ok("sources", "nothing is pinned, so there are no flows to look at")];
    };
    let busy = flows.iter().filter(|(_, count)| **count >= MANY_FLOWS);
    let mut busy: Vec<_> = busy.map(|(address, count)| format!("{address} ({count})")).collect();
    busy.sort();
    // Nodes are few, and each speaks for all of its pods.
    vec![if busy.is_empty() || busy.len() * 2 < flows.len() {
        ok("sources", format!("{} sources, as pods look", flows.len()))
    } else {
        bad(
            "sources",
            Level::Warning,
            format!("few sources with very many flows: {}", busy.join(", ")),
            "They look like nodes: the VPC CNI rewrites pods' sources, so that allow_from and flows name nodes and not pods.",
            "set AWS_VPC_K8S_CNI_EXTERNALSNAT=true, or list the vendors' prefixes in AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
        )
    }]
}

fn memory(facts: &Facts) -> Vec<Finding> {
    let wanted = u64::from(facts.config.max_flows) * FLOW_BYTES / 1024;
    // A table that is there already has its memory.
    vec![match facts.available_kib {
        Some(available) if facts.flows.is_none() && wanted > available / 2 => bad(
            "memory",
            Level::Warning,
            format!("the flow table takes {wanted} KiB, and {available} KiB are available"),
            "The table is made whole when the agent starts; too little memory stops it, or others.",
            "lower [datapath] max_flows, or use a larger instance",
        ),
        _ => ok("memory", format!("the flow table takes {wanted} KiB")),
    }]
}

fn allowances(facts: &Facts) -> Vec<Finding> {
    if facts.exceeded.is_empty() {
        return vec![ok("allowances", "no device reports an exceeded allowance")];
    }
    let each = facts.exceeded.iter().map(|(device, counter, value)| {
        bad(
            "allowances",
            Level::Warning,
            format!("{device}: {counter} is {value}"),
            "The cloud drops or delays packets beyond the instance's limits, and nothing on the instance can see which.",
            "use a larger instance type, or share the load between two",
        )
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use super::super::facts::{allowances as exceeded, rewriting, without_policy};
    use super::super::peers::Peer;
    use super::*;
    use crate::config::Config;
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
        assert_eq!(wrong(|f| f.rewriting_rules = Some(vec!["masquerade".into()])), [("firewall", Warning)]);
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
        let peer = |is_tunnel, local: [u8; 4], remote| Peer {
            who: "x".into(),
            is_tunnel,
            local: local.into(),
            remote,
        };
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
        let nft = "table ip nat {\n chain post {\n  type nat hook postrouting priority srcnat;\n  oifname eth0 masquerade\n  snat to 1.2.3.4\n }\n}";
        assert_eq!(rewriting(nft), ["oifname eth0 masquerade", "snat to 1.2.3.4"]);
        assert_eq!(rewriting("-A POSTROUTING -j MASQUERADE\n-A INPUT -j DROP").len(), 1);
        let text = "NIC statistics:\n  pps_allowance_exceeded: 3\n  bw_in_allowance_exceeded: 0\n  conntrack_allowance_available: 9\n";
        assert_eq!(exceeded(text), [("pps_allowance_exceeded".to_owned(), 3)]);
    }
}
