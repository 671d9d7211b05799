//! The rules between the parts of a configuration. All that are broken are reported, not only the first.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Component;

use ipnet::Ipv4Net;
use toml::Spanned;
use vpnat_common::layout::vendor::Timeouts;

use super::issue::Issue;
use super::limits::{
    self, LONGEST_DEVICE, LONGEST_NAME, LONGEST_RUN_DIR, LOWEST_PORT, MOST_EGRESS, MOST_VENDORS, Number,
    Timer,
};
use super::{Config, Mss, PortRange, Vendor, flow_log, prefix, schema};

/// Broken rules with their offsets in the file.
pub type Issues = Vec<(usize, Issue)>;

/// A prefix and where it stands.
#[derive(Clone, Copy)]
struct Placed<T> {
    value: T,
    offset: usize,
}

/// A vendor's lists with their places, for the rules between vendors.
struct Lists {
    name: Placed<usize>,
    cidrs: Vec<Placed<Ipv4Net>>,
    egress_ips: Vec<Placed<Ipv4Addr>>,
    allow_from: Vec<Placed<Ipv4Net>>,
}

/// Turns the file into a configuration, or says everything that is wrong with it.
pub fn check(file: schema::File) -> Result<Config, Issues> {
    let mut issues = Issues::new();
    let mut warnings = Vec::new();

    let datapath_offset = file.datapath.span().start;
    let datapath = file.datapath.into_inner();
    let inside = devices("inside", &datapath.inside, &mut issues);
    let outside = devices("outside", &datapath.outside, &mut issues);
    let max_flows = max_flows(datapath.max_flows.as_ref(), &mut issues);
    let refusal_answers = refusal_answers(datapath.refusal_answers.as_ref(), &mut issues);
    pin_root(&file.agent, datapath_offset, &mut issues);
    run_dir(&file.agent, datapath_offset, &mut issues);
    let flow_log = file.flow_log.map(|section| flow_log::check(section, &mut issues));

    if file.vendor.is_empty() {
        issues.push((0, Issue::NoVendor));
    }
    if let Some(beyond) = file.vendor.get(MOST_VENDORS) {
        issues.push((beyond.span().start, Issue::TooManyVendors { count: file.vendor.len() }));
    }

    let mut vendors = Vec::new();
    let mut lists = Vec::new();
    for (position, entry) in file.vendor.into_iter().enumerate() {
        let (vendor, placed) = vendor(position, entry.into_inner(), &mut issues, &mut warnings);
        vendors.push(vendor);
        lists.push(placed);
    }
    between_vendors(&vendors, &lists, &mut issues);

    if issues.is_empty() {
        Ok(Config {
            metrics: file.agent.metrics,
            pin_root: file.agent.bpffs,
            enable_forwarding: file.agent.enable_forwarding,
            run_dir: file.agent.run_dir,
            on_removal: file.agent.on_removal,
            inside,
            outside,
            xdp: datapath.xdp,
            redirect: datapath.redirect,
            refusal_answers,
            max_flows,
            flow_log,
            vendors,
            warnings,
        })
    } else {
        issues.sort_by_key(|(offset, _)| *offset);
        Err(issues)
    }
}

fn devices(list: &'static str, names: &Spanned<schema::Texts>, issues: &mut Issues) -> Vec<String> {
    if names.get_ref().is_empty() {
        issues.push((names.span().start, Issue::EmptyList { list }));
    }
    let mut seen: Vec<String> = Vec::new();
    for entry in names.get_ref() {
        let name = entry.get_ref();
        // The kernel's own rule (`dev_valid_name`).
        let valid = !name.is_empty()
            && name.len() <= LONGEST_DEVICE
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
        let issue = if !valid {
            Issue::BadDeviceName { name: name.clone() }
        } else if name == "lo" {
            Issue::LoopbackDevice
        } else if seen.contains(name) {
            Issue::DuplicateDevice { name: name.clone(), list }
        } else {
            seen.push(name.clone());
            continue;
        };
        issues.push((entry.span().start, issue));
    }
    seen
}

fn max_flows(value: Option<&Spanned<u32>>, issues: &mut Issues) -> u32 {
    let Some(entry) = value else { return limits::MAX_FLOWS.default };
    let value = *entry.get_ref();
    if !limits::MAX_FLOWS.takes(value) {
        issues.push((entry.span().start, Issue::MaxFlowsOutOfRange { value }));
    }
    value
}

fn refusal_answers(value: Option<&Spanned<u32>>, issues: &mut Issues) -> u32 {
    let Some(entry) = value else { return limits::REFUSAL_ANSWERS.default };
    let value = *entry.get_ref();
    if !limits::REFUSAL_ANSWERS.takes(value) {
        issues.push((entry.span().start, Issue::RefusalAnswersOutOfRange { value }));
    }
    value
}

fn limit(number: &Number, value: Option<&Spanned<u32>>, issues: &mut Issues) -> u32 {
    let Number { name, least, most, default } = *number;
    let Some(entry) = value else { return default };
    let value = *entry.get_ref();
    if !number.takes(value) {
        issues.push((entry.span().start, Issue::OutOfRange { name, value, least, most }));
    }
    value
}

fn mss(value: &Spanned<schema::TcpMss>, issues: &mut Issues) -> Mss {
    let text = match value.get_ref() {
        schema::TcpMss::Word(word) if word == "auto" => return Mss::Auto,
        schema::TcpMss::Word(word) if word == "off" => return Mss::Off,
        schema::TcpMss::Word(word) => format!("\"{word}\""),
        schema::TcpMss::Bytes(bytes) => match u16::try_from(*bytes) {
            Ok(bytes) if limits::MSS.takes(bytes.into()) => return Mss::Fixed(bytes),
            _ => bytes.to_string(),
        },
    };
    issues.push((value.span().start, Issue::BadMss { text }));
    Mss::Auto
}

/// The BPF file system refuses names with dots.
fn pin_root(agent: &schema::Agent, offset: usize, issues: &mut Issues) {
    let path = &agent.bpffs;
    let plain = path.is_absolute()
        && path.components().skip(1).all(|component| match component {
            Component::Normal(name) => !name.as_encoded_bytes().contains(&b'.'),
            _ => false,
        });
    if !plain {
        issues.push((offset, Issue::BadPinRoot { path: path.display().to_string() }));
    }
}

fn run_dir(agent: &schema::Agent, offset: usize, issues: &mut Issues) {
    let path = &agent.run_dir;
    if !path.is_absolute() || path.as_os_str().len() > LONGEST_RUN_DIR {
        issues.push((offset, Issue::BadRunDir { path: path.display().to_string() }));
    }
}

fn vendor(
    position: usize,
    raw: schema::Vendor,
    issues: &mut Issues,
    warnings: &mut Vec<String>,
) -> (Vendor, Lists) {
    let name = raw.name.get_ref().clone();
    if !is_label(&name) {
        issues.push((raw.name.span().start, Issue::BadVendorName { name: name.clone() }));
    }
    let cidrs = prefixes("cidrs", &raw.cidrs, issues);
    let exempt = placed_prefixes(&raw.exempt, issues);
    for entry in &exempt {
        let prefix = entry.value;
        if cidrs.iter().any(|cidr| cidr.value == prefix) {
            issues.push((entry.offset, Issue::ExemptIsCidr { prefix }));
        } else if !cidrs.iter().any(|cidr| cidr.value.contains(&prefix)) {
            issues.push((entry.offset, Issue::ExemptOutside { prefix }));
        }
    }
    let egress_ips = egress_addresses(&raw.egress_ips, issues);
    let allow_from = prefixes("allow_from", &raw.allow_from, issues);
    let ports = raw.ports.as_ref().map_or(PortRange::DEFAULT, |text| ports(text, issues));
    let timeouts = timeouts(&name, &raw.timeouts, issues, warnings);
    let vendor = Vendor {
        name,
        cidrs: values(&cidrs),
        exempt: values(&exempt),
        egress_ips: values(&egress_ips),
        allow_from: values(&allow_from),
        ports,
        tcp_pick_up: raw.tcp_pick_up.unwrap_or(true),
        mapping: raw.mapping,
        max_flows_per_source: limit(&limits::MAX_FLOWS_PER_SOURCE, raw.max_flows_per_source.as_ref(), issues),
        new_flows_per_source: limit(&limits::NEW_FLOWS_PER_SOURCE, raw.new_flows_per_source.as_ref(), issues),
        port_hold: limit(&limits::PORT_HOLD, raw.port_hold.as_ref(), issues),
        max_held_ports: limit(&limits::MAX_HELD_PORTS, raw.max_held_ports.as_ref(), issues),
        refuse: raw.refuse,
        mss: raw.tcp_mss.as_ref().map_or(Mss::Auto, |value| mss(value, issues)),
        timeouts,
    };
    let name = Placed { value: position, offset: raw.name.span().start };
    (vendor, Lists { name, cidrs, egress_ips, allow_from })
}

fn values<T: Copy>(placed: &[Placed<T>]) -> Vec<T> {
    placed.iter().map(|entry| entry.value).collect()
}

/// Fit for a metric label, a file name and the map layout.
fn is_label(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn prefixes(list: &'static str, texts: &Spanned<schema::Texts>, issues: &mut Issues) -> Vec<Placed<Ipv4Net>> {
    if texts.get_ref().is_empty() {
        issues.push((texts.span().start, Issue::EmptyList { list }));
    }
    placed_prefixes(texts.get_ref(), issues)
}

fn placed_prefixes(texts: &[Spanned<String>], issues: &mut Issues) -> Vec<Placed<Ipv4Net>> {
    let mut prefixes: Vec<Placed<Ipv4Net>> = Vec::new();
    for text in texts {
        let offset = text.span().start;
        match prefix::parse(text.get_ref()) {
            Ok(prefix) if prefixes.iter().any(|entry| entry.value == prefix) => {
                issues.push((offset, Issue::DuplicatePrefix { prefix }));
            }
            Ok(value) => prefixes.push(Placed { value, offset }),
            Err(error) => issues.push((offset, Issue::Prefix(error))),
        }
    }
    prefixes
}

fn egress_addresses(texts: &Spanned<schema::Texts>, issues: &mut Issues) -> Vec<Placed<Ipv4Addr>> {
    let start = texts.span().start;
    let count = texts.get_ref().len();
    if count == 0 {
        issues.push((start, Issue::EmptyList { list: "egress_ips" }));
    }
    if count > MOST_EGRESS {
        issues.push((start, Issue::TooManyEgress { count }));
    }
    let mut addresses: Vec<Placed<Ipv4Addr>> = Vec::new();
    for entry in texts.get_ref() {
        let offset = entry.span().start;
        let text = entry.get_ref();
        let issue = match text.parse::<Ipv4Addr>() {
            Ok(address) if unusable(address) => Issue::UnusableEgress { address },
            Ok(address) if addresses.iter().any(|known| known.value == address) => {
                Issue::DuplicateEgress { address }
            }
            Ok(value) => {
                addresses.push(Placed { value, offset });
                continue;
            }
            Err(_) if text.parse::<Ipv6Addr>().is_ok() => Issue::Ipv6Address { text: text.clone() },
            Err(_) => Issue::BadAddress { text: text.clone() },
        };
        issues.push((offset, issue));
    }
    addresses
}

/// Not a unicast source: this network, loopback, multicast, reserved, broadcast.
fn unusable(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first == 0 || address.is_loopback() || first >= 224
}

fn ports(entry: &Spanned<String>, issues: &mut Issues) -> PortRange {
    let text = entry.get_ref();
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let range = text.split_once('-').and_then(|(min, max)| Some((number(min)?, number(max)?)));
    let issue = match range {
        None => Issue::BadPorts { text: text.clone() },
        Some((min, max)) if min > max => Issue::PortsReversed { min, max },
        Some((min, max)) if min < LOWEST_PORT => Issue::PortsTooLow { min, max },
        Some((min, max)) => return PortRange { min, max },
    };
    issues.push((entry.span().start, issue));
    PortRange::DEFAULT
}

/// A minimum that the RFC words as MUST NOT is an error below it unless `allow_short` is set, and then a
/// warning: load tests and middleboxes on the way can be reasons, a typing mistake is the commoner one.
fn timeouts(
    vendor: &str,
    raw: &schema::Timeouts,
    issues: &mut Issues,
    warnings: &mut Vec<String>,
) -> Timeouts {
    let mut take = |timer: &Timer, value: &Option<Spanned<u32>>| {
        let Timer { name, default, minimum, rule } = *timer;
        let Some(entry) = value else { return default };
        let seconds = *entry.get_ref();
        if !(1..=limits::LONGEST_TIMEOUT).contains(&seconds) {
            issues.push((entry.span().start, Issue::TimeoutOutOfRange { name, seconds }));
        } else if seconds < minimum {
            let issue = Issue::TimeoutTooShort { name, seconds, minimum, rule };
            if raw.allow_short {
                warnings.push(format!("vendor `{vendor}`: {issue}, accepted because of allow_short"));
            } else {
                issues.push((entry.span().start, issue));
            }
        }
        seconds
    };
    Timeouts {
        udp: take(&limits::UDP, &raw.udp),
        icmp_query: take(&limits::ICMP_QUERY, &raw.icmp_query),
        tcp_init: take(&limits::TCP_INIT, &raw.tcp_init),
        tcp_established: take(&limits::TCP_ESTABLISHED, &raw.tcp_established),
        tcp_closing: take(&limits::TCP_CLOSING, &raw.tcp_closing),
        tcp_trans: take(&limits::TCP_TRANS, &raw.tcp_trans),
    }
}

/// A port has one owner towards everybody in one mode, and one for each remote end in the other: what two vendors show of
/// themselves by one address they show in one mode, or by ports of their own.
fn mapping(vendors: &[Vendor], (list, earlier): (&Lists, &Lists), issues: &mut Issues) {
    let (vendor, other) = (&vendors[list.name.value], &vendors[earlier.name.value]);
    if vendor.mapping == other.mapping
        || vendor.ports.max < other.ports.min
        || other.ports.max < vendor.ports.min
    {
        return;
    }
    let shared = |entry: &&Placed<Ipv4Addr>| other.egress_ips.contains(&entry.value);
    if let Some(egress) = list.egress_ips.iter().find(shared) {
        let (vendor, other) = (vendor.name.clone(), other.name.clone());
        issues.push((egress.offset, Issue::MappingsMixed { address: egress.value, vendor, other }));
    }
}

fn between_vendors(vendors: &[Vendor], lists: &[Lists], issues: &mut Issues) {
    let name_of = |list: &Lists| vendors[list.name.value].name.clone();
    for (position, list) in lists.iter().enumerate() {
        let name = name_of(list);
        for earlier in &lists[..position] {
            if name == name_of(earlier) {
                issues.push((list.name.offset, Issue::DuplicateVendor { name: name.clone() }));
            }
            mapping(vendors, (list, earlier), issues);
            for cidr in &list.cidrs {
                if let Some(other) =
                    earlier.cidrs.iter().find(|other| prefix::overlap(other.value, cidr.value))
                {
                    issues.push((
                        cidr.offset,
                        Issue::VendorOverlap {
                            prefix: cidr.value,
                            vendor: name.clone(),
                            other: other.value,
                            other_vendor: name_of(earlier),
                        },
                    ));
                }
            }
        }
        for other in lists {
            for egress in &list.egress_ips {
                let address = egress.value;
                let holds = |entries: &[Placed<Ipv4Net>]| {
                    entries.iter().map(|entry| entry.value).find(|prefix| prefix.contains(&address))
                };
                if let Some(prefix) = holds(&other.allow_from) {
                    let issue = Issue::EgressInsideAllowed { address, prefix, vendor: name_of(other) };
                    issues.push((egress.offset, issue));
                }
                if let Some(prefix) = holds(&other.cidrs) {
                    let issue = Issue::EgressInsideVendor { address, prefix, vendor: name_of(other) };
                    issues.push((egress.offset, issue));
                }
            }
            for allowed in &list.allow_from {
                if let Some(cidr) = other.cidrs.iter().find(|cidr| prefix::overlap(cidr.value, allowed.value))
                {
                    let issue = Issue::AllowedIsVendor {
                        prefix: allowed.value,
                        other: cidr.value,
                        vendor: name_of(other),
                    };
                    issues.push((allowed.offset, issue));
                }
            }
        }
    }
}
