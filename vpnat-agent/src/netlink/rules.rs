//! Routing rules that close prefixes for the whole namespace: no packet to them is routed, made here or forwarded, through
//! a device that there is or one that is yet to come.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{list, request};

/// After the rule of local addresses, before all others.
const PRIORITY: u32 = 1;

/// systemd-networkd removes rules that it does not know, but for the kernel's own.
const PROTOCOL: RouteProtocol = RouteProtocol::Kernel;

fn message(prefix: Ipv4Net) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.dst_len = prefix.prefix_len();
    message.header.action = RuleAction::Blackhole;
    message.attributes = vec![
        RuleAttribute::Destination(IpAddr::V4(prefix.addr())),
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    message
}

/// The prefix of one of our rules.
fn ours(message: &RuleMessage) -> Option<Ipv4Net> {
    let has = |wanted: RuleAttribute| message.attributes.contains(&wanted);
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Destination(IpAddr::V4(address)) => Some(*address),
        _ => None,
    });
    let is_ours = message.header.action == RuleAction::Blackhole
        && has(RuleAttribute::Priority(PRIORITY))
        && has(RuleAttribute::Protocol(PROTOCOL));
    Ipv4Net::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED), message.header.dst_len).ok().filter(|_| is_ours)
}

/// The prefixes that are closed now.
pub fn closed() -> io::Result<BTreeSet<Ipv4Net>> {
    let mut asked = RuleMessage::default();
    asked.header.family = AddressFamily::Inet;
    let answers = list(RouteNetlinkMessage::GetRule(asked))?;
    let rules = answers.iter().filter(|answer| answer.kind == libc::RTM_NEWRULE);
    // A rule that cannot be read has something that ours do not.
    Ok(rules.filter_map(|answer| ours(&RuleMessage::parse(&answer.body[..]).ok()?)).collect())
}

/// Closes `prefixes`.
pub fn close(prefixes: &[Ipv4Net]) -> io::Result<()> {
    for prefix in prefixes {
        let rule = RouteNetlinkMessage::NewRule(message(*prefix));
        match request(rule, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Opens everything that was closed; what it was.
pub fn open() -> io::Result<BTreeSet<Ipv4Net>> {
    let closed = closed()?;
    for prefix in &closed {
        match request(RouteNetlinkMessage::DelRule(message(*prefix)), NLM_F_ACK) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(closed)
}

/// What is left of `prefix` without `holes`.
pub fn without(prefix: Ipv4Net, holes: &[Ipv4Net]) -> Vec<Ipv4Net> {
    if holes.iter().any(|hole| hole.contains(&prefix)) {
        return Vec::new();
    }
    if !holes.iter().any(|hole| prefix.contains(hole)) {
        return vec![prefix];
    }
    match prefix.subnets(prefix.prefix_len() + 1) {
        Ok(halves) => halves.flat_map(|half| without(half, holes)).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_is_known_again() {
        let prefix = net("192.0.2.0/25");
        assert_eq!(ours(&message(prefix)), Some(prefix));
        let mut other = message(prefix);
        other.attributes[1] = RuleAttribute::Priority(2);
        assert_eq!(ours(&other), None);
        let mut other = message(prefix);
        other.header.action = RuleAction::ToTable;
        assert_eq!(ours(&other), None);
    }

    #[test]
    fn exempt_parts_stay_open() {
        assert_eq!(without(net("192.0.2.0/24"), &[]), [net("192.0.2.0/24")]);
        assert_eq!(
            without(net("192.0.2.0/24"), &[net("192.0.2.64/26")]),
            [net("192.0.2.0/26"), net("192.0.2.128/25")]
        );
        assert_eq!(without(net("192.0.2.0/32"), &[net("192.0.2.0/24")]), []);
        assert_eq!(without(net("192.0.2.0/30"), &[net("192.0.2.1/32")]).len(), 2);
    }
}
