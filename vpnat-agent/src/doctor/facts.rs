//! What the checks look at. Whatever cannot be found out is absent, and the check says so.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use ipnet::Ipv4Net;
use vpnat_common::layout::flow::{Direction, kind};

use super::firewall::{self, Rule};
use super::peers::{Peer, local_ends, peers};
use crate::config::Config;
use crate::datapath::flows::{each_entry, half};
use crate::datapath::maps::Table;
use crate::datapath::pins::Pins;
use crate::datapath::xdp;
use crate::datapath::{Error, kernel};
use crate::netlink::links::{self, Link};
use crate::netlink::lookup::{Query, Way, way};

/// An address that no table has a route of its own for, so that the default route answers; nothing is sent there.
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

/// The facts.
#[derive(Debug)]
pub struct Facts {
    /// The configuration.
    pub config: Config,
    /// All devices.
    pub links: Vec<Link>,
    /// Addresses of this machine.
    pub local: Vec<Ipv4Addr>,
    /// `net.ipv4.ip_forward`.
    pub forwarding: Option<u32>,
    /// Packets that came through IPsec and that no policy lets on (`XfrmInNoPols`); `None` without IPsec.
    pub without_policy: Option<u64>,
    /// Reverse-path filter in force, by device.
    pub rp_filter: HashMap<String, u32>,
    /// The way to the first address of each vendor prefix, or why there is none.
    pub ways: Vec<(String, Ipv4Net, Result<Way, String>)>,
    /// The way to everywhere else, if there is one.
    pub default_way: Option<Way>,
    /// Inside and outside devices that merge packets as they arrive (LRO).
    pub merging: Vec<String>,
    /// Whether the kernel has what the programs need, and its release.
    pub kernel: (String, Result<(), String>),
    /// How XDP would be used.
    pub xdp: Result<String, String>,
    /// Rules of the firewall that rewrite sources; `None` if no tool could list it.
    pub rewriting_rules: Option<Vec<Rule>>,
    /// Ports of sockets that are bound to an egress address.
    pub bound: Vec<(Ipv4Addr, u16)>,
    /// Whom this machine speaks to itself.
    pub peers: Vec<Peer>,
    /// How many flows each inside address has; `None` if nothing is pinned.
    pub flows: Option<HashMap<Ipv4Addr, usize>>,
    /// Memory that is available, KiB.
    pub available_kib: Option<u64>,
    /// Allowances that were exceeded: device, counter, value.
    pub exceeded: Vec<(String, String, u64)>,
}

impl Facts {
    /// Looks at this machine.
    pub fn gather(config: Config, pins: &Pins) -> Result<Self, Error> {
        let error = |error| Error::Netlink { action: "listing devices", error };
        let links = links::dump().map_err(error)?;
        let local = links::local_addresses().map_err(error)?;
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u32>().ok();
        let all = number("/proc/sys/net/ipv4/conf/all/rp_filter").unwrap_or(0);
        let rp_filter = links.iter().filter_map(|link| {
            let own = number(&format!("/proc/sys/net/ipv4/conf/{}/rp_filter", link.name))?;
            Some((link.name.clone(), own.max(all)))
        });
        let vendors = config.vendors.iter();
        let prefixes =
            vendors.flat_map(|vendor| vendor.cidrs.iter().map(|cidr| (vendor.name.clone(), *cidr)));
        let ways = prefixes.map(|(name, cidr)| (name, cidr, first_way(cidr))).collect();
        let egress: Vec<Ipv4Addr> =
            config.vendors.iter().flat_map(|vendor| vendor.egress_ips.clone()).collect();
        let configured = config.devices();
        let facts: Vec<xdp::Facts> = links
            .iter()
            .filter(|link| configured.contains(&link.name.as_str()))
            .map(xdp::Facts::of)
            .collect();
        let xdp = xdp::decide(config.xdp, &facts)
            .map(|decision| format!("{}: {}", decision.mode.name(), decision.reason))
            .map_err(|error| error.to_string());
        let merging = configured
            .iter()
            .filter(|device| output("ethtool", &["-k", device]).is_some_and(|features| merges(&features)));
        let merging = merging.map(|device| (*device).to_owned()).collect();
        let exceeded = configured.iter().flat_map(|device| exceeded(device)).collect();
        Ok(Self {
            rp_filter: rp_filter.collect(),
            forwarding: number("/proc/sys/net/ipv4/ip_forward"),
            without_policy: without_policy(&fs::read_to_string("/proc/net/xfrm_stat").unwrap_or_default()),
            ways,
            kernel: (kernel::release(), kernel::check_features().map_err(|error| error.to_string())),
            xdp,
            rewriting_rules: firewall::rules(),
            default_way: way(&Query { from: None, to: ANYWHERE, arriving: None }).ok().flatten(),
            merging,
            bound: bound(&egress),
            peers: peers(),
            flows: flows(pins),
            available_kib: available(),
            exceeded,
            links,
            local,
            config,
        })
    }
}

/// The counter in a table of IPsec's (`Documentation/networking/xfrm_proc.rst`).
pub(super) fn without_policy(table: &str) -> Option<u64> {
    let mut lines = table.lines().map(|line| line.split_whitespace());
    lines.find_map(|mut words| (words.next()? == "XfrmInNoPols").then_some(words.next()?.parse().ok()?))
}

fn first_way(cidr: Ipv4Net) -> Result<Way, String> {
    let to = cidr.hosts().next().unwrap_or(cidr.addr());
    match way(&Query { from: None, to, arriving: None }) {
        Ok(Some(way)) => Ok(way),
        Ok(None) => Err("a route throws its packets away".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// What a tool prints; `None` if it is not there or fails.
pub(super) fn output(tool: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(tool).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn bound(egress: &[Ipv4Addr]) -> Vec<(Ipv4Addr, u16)> {
    let tables = ["/proc/net/udp", "/proc/net/tcp"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|text| local_ends(text)).filter(|(address, _)| egress.contains(address)).collect()
}

/// Counted by their outbound halves, in memory that grows with the sources and not with the table.
fn flows(pins: &Pins) -> Option<HashMap<Ipv4Addr, usize>> {
    let mut counts = HashMap::new();
    each_entry(&Table::flows(pins).ok()?, |key, entry| {
        if key.kind == kind::FLOW && entry.direction == Direction::Outbound {
            *counts.entry(Ipv4Addr::from(half(key, *entry).inside.address)).or_default() += 1;
        }
    })
    .ok()?;
    Some(counts)
}

fn available() -> Option<u64> {
    let text = fs::read_to_string(Path::new("/proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn exceeded(device: &str) -> Vec<(String, String, u64)> {
    let text = output("ethtool", &["-S", device]).unwrap_or_default();
    let counters = allowances(&text).into_iter();
    counters.map(|(name, value)| (device.to_owned(), name, value)).collect()
}

/// The allowances of `ethtool -S` that were exceeded.
pub(super) fn allowances(text: &str) -> Vec<(String, u64)> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
    let pairs = pairs.filter(|(name, _)| name.ends_with("_allowance_exceeded"));
    let values = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)));
    values.filter(|(_, value)| *value > 0).collect()
}

/// Whether `ethtool -k` says that a device merges packets for good.
pub(super) fn merges(features: &str) -> bool {
    features.lines().any(|line| line.trim().starts_with("large-receive-offload: on"))
}
