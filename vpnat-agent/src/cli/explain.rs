//! `vpnat explain`.

use std::process::ExitCode;

use clap::Args;

use super::{PinOptions, say, say_json};
use crate::datapath::kernel;
use crate::explain::packet::{Kind, Place, Protocol};
use crate::explain::{End, Explanation, Question, Verdict, explain};
use crate::waiting::Waiting;

/// Largest packet that a test run takes, bytes.
const LARGEST: u16 = 3000;

/// The shape of the JSON. A test compares it with what is printed.
pub(super) const JSON_HELP: &str =
    "Print JSON. Fields are added over time; `version` is raised when one is renamed or removed.

{ version,
  packet:  { kind: syn|ack|datagram|echo-request|echo-reply, from: { address, port }, to: { address, port }, bytes },
  arrival: { device, inside, outside, ethernet, mtu, named } or null,
  vendor:  { name, prefix, exempt, mapping: endpoint-dependent|endpoint-independent } or null,
  source:  { allowed, rule, index } or null,
  flow:    { exists, state, becomes: { address, port }, expires_in_s, ports_taken } or null,
  hooks:   [{ device, hook: xdp|tc-ingress|tc-egress, program, attached, outcome, fate, reason }],
  route:   { device, gateway, mtu } or null,
  mss:     { offered, sent } or null,
  verdict: translated|passed|dropped|not-forwarded|delivered, why,
  becomes: { from: { address, port }, to: { address, port } } or null,
  remedy }

`arrival`: null if this host sends the packet; `named`: by --device. `source`: null unless somebody asked for it; `rule` and
`index`: the entry of allow_from. `flow`: the one that there is, or (`exists` false) that the packet would make; `becomes` is
the egress address outbound, the pod inbound. `remedy`: what would change a refusal, or null.";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Source: an address, with a port for TCP and UDP; for ICMP the identifier may stand in its place.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    from: Place,
    /// Destination, likewise.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    to: Place,
    /// Protocol. TCP means a SYN, or an ACK if the flow is known already.
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    proto: Protocol,
    /// Device that the packet arrives on [default: the one that the way back to its source takes].
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Length from the IP header on; the packet may not be fragmented.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(28..=i64::from(LARGEST)))]
    size: Option<u16>,
    /// Print JSON; its shape is in --help.
    #[arg(long, long_help = JSON_HELP)]
    json: bool,
    #[command(flatten)]
    pins: PinOptions,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    for (name, place) in [("--from", options.from), ("--to", options.to)] {
        if options.proto != Protocol::Icmp && place.port.is_none() {
            let address = place.address;
            anyhow::bail!("a port is missing: {name} {address}: write `{name} {address}:PORT`");
        }
    }
    let pins = options.pins.pins()?;
    kernel::check_privileges()?;
    let question = Question {
        from: options.from,
        to: options.to,
        protocol: options.proto,
        device: options.device.clone(),
        size: options.size,
    };
    let waiting = Waiting::of("sending the packet through the programs");
    let explanation = explain(&pins, &question)?;
    drop(waiting);
    if options.json {
        say_json(&explanation)?;
    } else {
        for (what, text) in lines(&explanation) {
            say(format_args!("{what:<11}{text}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn end(end: &End) -> String {
    Place { address: end.address, port: end.port }.to_string()
}

fn lines(found: &Explanation) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let kind = match found.packet.kind {
        Kind::Syn => "TCP SYN",
        Kind::Ack => "TCP ACK",
        Kind::Datagram => "UDP",
        Kind::EchoRequest => "ICMP echo request",
        Kind::EchoReply => "ICMP echo reply",
    };
    let (from, to) = (end(&found.packet.from), end(&found.packet.to));
    lines.push(("packet", format!("{kind} {from} -> {to}, {} bytes", found.packet.bytes)));
    lines.push((
        "arrives",
        match &found.arrival {
            None => "not at all: this host sends it".into(),
            Some(arrival) => {
                let side = match (arrival.inside, arrival.outside) {
                    (true, true) => "inside and outside",
                    (true, false) => "inside",
                    (false, true) => "outside",
                    (false, false) => "neither inside nor outside",
                };
                let layer = if arrival.ethernet { "Ethernet" } else { "no Ethernet header" };
                let why = if arrival.named { "" } else { "; the way back to its source" };
                format!("on {} ({side}, {layer}, MTU {}{why})", arrival.device, arrival.mtu)
            }
        },
    ));
    lines.push((
        "vendor",
        match &found.vendor {
            None => "none: neither end is in a vendor's prefix".into(),
            Some(vendor) if vendor.exempt => format!("{}, but {} is exempt", vendor.name, vendor.prefix),
            Some(vendor) => format!("{}, by {}, {} mapping", vendor.name, vendor.prefix, vendor.mapping),
        },
    ));
    if let Some(source) = &found.source {
        let text = match (&source.rule, source.index) {
            (Some(rule), Some(index)) => format!("allowed by {rule} (entry {} of allow_from)", index + 1),
            _ => "not allowed by any entry of allow_from".into(),
        };
        lines.push(("source", text));
    }
    if let Some(flow) = &found.flow {
        let becomes = end(&flow.becomes);
        let text = if flow.exists {
            format!("known, {}: becomes {becomes}; ends in {} s if idle", flow.state, flow.expires_in_s)
        } else if flow.ports_taken == 0 {
            format!("new: would get {becomes}")
        } else {
            format!("new: its own port is taken; a free one is looked for at random, this time {becomes}")
        };
        lines.push(("flow", text));
    }
    for hook in &found.hooks {
        let text = match (hook.outcome, hook.reason) {
            (Some(outcome), Some(reason)) => format!("{}: {outcome}: {}", hook.device, reason.trim()),
            _ => format!("{}: `{}` is not attached", hook.device, hook.program),
        };
        lines.push((hook.hook, text));
    }
    if let Some(route) = &found.route {
        let gateway = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        lines.push(("route", format!("{}{gateway}, MTU {}", route.device, route.mtu)));
    }
    if let Some(mss) = &found.mss {
        let text = if mss.offered == mss.sent {
            format!("{} stays", mss.offered)
        } else {
            format!("{} is lowered to {}", mss.offered, mss.sent)
        };
        lines.push(("MSS", text));
    }
    let verdict = match (found.verdict, &found.becomes) {
        (Verdict::Translated, Some(becomes)) => {
            format!("translated: {} -> {}", end(&becomes.from), end(&becomes.to))
        }
        (Verdict::Translated, None) => "translated".into(),
        (Verdict::Passed, _) => format!("passed as it is: {}", found.why.trim()),
        (Verdict::Dropped, _) => format!("dropped: {}", found.why.trim()),
        (Verdict::NotForwarded, _) => format!("not forwarded: {}", found.why.trim()),
        (Verdict::Delivered, _) => "delivered to this host".into(),
    };
    lines.push(("verdict", verdict));
    if let Some(remedy) = &found.remedy {
        lines.push(("to change", remedy.clone()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::cli::tests::assert_help_names;
    use crate::explain::{Arrival, Asked, Becomes, Flow, Hook, Mss, Route, Source, Vendor};

    fn translated() -> Explanation {
        let end = || End { address: Ipv4Addr::new(10, 0, 2, 7), port: Some(40000) };
        Explanation {
            version: 1,
            packet: Asked { kind: Kind::Syn, from: end(), to: end(), bytes: 44 },
            arrival: Some(Arrival {
                device: "eth1".into(),
                inside: true,
                outside: false,
                ethernet: true,
                mtu: 9001,
                named: false,
            }),
            vendor: Some(Vendor {
                name: "vendor-a".into(),
                prefix: "192.0.2.0/24".into(),
                exempt: false,
                mapping: "endpoint-dependent",
            }),
            source: Some(Source { allowed: true, rule: Some("10.0.2.0/24".into()), index: Some(0) }),
            flow: Some(Flow {
                exists: false,
                state: "syn-sent",
                becomes: end(),
                expires_in_s: 240,
                ports_taken: 0,
            }),
            hooks: vec![Hook {
                device: "eth0".into(),
                hook: "tc-egress",
                program: "egress_outside_l2",
                attached: true,
                outcome: Some("outbound"),
                fate: Some("translated"),
                reason: Some("Source rewritten."),
            }],
            route: Some(Route { device: "eth0".into(), gateway: None, mtu: 1400 }),
            mss: Some(Mss { offered: 8961, sent: 1360 }),
            verdict: Verdict::Translated,
            why: String::new(),
            becomes: Some(Becomes { from: end(), to: end() }),
            remedy: None,
        }
    }

    #[test]
    fn help_names_every_field() {
        assert_help_names(JSON_HELP, &translated());
    }

    #[test]
    fn every_step_has_a_line() {
        let lines = lines(&translated());
        let steps: Vec<&str> = lines.iter().map(|(step, _)| *step).collect();
        assert_eq!(
            steps,
            ["packet", "arrives", "vendor", "source", "flow", "tc-egress", "route", "MSS", "verdict"]
        );
        assert!(lines[3].1.contains("entry 1 of allow_from"), "{lines:?}");
    }
}
