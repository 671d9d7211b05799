//! Every reason for which a file is refused, with an example: for the reference. What is said of an example is what the parser says.

use super::catalog::Section;
use super::issue::Issue;
use super::prefix::PrefixError;
use super::{Complaint, Config, ConfigError, limits};

/// What makes a sound file a refused one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A key of the section is this.
    Key(Section, &'static str, String),
    /// The section lacks a key.
    Without(Section, &'static str),
    /// A line of the section's own.
    Line(Section, &'static str),
    /// A second vendor, like the first but for a name and a prefix of its own, with these.
    Second(&'static [(&'static str, &'static str)]),
    /// So many vendors.
    Vendors(usize),
}

impl Change {
    /// The file.
    pub fn file(&self) -> String {
        let mut text = String::new();
        for section in Section::ALL {
            let own = match self {
                Self::Key(of, ..) | Self::Without(of, _) | Self::Line(of, _) => *of == section,
                _ => false,
            };
            // A flow log and timers only where they are the matter.
            if !own && matches!(section, Section::FlowLog | Section::Timeouts)
                || section == Section::Vendor && matches!(self, Self::Vendors(_))
            {
                continue;
            }
            let mut lines: Vec<(&str, &str)> = section.base().to_vec();
            text += &format!("{}\n", section.heading());
            match self {
                Self::Key(_, name, value) if own => set(&mut lines, name, value),
                Self::Without(_, name) if own => lines.retain(|(known, _)| known != name),
                Self::Line(_, line) if own => text += &format!("{line}\n"),
                _ => {}
            }
            write(&mut text, &lines);
        }
        match self {
            Self::Second(keys) => {
                let mut lines = Section::Vendor.base().to_vec();
                set(&mut lines, "name", "\"vendor-b\"");
                set(&mut lines, "cidrs", "[\"198.51.100.0/24\"]");
                for (name, value) in *keys {
                    set(&mut lines, name, value);
                }
                text += &format!("{}\n", Section::Vendor.heading());
                write(&mut text, &lines);
            }
            Self::Vendors(count) => {
                for number in 0..*count {
                    let (name, cidr) = (format!("\"v{number}\""), format!("[\"192.0.2.{number}/32\"]"));
                    let mut lines = Section::Vendor.base().to_vec();
                    set(&mut lines, "name", &name);
                    set(&mut lines, "cidrs", &cidr);
                    text += &format!("{}\n", Section::Vendor.heading());
                    write(&mut text, &lines);
                }
            }
            _ => {}
        }
        text
    }

    /// In words, with what stands in the file between backticks.
    pub fn describe(&self) -> String {
        match self {
            Self::Key(section, name, value) => format!("`{}`: `{name} = {value}`", section.heading()),
            Self::Without(section, name) => format!("`{}` without `{name}`", section.heading()),
            Self::Line(section, line) => format!("`{}`: `{line}`", section.heading()),
            Self::Second(keys) => {
                let keys: Vec<_> = keys.iter().map(|(name, value)| format!("`{name} = {value}`")).collect();
                format!("another `{}`: {}", Section::Vendor.heading(), keys.join(", "))
            }
            Self::Vendors(0) => format!("no `{}`", Section::Vendor.heading()),
            Self::Vendors(count) => format!("{count} times `{}`", Section::Vendor.heading()),
        }
    }

    /// What is said of it, if that is what it is the example of, and nothing else is wrong.
    pub fn complaint(&self) -> Option<Complaint> {
        match Config::parse(&self.file(), "vpnat.toml".as_ref()) {
            Err(ConfigError::Wrong(mut complaints)) if complaints.len() == 1 => {
                complaints.pop().filter(|complaint| examples_of(&complaint.issue).contains(self))
            }
            _ => None,
        }
    }
}

fn set<'a>(lines: &mut Vec<(&'a str, &'a str)>, name: &'a str, value: &'a str) {
    match lines.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => lines.push((name, value)),
    }
}

fn write(text: &mut String, lines: &[(&str, &str)]) {
    for (name, value) in lines {
        *text += &format!("{name} = {value}\n");
    }
}

/// Writes down the examples of each kind of issue, once as a list and once as a match: a kind without an example does not compile.
macro_rules! refusals {
    ($($issue:pat => [$($change:expr),+ $(,)?],)+) => {
        /// Every refusal, in the order of the reference.
        pub fn all() -> Vec<Change> {
            vec![$($($change),+),+]
        }

        /// The examples of an issue of this kind.
        fn examples_of(issue: &Issue) -> Vec<Change> {
            match issue {
                $($issue => vec![$($change),+],)+
            }
        }
    };
}

use Change::{Line, Second, Vendors, Without};
use Section::{Agent, Datapath, FlowLog, Timeouts, Vendor};

fn key(section: Section, name: &'static str, value: impl ToString) -> Change {
    Change::Key(section, name, value.to_string())
}

/// As many egress addresses as are too many.
fn egress_addresses() -> String {
    let addresses = (0..=limits::MOST_EGRESS).map(|last| format!("\"10.0.1.{}\"", 10 + last));
    format!("[{}]", addresses.collect::<Vec<_>>().join(", "))
}

refusals! {
    Issue::Syntax { .. } => [
        Line(Datapath, "inside = eth1"),
        Line(Datapath, "max_flow = 65536"),
        Without(Datapath, "outside"),
        key(Datapath, "xdp", "\"fast\""),
        key(Datapath, "inside", "\"eth1\""),
        key(Agent, "metrics", "\"localhost:9477\""),
        key(FlowLog, "ipfix", "\"collector:4739\""),
        key(Vendor, "port_hold", "-1"),
        key(Vendor, "tcp_mss", "true"),
    ],
    Issue::BadPinRoot { .. } => [key(Agent, "bpffs", "\"/sys/fs/bpf/vpnat.d\"")],
    Issue::BadRunDir { .. } => [key(Agent, "run_dir", "\"vpnat\"")],
    Issue::EmptyList { .. } => [key(Datapath, "outside", "[]")],
    Issue::BadDeviceName { .. } => [key(Datapath, "inside", "[\"eth/1\"]")],
    Issue::DuplicateDevice { .. } => [key(Datapath, "inside", "[\"eth1\", \"eth1\"]")],
    Issue::LoopbackDevice => [key(Datapath, "inside", "[\"lo\"]")],
    Issue::RefusalAnswersOutOfRange { .. } => [key(Datapath, "refusal_answers", limits::REFUSAL_ANSWERS.most + 1)],
    Issue::MaxFlowsOutOfRange { .. } => [key(Datapath, "max_flows", limits::MAX_FLOWS.least - 1)],
    Issue::FlowLogNowhere => [Without(FlowLog, "json")],
    Issue::BadFlowLogTarget { .. } => [key(FlowLog, "json", "\"flows.jsonl\"")],
    Issue::FlowLogOutOfRange { .. } => [key(FlowLog, "max_size_mb", limits::MAX_SIZE_MB.least - 1)],
    Issue::BadEventBuffer { .. } => [key(FlowLog, "buffer_kib", limits::BUFFER_KIB.default - 1)],
    Issue::NoVendor => [Vendors(0)],
    Issue::TooManyVendors { .. } => [Vendors(limits::MOST_VENDORS + 1)],
    Issue::BadVendorName { .. } => [key(Vendor, "name", "\"Vendor A\"")],
    Issue::DuplicateVendor { .. } => [Second(&[("name", "\"vendor-a\"")])],
    Issue::Prefix(PrefixError::Malformed(_)) => [key(Vendor, "cidrs", "[\"192.0.2.0\"]")],
    Issue::Prefix(PrefixError::HostBits { .. }) => [key(Vendor, "cidrs", "[\"192.0.2.1/24\"]")],
    Issue::Prefix(PrefixError::Ipv6(_)) => [key(Vendor, "cidrs", "[\"2001:db8::/32\"]")],
    Issue::DuplicatePrefix { .. } => [key(Vendor, "cidrs", "[\"192.0.2.0/24\", \"192.0.2.0/24\"]")],
    Issue::VendorOverlap { .. } => [Second(&[("cidrs", "[\"192.0.2.128/25\"]")])],
    Issue::ExemptOutside { .. } => [key(Vendor, "exempt", "[\"198.51.100.0/24\"]")],
    Issue::ExemptIsCidr { .. } => [key(Vendor, "exempt", "[\"192.0.2.0/24\"]")],
    Issue::BadAddress { .. } => [key(Vendor, "egress_ips", "[\"10.0.1.10/32\"]")],
    Issue::Ipv6Address { .. } => [key(Vendor, "egress_ips", "[\"2001:db8::10\"]")],
    Issue::UnusableEgress { .. } => [key(Vendor, "egress_ips", "[\"127.0.0.1\"]")],
    Issue::DuplicateEgress { .. } => [key(Vendor, "egress_ips", "[\"10.0.1.10\", \"10.0.1.10\"]")],
    Issue::TooManyEgress { .. } => [key(Vendor, "egress_ips", egress_addresses())],
    Issue::EgressInsideAllowed { .. } => [key(Vendor, "egress_ips", "[\"10.0.2.10\"]")],
    Issue::EgressInsideVendor { .. } => [key(Vendor, "egress_ips", "[\"192.0.2.10\"]")],
    Issue::AllowedIsVendor { .. } => [key(Vendor, "allow_from", "[\"192.0.2.0/25\"]")],
    Issue::BadPorts { .. } => [key(Vendor, "ports", "\"1024\"")],
    Issue::PortsReversed { .. } => [key(Vendor, "ports", "\"2000-1024\"")],
    Issue::PortsTooLow { .. } => [key(Vendor, "ports", "\"80-2000\"")],
    Issue::MappingsMixed { .. } => [Second(&[("mapping", "\"endpoint-independent\"")])],
    Issue::OutOfRange { .. } => [key(Vendor, "port_hold", limits::PORT_HOLD.most + 1)],
    Issue::BadMss { .. } => [key(Vendor, "tcp_mss", limits::MSS.least - 1)],
    Issue::TimeoutTooShort { .. } => [key(Timeouts, limits::UDP.name, limits::UDP.minimum - 1)],
    Issue::TimeoutOutOfRange { .. } => [key(Timeouts, limits::UDP.name, limits::LONGEST_TIMEOUT + 1)],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_is_refused_for_its_own_reason_alone() {
        for change in all() {
            let said =
                Config::parse(&change.file(), "vpnat.toml".as_ref()).map_err(|error| error.to_string());
            assert!(change.complaint().is_some(), "{}{said:?}", change.file());
        }
    }

    /// What all examples are changes of.
    #[test]
    fn a_file_without_a_change_is_sound() {
        let unchanged = Change::Line(Section::Vendor, "").file();
        assert!(Config::parse(&unchanged, "vpnat.toml".as_ref()).is_ok(), "{unchanged}");
    }
    /// Two kinds with the same example would make each other's text.
    #[test]
    fn no_example_serves_twice() {
        let all = all();
        for (place, change) in all.iter().enumerate() {
            assert!(!all[..place].contains(change), "{change:?}");
        }
    }
}
