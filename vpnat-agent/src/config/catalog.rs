//! Every key of the file with what it means, for the reference. Tests compare it with what the parser takes.

use super::limits::{self, Number, Timer};
use super::{DEFAULT_PIN_ROOT, DEFAULT_RUN_DIR, PortRange, schema};

/// A part of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    /// `[agent]`.
    Agent,
    /// `[datapath]`.
    Datapath,
    /// `[flow_log]`.
    FlowLog,
    /// `[[vendor]]`.
    Vendor,
    /// `[vendor.timeouts]`.
    Timeouts,
}

impl Section {
    /// In the order of the file.
    pub const ALL: [Self; 5] = [Self::Agent, Self::Datapath, Self::FlowLog, Self::Vendor, Self::Timeouts];

    /// As it stands in the file.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Agent => "[agent]",
            Self::Datapath => "[datapath]",
            Self::FlowLog => "[flow_log]",
            Self::Vendor => "[[vendor]]",
            Self::Timeouts => "[vendor.timeouts]",
        }
    }

    /// What it is about.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Agent => "The process itself. The section may be left out.",
            Self::Datapath => "Devices and sizes.",
            Self::FlowLog => {
                "A record when a flow starts and one when it ends. Without the section nothing is logged; with it `json`, `ipfix` or both are set."
            }
            Self::Vendor => "One section for each vendor.",
            Self::Timeouts => "Idle timers of the vendor above it. The section may be left out.",
        }
    }

    /// Lines that make a sound file: what has no default, and a place for the flow log.
    pub(super) const fn base(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Agent | Self::Timeouts => &[],
            Self::Datapath => &[("inside", "[\"eth1\"]"), ("outside", "[\"eth0\"]")],
            // A file, since only files are rotated.
            Self::FlowLog => &[("json", "\"/x\"")],
            Self::Vendor => &[
                ("name", "\"vendor-a\""),
                ("cidrs", "[\"192.0.2.0/24\"]"),
                ("egress_ips", "[\"10.0.1.10\"]"),
                ("allow_from", "[\"10.0.2.0/24\"]"),
            ],
        }
    }
}

/// What may stand behind a key.
#[derive(Debug)]
pub enum Value {
    /// `true` or `false`.
    Flag,
    /// One of these.
    Words(&'static [&'static str]),
    /// A number of a range.
    Number(Number),
    /// Seconds.
    Timer(Timer),
    /// In words.
    Text(String),
}

/// What holds where the key is left out.
#[derive(Debug)]
pub enum Fallback {
    /// It may not be left out.
    Required,
    /// Nothing of the kind.
    Nothing,
    /// This, as it would be written.
    Is(String),
}

/// A key.
#[derive(Debug)]
pub struct Key {
    /// Where it stands.
    pub section: Section,
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub value: Value,
    /// What it is without being said.
    pub default: Fallback,
    /// Another value than the default.
    pub example: String,
    /// What it means.
    pub meaning: &'static str,
}

impl Key {
    /// What it is before it becomes the example: the default, or what a sound file has there.
    pub fn usual(&self) -> Option<&str> {
        match &self.default {
            Fallback::Is(default) => Some(default),
            _ => self.section.base().iter().find(|(name, _)| *name == self.name).map(|(_, value)| *value),
        }
    }

    /// A sound file with this key as `value`, or without it.
    pub fn file(&self, value: Option<&str>) -> String {
        let mut text = String::new();
        for section in Section::ALL {
            text += &format!("{}\n", section.heading());
            let mut lines = section.base().to_vec();
            if section == self.section {
                lines.retain(|(name, _)| *name != self.name);
                lines.extend(value.map(|value| (self.name, value)));
            }
            for (name, value) in lines {
                text += &format!("{name} = {value}\n");
            }
        }
        text
    }
}

/// The smallest sound file.
pub fn smallest() -> String {
    let sections = [Section::Datapath, Section::Vendor].map(|section| {
        let lines: Vec<_> =
            section.base().iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        format!("{}\n{}", section.heading(), lines.concat())
    });
    sections.join("\n")
}

/// Every key, in the order of the example file.
pub fn keys() -> Vec<Key> {
    use Section::{Agent, Datapath, FlowLog, Timeouts, Vendor};
    let key = |section, name, value, default, example: &str, meaning| Key {
        section,
        name,
        value,
        default,
        example: example.to_owned(),
        meaning,
    };
    let number = |section, number: Number, meaning| {
        let example = if number.name == limits::BUFFER_KIB.name { number.least } else { number.default + 1 };
        let default = Fallback::Is(number.default.to_string());
        key(section, number.name, Value::Number(number), default, &example.to_string(), meaning)
    };
    let timer = |timer: Timer, meaning| {
        let default = Fallback::Is(timer.default.to_string());
        let example = (timer.default + 1).to_string();
        key(Timeouts, timer.name, Value::Timer(timer), default, &example, meaning)
    };
    let flag = |section, name, default: bool, meaning| {
        let fallback = Fallback::Is(default.to_string());
        key(section, name, Value::Flag, fallback, &(!default).to_string(), meaning)
    };
    let word = |section, name, words: &'static [&'static str], meaning| {
        let quoted = |word: &str| format!("{word:?}");
        key(section, name, Value::Words(words), Fallback::Is(quoted(words[0])), &quoted(words[1]), meaning)
    };
    let text = |section, name, form: &str, default, example, meaning| {
        key(section, name, Value::Text(form.to_owned()), default, example, meaning)
    };
    let required = |section, name, form: &str, example, meaning| {
        text(section, name, form, Fallback::Required, example, meaning)
    };
    let agent = schema::Agent::default();
    let quoted = |word: &str| Fallback::Is(format!("{word:?}"));
    let metrics = quoted(&agent.metrics.to_string());
    vec![
        text(
            Agent,
            "metrics",
            "address and port",
            metrics,
            "\"127.0.0.1:9999\"",
            "Where `/metrics`, `/healthz` and `/readyz` are served.",
        ),
        text(
            Agent,
            "bpffs",
            "absolute path without dots",
            quoted(DEFAULT_PIN_ROOT),
            "\"/sys/fs/bpf/other\"",
            "Directory on a BPF file system under which maps, programs and links are pinned.",
        ),
        flag(
            Agent,
            "enable_forwarding",
            agent.enable_forwarding,
            "Whether the agent sets `net.ipv4.ip_forward`, and `send_redirects = 0` where one device serves both sides.",
        ),
        text(
            Agent,
            "run_dir",
            &format!("absolute path of at most {} bytes", limits::LONGEST_RUN_DIR),
            quoted(DEFAULT_RUN_DIR),
            "\"/run/other\"",
            "Directory of the control socket and of what must be remembered until the next boot.",
        ),
        word(
            Agent,
            "on_removal",
            &["drop", "drain"],
            "Flows whose vendor, prefix or source a reload has removed: `drop`, they end at once; `drain`, they go on until they end by themselves and new ones are refused. Removed prefixes stay closed either way.",
        ),
        required(
            Datapath,
            "inside",
            &format!("device names of at most {} bytes", limits::LONGEST_DEVICE),
            "[\"eth5\"]",
            "Devices on which pods' packets arrive. A device may stand in both lists (single-arm).",
        ),
        required(
            Datapath,
            "outside",
            &format!("device names of at most {} bytes", limits::LONGEST_DEVICE),
            "[\"eth6\"]",
            "Devices through which the vendors are reached. All must exist when the agent starts, and may come and go afterwards.",
        ),
        word(
            Datapath,
            "xdp",
            &["auto", "off", "native", "generic"],
            "`auto`: XDP in the driver where it is known to be fit, TC everywhere else, and the log says why. `native`: XDP in the driver of every Ethernet device, or an error. `generic`: for trials. `off`: TC only.",
        ),
        flag(
            Datapath,
            "redirect",
            true,
            "Whether TC ingress sends on by redirect, past routing and the host's firewall rules, what needs nothing from them.",
        ),
        number(
            Datapath,
            limits::REFUSAL_ANSWERS,
            "ICMP answers a second, at most, to pods whose packets are refused (`refuse`); 0 for none.",
        ),
        number(
            Datapath,
            limits::MAX_FLOWS,
            "Flows that the table holds; about 260 bytes of kernel memory each.",
        ),
        text(
            FlowLog,
            "json",
            "a file's absolute path, `\"stdout\"` or `\"journal\"`",
            Fallback::Nothing,
            "\"/var/log/vpnat/flows.jsonl\"",
            "Where JSON lines go (`journalctl -t vpnat-flow`).",
        ),
        number(FlowLog, limits::MAX_SIZE_MB, "The file is rotated before it grows above so many megabytes."),
        number(FlowLog, limits::KEEP, "Rotated files that are kept."),
        text(
            FlowLog,
            "ipfix",
            "IPv4 address and port",
            Fallback::Nothing,
            "\"10.0.9.9:4739\"",
            "Collector of IPFIX over UDP (RFC 7011, with the fields of RFC 8158).",
        ),
        number(FlowLog, limits::IPFIX_DOMAIN, "Observation domain (RFC 7011 section 3.1)."),
        number(
            FlowLog,
            limits::BUFFER_KIB,
            "Room for events, 80 bytes each, that were not logged yet; a power of two. What does not fit is counted.",
        ),
        required(
            Vendor,
            "name",
            &format!("1 to {} letters, digits, `-`, `_` or `.`", limits::LONGEST_NAME),
            "\"vendor-z\"",
            "Name in metrics and listings.",
        ),
        required(
            Vendor,
            "cidrs",
            "IPv4 prefixes",
            "[\"198.51.100.0/24\"]",
            "The vendor's prefixes. Whatever goes there leaves with an egress address or not at all.",
        ),
        text(
            Vendor,
            "exempt",
            "IPv4 prefixes inside `cidrs`",
            Fallback::Is("[]".into()),
            "[\"192.0.2.64/26\"]",
            "Parts of `cidrs` that pass untranslated (RFC 6888 REQ-6).",
        ),
        required(
            Vendor,
            "egress_ips",
            &format!("1 to {} IPv4 addresses", limits::MOST_EGRESS),
            "[\"10.0.1.11\"]",
            "The source addresses that the vendor admits.",
        ),
        required(
            Vendor,
            "allow_from",
            "IPv4 prefixes",
            "[\"10.0.4.0/24\"]",
            "Inside prefixes that may talk to the vendor. Everything else is refused.",
        ),
        text(
            Vendor,
            "ports",
            &format!("lowest and highest port, from {} on", limits::LOWEST_PORT),
            quoted(&PortRange::DEFAULT.to_string()),
            "\"32768-60999\"",
            "Ports given out.",
        ),
        word(
            Vendor,
            "mapping",
            &["endpoint-dependent", "endpoint-independent"],
            "Which port a pod's end shows: one to each remote end if need be, so that a port serves many, or the same to all and to no other pod's end (RFC 4787 REQ-1).",
        ),
        number(
            Vendor,
            limits::MAX_FLOWS_PER_SOURCE,
            "Flows that a source may have at a time, of each protocol; 0 for any number (RFC 6888 REQ-4).",
        ),
        number(
            Vendor,
            limits::NEW_FLOWS_PER_SOURCE,
            "Flows that a source may open in a second, of each protocol; 0 for any number.",
        ),
        number(
            Vendor,
            limits::PORT_HOLD,
            "Seconds that the port of an ended UDP flow or ICMP query is kept from others; its own pod's end has it back at once (RFC 6888 REQ-8).",
        ),
        number(
            Vendor,
            limits::MAX_HELD_PORTS,
            "Ports that may be kept so at a time, 0 for any number: of more, those kept longest are given out again.",
        ),
        flag(
            Vendor,
            "tcp_pick_up",
            true,
            "Whether TCP connections that were open before vpnat knew them are taken up.",
        ),
        text(
            Vendor,
            "tcp_mss",
            &format!("`\"auto\"`, `\"off\"` or {} to {} bytes", limits::MSS.least, limits::MSS.most),
            quoted("auto"),
            "1360",
            "What the MSS of SYNs is lowered to, both ways: what the routes to the vendor take, so many bytes, or nothing.",
        ),
        word(
            Vendor,
            "refuse",
            &["host-unreachable", "admin-prohibited", "drop"],
            "What a pod is told whose packet is refused. `host-unreachable`: ICMP 3/1 for want of ports or table space (RFC 6888 REQ-11b), 3/13 where policy refuses; `admin-prohibited`: 3/13 for either (RFC 5508 REQ-8); `drop`: nothing.",
        ),
        timer(limits::UDP, "UDP mapping."),
        timer(limits::ICMP_QUERY, "ICMP query session."),
        timer(limits::TCP_INIT, "TCP before the handshake is complete."),
        timer(limits::TCP_ESTABLISHED, "TCP established or half-closed."),
        timer(limits::TCP_CLOSING, "TCP after both FINs."),
        timer(limits::TCP_TRANS, "TCP after a reset."),
        flag(
            Timeouts,
            "allow_short",
            false,
            "Accept timers below the minima, with a warning at every start.",
        ),
    ]
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
