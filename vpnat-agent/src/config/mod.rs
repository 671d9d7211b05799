//! The configuration file: what may stand in it, and what the agent works with once it was found sound.
//!
//! `schema` is the file as written, `check` the rules between its parts, `issue` what is said when one
//! is broken. Unknown keys are errors everywhere: a misspelt key must not become a default.

pub mod catalog;
mod check;
mod diff;
mod flow_log;
mod issue;
pub(crate) mod limits;
mod prefix;
pub mod refusals;
mod schema;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::Deserialize;
use vpnat_common::layout::event::EVENT_BUFFER;
use vpnat_common::layout::vendor::{Timeouts, VendorPolicy, flag};

pub use diff::{Fixed, diff, fixed};
pub use flow_log::{FlowLog, FlowLogTarget};
pub use issue::Issue;

/// Where pins lie unless the configuration says otherwise.
pub const DEFAULT_PIN_ROOT: &str = "/sys/fs/bpf/vpnat";

/// Where the control socket lies unless the configuration says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/vpnat";

/// Flows the table holds unless the configuration says otherwise.
pub const DEFAULT_MAX_FLOWS: u32 = 262_144;

/// Most flows that may be configured: two entries each, about 128 bytes of kernel memory per entry.
pub const MAX_MAX_FLOWS: u32 = 8_388_608;

/// Answers to refused packets per second unless the configuration says otherwise.
pub const DEFAULT_REFUSAL_ANSWERS: u32 = 100;

/// How XDP is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpChoice {
    /// In the driver where it is known to be fit, TC everywhere else.
    #[default]
    Auto,
    /// In the driver of every Ethernet device, or an error.
    Native,
    /// In the kernel's generic hook. Slower than TC; for trials.
    Generic,
    /// Never.
    Off,
}

/// What becomes of flows that the configuration no longer allows: their vendor, prefix or source was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRemoval {
    /// They end at once.
    #[default]
    Drop,
    /// They go on until they end by themselves; new ones are refused.
    Drain,
}

/// Which port a pod's end shows to remote ends (RFC 4787 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// One for each, if need be: a port may serve many pods' ends towards different remote ends.
    #[default]
    EndpointDependent,
    /// The same to all, and to itself alone.
    EndpointIndependent,
}

impl Mapping {
    /// As a policy has it.
    pub const fn of(policy: &VendorPolicy) -> Self {
        if policy.flags & flag::ENDPOINT_INDEPENDENT != 0 {
            Self::EndpointIndependent
        } else {
            Self::EndpointDependent
        }
    }

    /// As in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EndpointDependent => "endpoint-dependent",
            Self::EndpointIndependent => "endpoint-independent",
        }
    }
}

/// Longest time that a freed port can be kept from others, seconds.
pub const LONGEST_HOLD: u32 = 86_400;

/// Ports that may be given out, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// Lowest.
    pub min: u16,
    /// Highest.
    pub max: u16,
}

impl PortRange {
    /// What is given out unless the configuration says otherwise: all that may be.
    pub const DEFAULT: Self = Self { min: limits::LOWEST_PORT, max: u16::MAX };
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// A configuration that kept every rule.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Where metrics, health and readiness are served.
    pub metrics: SocketAddr,
    /// Directory on a BPF file system under which everything is pinned.
    pub pin_root: PathBuf,
    /// Whether the agent sets the sysctls that forwarding needs.
    pub enable_forwarding: bool,
    /// Directory of the control socket and of what must be remembered until the next boot.
    pub run_dir: PathBuf,
    /// What becomes of flows that the configuration no longer allows.
    pub on_removal: OnRemoval,
    /// Devices on which pods' packets arrive.
    pub inside: Vec<String>,
    /// Devices through which vendors are reached.
    pub outside: Vec<String>,
    /// How XDP is chosen.
    pub xdp: XdpChoice,
    /// Whether TC ingress sends on by redirect what it can finish.
    pub redirect: bool,
    /// Answers to refused packets, per second at most.
    pub refusal_answers: u32,
    /// Flows the table can hold.
    pub max_flows: u32,
    /// Where records of flows go, if they are wanted.
    pub flow_log: Option<FlowLog>,
    /// Vendors, in the file's order.
    pub vendors: Vec<Vendor>,
    /// Allowed, but worth saying at every start.
    pub warnings: Vec<String>,
}

/// One vendor.
#[derive(Clone, PartialEq, Debug)]
pub struct Vendor {
    /// Name in metrics and listings.
    pub name: String,
    /// Destination prefixes.
    pub cidrs: Vec<Ipv4Net>,
    /// Prefixes inside `cidrs` that pass untranslated.
    pub exempt: Vec<Ipv4Net>,
    /// Source addresses that the vendor sees.
    pub egress_ips: Vec<Ipv4Addr>,
    /// Inside prefixes that may talk to the vendor.
    pub allow_from: Vec<Ipv4Net>,
    /// Ports given out.
    pub ports: PortRange,
    /// Whether a TCP segment without a flow, other than a SYN, makes one.
    pub tcp_pick_up: bool,
    /// Which port a pod's end shows to remote ends.
    pub mapping: Mapping,
    /// Flows that a source may have at a time, of each protocol; 0: any number.
    pub max_flows_per_source: u32,
    /// Flows that a source may open in a second, of each protocol; 0: any number.
    pub new_flows_per_source: u32,
    /// How long the port of an ended UDP flow or ICMP query is kept from others, seconds.
    pub port_hold: u32,
    /// Ports that may be kept so at a time, the oldest giving way; 0: any number.
    pub max_held_ports: u32,
    /// Largest MSS of SYNs.
    pub mss: Mss,
    /// What a pod is told whose packet is refused.
    pub refuse: Refuse,
    /// Idle timers.
    pub timeouts: Timeouts,
}

/// What a pod is told by ICMP whose packet is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refuse {
    /// "Host unreachable" for want of ports or table space (RFC 6888 REQ-11b), "prohibited" where policy refuses.
    #[default]
    HostUnreachable,
    /// "Prohibited" in either case (RFC 5508 REQ-8).
    AdminProhibited,
    /// Nothing.
    Drop,
}

/// What happens to the MSS option of SYNs, both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mss {
    /// Lowered to what the routes to the vendor take.
    #[default]
    Auto,
    /// Left alone.
    Off,
    /// Lowered to so many bytes.
    Fixed(u16),
}

impl Config {
    /// Size of the event buffer, bytes.
    pub fn event_buffer(&self) -> u32 {
        self.flow_log.as_ref().map_or(EVENT_BUFFER, |log| log.buffer)
    }

    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) => Err(ConfigError::Unreadable { path: path.to_owned(), error }),
        }
    }

    /// Checks `text`; `path` is only for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let at = |offset: usize, issue: Issue| {
            let (line, column) = line_and_column(text, offset);
            Complaint { path: path.to_owned(), line, column, issue }
        };
        let file: schema::File = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            ConfigError::Wrong(vec![at(offset, Issue::Syntax { message: error.message().to_owned() })])
        })?;
        check::check(file).map_err(|issues| {
            ConfigError::Wrong(issues.into_iter().map(|(offset, issue)| at(offset, issue)).collect())
        })
    }

    /// Whether the device called `name` is inside, and whether it is outside.
    pub fn sides_of(&self, name: &str) -> (bool, bool) {
        let in_list = |list: &[String]| list.iter().any(|entry| entry == name);
        (in_list(&self.inside), in_list(&self.outside))
    }

    /// Every configured device once.
    pub fn devices(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.inside.iter().chain(&self.outside).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Something wrong at a place in the file.
#[derive(Debug)]
pub struct Complaint {
    /// The file.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub issue: Issue,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, issue } = self;
        write!(f, "{issue}: {}:{line}:{column}: {}", path.display(), issue.remedy())
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration ({error}): {}: name an existing file with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The file breaks rules; all of them, in the file's order.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Complaint>),
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
