//! Which flows are meant.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::str::FromStr;

use clap::Args;
use ipnet::Ipv4Net;
use vpnat_common::layout::flow::{Phase, protocol};

use crate::datapath::flows::{Endpoint, Flow};

/// All that are given must hold.
#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Flows to this vendor.
    #[arg(long, value_name = "NAME")]
    pub vendor: Option<String>,
    /// Flows of this pod: ADDRESS, ADDRESS:PORT, :PORT or PREFIX.
    #[arg(long, value_name = "END")]
    pub inside: Option<Place>,
    /// Flows to this destination, written likewise.
    #[arg(long, value_name = "END")]
    pub remote: Option<Place>,
    /// Flows that the vendor sees as this, written likewise.
    #[arg(long, value_name = "END")]
    pub egress: Option<Place>,
    /// Flows in this state, as `flows list` names it.
    #[arg(long, value_parser = state)]
    pub state: Option<&'static str>,
    /// Flows of this protocol: tcp, udp, icmp or a number.
    #[arg(long, value_parser = protocol_number)]
    pub protocol: Option<u8>,
}

/// An address with a port, or one of them, or a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    network: Ipv4Net,
    port: Option<u16>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no end of a flow: write 10.0.2.7, 10.0.2.7:443, :443 or 10.0.2.0/24");
        let (address, port) = match text.split_once(':') {
            Some((address, port)) => (address, Some(port.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let network = if address.is_empty() && port.is_some() {
            Ipv4Net::default()
        } else if address.contains('/') {
            address.parse().map_err(|_| wrong())?
        } else {
            Ipv4Net::from(address.parse::<Ipv4Addr>().map_err(|_| wrong())?)
        };
        Ok(Self { network, port })
    }
}

impl Place {
    fn holds(&self, end: &Endpoint) -> bool {
        self.network.contains(&Ipv4Addr::from(end.address))
            && self.port.is_none_or(|port| port == end.port.number)
    }
}

fn state(text: &str) -> Result<&'static str, String> {
    let names = (0..=u8::MAX).filter_map(Phase::from_byte).map(Phase::name);
    names
        .clone()
        .find(|name| *name == text)
        .ok_or_else(|| format!("`{text}` is no state: use one of {}", names.collect::<Vec<_>>().join(", ")))
}

/// A protocol's number by its name.
pub fn protocol_number(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(protocol::TCP),
        "udp" => Ok(protocol::UDP),
        "icmp" => Ok(protocol::ICMP),
        number => {
            number.parse().map_err(|_| format!("`{number}` is no protocol: use tcp, udp, icmp or a number"))
        }
    }
}

impl Filter {
    /// Whether nothing is asked for, so that every flow is meant.
    pub fn is_empty(&self) -> bool {
        let Self { vendor, inside, remote, egress, state, protocol } = self;
        vendor.is_none()
            && inside.is_none()
            && remote.is_none()
            && egress.is_none()
            && state.is_none()
            && protocol.is_none()
    }

    /// Whether `flow` is meant; `names` has the vendors' names.
    pub fn wants(&self, flow: &Flow, names: &HashMap<u8, String>) -> bool {
        self.has_ends_of(flow, names)
            && self.remote.is_none_or(|remote| remote.holds(&flow.remote))
            && self.state.is_none_or(|state| state == flow.state())
    }

    /// Whether the binding `found` is meant. It is towards nobody in particular and in no state.
    pub fn wants_binding(&self, found: &Flow, names: &HashMap<u8, String>) -> bool {
        self.remote.is_none() && self.state.is_none() && self.has_ends_of(found, names)
    }

    /// Whether what a flow has in common with its binding is as asked for.
    fn has_ends_of(&self, flow: &Flow, names: &HashMap<u8, String>) -> bool {
        let at = |place: &Option<Place>, end| place.is_none_or(|place| place.holds(end));
        self.vendor.as_ref().is_none_or(|name| names.get(&flow.vendor()) == Some(name))
            && at(&self.inside, &flow.inside)
            && at(&self.egress, &flow.egress)
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpnat_common::addr::{Ip4, Port};

    #[test]
    fn ends_are_written_in_four_ways() {
        let end = Endpoint { address: Ip4::new(10, 0, 2, 7), port: Port::new(443) };
        for text in ["10.0.2.7", "10.0.2.7:443", ":443", "10.0.2.0/24", "10.0.2.0/24:443", "0.0.0.0/0"] {
            assert!(text.parse::<Place>().unwrap().holds(&end), "{text}");
        }
        for text in ["10.0.2.8", "10.0.2.7:80", ":80", "10.0.3.0/24"] {
            assert!(!text.parse::<Place>().unwrap().holds(&end), "{text}");
        }
        for text in ["", ":", "10.0.2", "10.0.2.7:", "10.0.2.7:65536", "pod-a", "10.0.2.0/33", "::1"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        assert!(state("established").is_ok() && state("estab").unwrap_err().contains("client-fin"));
        assert_eq!(protocol_number("47"), Ok(47));
    }
}
