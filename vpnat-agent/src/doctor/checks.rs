//! The checks, each a function of the facts.

use ipnet::Ipv4Net;

use super::{Facts, Finding, Level, firewall, peers};
use crate::config::Mss;
use crate::netlink::links::Layer;

/// What a flow takes of the kernel's memory, bytes: two entries and their buckets.
const FLOW_BYTES: u64 = 260;
/// IPv4 and TCP headers without options, bytes.
const HEADERS: u32 = 40;
/// Flows of one source from which on it looks like a node that stands for many pods.
pub(super) const MANY_FLOWS: usize = 1000;
/// Strict reverse-path filter (`Documentation/networking/ip-sysctl.rst`).
pub(super) const STRICT: u32 = 1;

/// All checks, in the order in which they are shown.
pub fn check(facts: &Facts) -> Vec<Finding> {
    [
        kernel,
        forwarding,
        devices,
        offloads,
        rp_filter,
        ipsec,
        egress,
        routes,
        xdp,
        mss,
        firewall::check,
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

fn offloads(facts: &Facts) -> Vec<Finding> {
    if facts.merging.is_empty() {
        return vec![ok("offloads", "no device merges packets that are to be sent on (LRO)")];
    }
    let each = facts.merging.iter().map(|name| {
        bad(
            "offloads",
            Level::Error,
            format!("{name} merges packets as they arrive (large-receive-offload)"),
            "Nobody can take them apart again: the kernel drops them instead of sending them on, and XDP is refused.",
            format!("ethtool -K {name} lro off"),
        )
    });
    each.collect()
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
                    "Replies come here only if the network routes the address to this machine: in a cloud, assign it to the network interface, too.",
                    // Whatever device has it, the kernel takes it for its own and answers for it.
                    format!("ip address add {address}/32 dev lo"),
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
                    route_by_outside(facts, prefix),
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
                route_by_outside(facts, prefix),
            )
        });
    }
    findings
}

/// The command that has `prefix` routed through the first outside device, a tunnel if there is one.
fn route_by_outside(facts: &Facts, prefix: &Ipv4Net) -> String {
    let outside = facts.links.iter().filter(|link| facts.config.outside.contains(&link.name));
    let Some(link) = outside.min_by_key(|link| link.layer == Layer::Ethernet) else {
        return format!("ip route replace {prefix} dev {}", facts.config.outside.join(" or "));
    };
    if link.layer != Layer::Ethernet {
        return format!("ip route replace {prefix} dev {}", link.name);
    }
    // The router that others are reached by, if any.
    let others = facts.ways.iter().filter_map(|(_, _, way)| way.as_ref().ok()).chain(&facts.default_way);
    let gateway = others.filter(|way| way.device == link.index).find_map(|way| way.gateway);
    let gateway = gateway.map_or("ROUTER".to_owned(), |address| address.to_string());
    format!("ip route replace {prefix} via {gateway} dev {}", link.name)
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
    let prefixes = facts.config.vendors.iter().flat_map(|vendor| &vendor.cidrs);
    let prefixes: Vec<String> = prefixes.map(ToString::to_string).collect();
    // Nodes are few, and each speaks for all of its pods.
    vec![if busy.is_empty() || busy.len() * 2 < flows.len() {
        ok("sources", format!("{} sources, as pods look", flows.len()))
    } else {
        bad(
            "sources",
            Level::Warning,
            format!("few sources with very many flows: {}", busy.join(", ")),
            "They look like nodes: the VPC CNI rewrites pods' sources, so that allow_from and flows name nodes and not pods. AWS_VPC_K8S_CNI_EXTERNALSNAT=true stops it for all destinations.",
            format!(
                "kubectl set env --namespace kube-system daemonset/aws-node AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS={}",
                prefixes.join(",")
            ),
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
