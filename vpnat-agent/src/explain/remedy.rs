//! For a refusal: the line of the configuration that would change it, or what else would.

use std::net::Ipv4Addr;

use vpnat_common::layout::outcome::Outcome;

/// What is known about a refused packet.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Its source, as it arrived.
    pub source: Ipv4Addr,
    /// Its destination, as it arrived.
    pub destination: Ipv4Addr,
    /// The vendor's name.
    pub vendor: &'a str,
    /// The vendor's first egress address.
    pub egress: Option<Ipv4Addr>,
    /// The device that it arrived on, if it did not come from this host.
    pub arrived: Option<&'a str>,
    /// The device that it would leave by, if that is known.
    pub leaves: Option<&'a str>,
    /// Flows that the table holds.
    pub max_flows: u32,
}

/// What would let the packet through.
pub fn remedy(outcome: Outcome, refused: &Refused<'_>) -> Option<String> {
    let Refused { source, destination, vendor, .. } = refused;
    let arrived = refused.arrived.unwrap_or("the device that it arrives on");
    Some(match outcome {
        Outcome::SourceNotAllowed => {
            format!(
                "[[vendor]] name = \"{vendor}\": add \"{source}/32\", or the prefix around it, to allow_from"
            )
        }
        Outcome::NotOurs => {
            format!("[[vendor]]: add \"{destination}/32\", or the prefix around it, to cidrs")
        }
        Outcome::Unguarded => match refused.leaves {
            Some(device) => {
                format!("[datapath]: add \"{device}\" to outside, if the vendor is reached through it")
            }
            None => format!("no line: add a route to {destination} through an outside device"),
        },
        Outcome::WrongSide => {
            format!("[datapath]: add \"{arrived}\" to inside, if pods' packets arrive there")
        }
        Outcome::NoConnection => format!("[[vendor]] name = \"{vendor}\": tcp_pick_up = true"),
        Outcome::PortsExhausted => {
            format!("[[vendor]] name = \"{vendor}\": add an address to egress_ips, or widen ports")
        }
        Outcome::SourceLimit => format!(
            "[[vendor]] name = \"{vendor}\": raise max_flows_per_source; `vpnat flows list --inside {source}` shows what it has"
        ),
        Outcome::SourceRate => format!("[[vendor]] name = \"{vendor}\": raise new_flows_per_source"),
        Outcome::TableFull => format!(
            "[datapath]: max_flows = {}; it takes effect after `vpnat detach`",
            refused.max_flows.saturating_mul(2)
        ),
        Outcome::LocalSource => match refused.egress {
            Some(egress) => format!("no line: the instance itself must send from {egress}"),
            None => return None,
        },
        Outcome::NotReady => "no line: start `vpnat run`; it says when it is ready".into(),
        Outcome::Unsolicited => {
            "no line: a vendor cannot open connections; a pod must have sent a packet to this very port first"
                .into()
        }
        Outcome::EntryInvalid => {
            "no line: the flow's entry contradicts itself; end it, and the next packet makes a new one".into()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refusals that no configuration changes: the packet itself is wrong.
    const FINAL: [Outcome; 10] = [
        Outcome::BadHeader,
        Outcome::ProtocolUnsupported,
        Outcome::IcmpTypeRefused,
        Outcome::IcmpErrorNoFlow,
        Outcome::IcmpErrorBad,
        Outcome::FragmentUnknown,
        Outcome::FragmentTiny,
        Outcome::OptionRefused,
        Outcome::Unfinished,
        Outcome::LocalEgress,
    ];

    #[test]
    fn a_refused_source_is_named_where_it_belongs() {
        let refused = Refused {
            source: Ipv4Addr::new(10, 0, 3, 7),
            destination: Ipv4Addr::new(192, 0, 2, 10),
            vendor: "vendor-a",
            egress: None,
            arrived: Some("eth1"),
            leaves: None,
            max_flows: 1,
        };
        let text = remedy(Outcome::SourceNotAllowed, &refused).unwrap();
        assert!(text.contains("vendor-a") && text.contains("\"10.0.3.7/32\"") && text.contains("allow_from"));
        for outcome in FINAL {
            assert_eq!(remedy(outcome, &refused), None, "{outcome:?}");
        }
    }
}
