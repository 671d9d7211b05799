//! Whom this machine speaks to itself: the far ends of its tunnels and of its sockets. What it sends to a vendor's prefix from another
//! address than the vendor's egress address is dropped, so a tunnel that ends in there does not come up.

use std::fs;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::checks::{bad, ok};
use super::facts::output;
use super::{Facts, Finding, Level};

/// One far end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Who speaks to it, in words.
    pub who: String,
    /// Whether it is a tunnel's.
    pub is_tunnel: bool,
    /// This end; unspecified if it is not fixed.
    pub local: Ipv4Addr,
    /// That end.
    pub remote: Ipv4Addr,
}

/// All of them that can be found: a tool that is not there has no tunnels to list.
pub fn peers() -> Vec<Peer> {
    let mut peers = Vec::new();
    for protocol in ["udp", "tcp"] {
        let table = fs::read_to_string(format!("/proc/net/{protocol}")).unwrap_or_default();
        peers.extend(connected(protocol, &table));
    }
    peers.extend(output("ip", &["-details", "-json", "link", "show"]).iter().flat_map(|text| devices(text)));
    peers.extend(output("ip", &["xfrm", "state"]).iter().flat_map(|text| associations(text)));
    peers.extend(output("wg", &["show", "all", "endpoints"]).iter().flat_map(|text| endpoints(text)));
    peers
}

/// What of it lies in a vendor's prefix.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for peer in &facts.peers {
        // The longest prefix decides, as in the kernel.
        let vendors = facts.config.vendors.iter();
        let prefixes = vendors.flat_map(|vendor| {
            let exempt = vendor.exempt.iter().map(|prefix| (prefix, None));
            vendor.cidrs.iter().map(move |prefix| (prefix, Some(vendor))).chain(exempt)
        });
        let longest = prefixes
            .filter(|(prefix, _)| prefix.contains(&peer.remote))
            .max_by_key(|(prefix, vendor)| (prefix.prefix_len(), vendor.is_none()));
        let Some((prefix, Some(vendor))) = longest else { continue };
        // Its sockets may speak from the egress address; what a tunnel sends is seldom TCP or UDP.
        if !peer.is_tunnel && vendor.egress_ips.contains(&peer.local) {
            continue;
        }
        let bind = if peer.is_tunnel { "" } else { "bind it to the egress address, or " };
        let finding = bad(
            "peers",
            if peer.is_tunnel { Level::Error } else { Level::Warning },
            format!("{} speaks to {}, which lies in {prefix} ({})", peer.who, peer.remote, vendor.name),
            "Nothing but pods' packets goes to a vendor, and this machine's own from an egress address: what a tunnel to its own far end sends is dropped.",
            format!("{bind}exempt = [\"{}/32\"] in the [[vendor]] section of {}", peer.remote, vendor.name),
        );
        // An association in each direction, and many sockets to one server, are one mistake.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    if findings.is_empty() {
        findings.push(ok("peers", "this machine itself speaks to no vendor past its egress address"));
    }
    findings
}

/// Both ends of a line of a table of sockets (`/proc/net/udp`, `tcp`): address in host byte order, port, hexadecimal.
fn ends(line: &str) -> Option<[(Ipv4Addr, u16); 2]> {
    let mut words = line.split_whitespace().skip(1);
    let mut end = || {
        let (address, port) = words.next()?.split_once(':')?;
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        Some((Ipv4Addr::from(address), u16::from_str_radix(port, 16).ok()?))
    };
    Some([end()?, end()?])
}

/// The local ends of a table of sockets.
pub fn local_ends(table: &str) -> Vec<(Ipv4Addr, u16)> {
    table.lines().skip(1).filter_map(ends).map(|[local, _]| local).collect()
}

fn connected(protocol: &str, table: &str) -> Vec<Peer> {
    let sockets = table.lines().skip(1).filter_map(ends);
    let sockets = sockets.filter(|[_, (remote, _)]| !remote.is_unspecified());
    sockets
        .map(|[(local, from), (remote, to)]| Peer {
            who: format!("a socket ({protocol} {local}:{from} to port {to})"),
            is_tunnel: false,
            local,
            remote,
        })
        .collect()
}

/// Tunnel devices in what `ip -details -json link` prints.
fn devices(text: &str) -> Vec<Peer> {
    let Ok(Value::Array(links)) = serde_json::from_str(text) else { return Vec::new() };
    let tunnel = |link: &Value| {
        let data = &link["linkinfo"]["info_data"];
        let address = |name: &str| data[name].as_str().and_then(|text| text.parse().ok());
        let remote: Ipv4Addr = address("remote")?;
        (!remote.is_unspecified()).then(|| Peer {
            who: format!("the tunnel {}", link["ifname"].as_str().unwrap_or("?")),
            is_tunnel: true,
            local: address("local").unwrap_or(Ipv4Addr::UNSPECIFIED),
            remote,
        })
    };
    links.iter().filter_map(tunnel).collect()
}

/// Security associations in what `ip xfrm state` prints: each begins with its two ends.
fn associations(text: &str) -> Vec<Peer> {
    let association = |line: &str| {
        let mut words = line.strip_prefix("src ")?.split_whitespace();
        let local: Ipv4Addr = words.next()?.parse().ok()?;
        let remote: Ipv4Addr = words.nth(1)?.parse().ok()?;
        Some(Peer { who: "an IPsec association".into(), is_tunnel: true, local, remote })
    };
    text.lines().filter_map(association).collect()
}

/// Peers in what `wg show all endpoints` prints: device, key, and address and port.
fn endpoints(text: &str) -> Vec<Peer> {
    let endpoint = |line: &str| {
        let mut words = line.split_whitespace();
        let device = words.next()?;
        let (remote, _) = words.nth(1)?.rsplit_once(':')?;
        let (who, local) = (format!("the tunnel {device}"), Ipv4Addr::UNSPECIFIED);
        Some(Peer { who, is_tunnel: true, local, remote: remote.parse().ok()? })
    };
    text.lines().filter_map(endpoint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 5);
    const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn found(peers: &[Peer]) -> Vec<(&str, Ipv4Addr, Ipv4Addr)> {
        peers.iter().map(|peer| (peer.who.as_str(), peer.local, peer.remote)).collect()
    }

    #[test]
    fn tables_of_sockets() {
        let hex = |address: Ipv4Addr| format!("{:08X}", u32::from_ne_bytes(address.octets()));
        let table = format!(
            "  sl  local_address rem_address st\n 0: {}:1194 00000000:0000 07\n 1: {}:C350 {}:01BB 01\n",
            hex(HERE),
            hex(HERE),
            hex(THERE),
        );
        assert_eq!(local_ends(&table), [(HERE, 4500), (HERE, 50000)]);
        let peers = connected("tcp", &table);
        assert_eq!(found(&peers), [("a socket (tcp 10.0.1.5:50000 to port 443)", HERE, THERE)]);
    }

    #[test]
    fn tunnels_as_tools_list_them() {
        let text = r#"[{"ifname":"lo"},
            {"ifname":"any","linkinfo":{"info_kind":"ipip","info_data":{"remote":"0.0.0.0","local":"10.0.1.5"}}},
            {"ifname":"vx","linkinfo":{"info_kind":"vxlan","info_data":{"remote":"192.0.2.1","id":1}}},
            {"ifname":"ipip1","linkinfo":{"info_kind":"ipip","info_data":{"remote":"192.0.2.1","local":"10.0.1.5"}}}]"#;
        let none = Ipv4Addr::UNSPECIFIED;
        assert_eq!(
            found(&devices(text)),
            [("the tunnel vx", none, THERE), ("the tunnel ipip1", HERE, THERE)]
        );
        assert_eq!(devices("[]{"), []);
        let text = "src 10.0.1.5 dst 192.0.2.1\n\tproto esp spi 0xc1 reqid 1 mode tunnel\n\tsel src 0.0.0.0/0 dst 0.0.0.0/0\nsrc fe80::1 dst fe80::2\n";
        assert_eq!(found(&associations(text)), [("an IPsec association", HERE, THERE)]);
        let text = "wg0\tkey=\t192.0.2.1:51820\nwg0\tother=\t(none)\nwg1\tkey=\t[fe80::1]:51820\n";
        assert_eq!(found(&endpoints(text)), [("the tunnel wg0", none, THERE)]);
    }
}
