//! What can be wrong with a configuration, in words, and what to do about it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::limits::{
    BUFFER_KIB, LONGEST_DEVICE, LONGEST_NAME, LONGEST_RUN_DIR, LONGEST_TIMEOUT, LOWEST_PORT, MAX_FLOWS,
    MOST_EGRESS, MOST_VENDORS, MSS, REFUSAL_ANSWERS,
};
use super::prefix::PrefixError;
use super::{DEFAULT_PIN_ROOT, DEFAULT_RUN_DIR, PortRange};

/// A broken rule. `Display` says what; [`Issue::remedy`] says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum Issue {
    #[error("{}", one_line(message))]
    Syntax { message: String },
    #[error("no vendor is configured")]
    NoVendor,
    #[error("{count} vendors are configured, more than {MOST_VENDORS}")]
    TooManyVendors { count: usize },
    #[error("the vendor name `{name}` is used twice")]
    DuplicateVendor { name: String },
    #[error("`{name}` is not a usable vendor name")]
    BadVendorName { name: String },
    #[error("`{list}` is empty")]
    EmptyList { list: &'static str },
    #[error("{0}")]
    Prefix(PrefixError),
    #[error("`{text}` is not an IPv4 address")]
    BadAddress { text: String },
    #[error("`{text}` is IPv6, which vpnat does not translate")]
    Ipv6Address { text: String },
    #[error("{address} cannot be a source address of the vendor's traffic")]
    UnusableEgress { address: Ipv4Addr },
    #[error("egress address {address} is listed twice")]
    DuplicateEgress { address: Ipv4Addr },
    #[error("{count} egress addresses, more than {MOST_EGRESS}")]
    TooManyEgress { count: usize },
    #[error("prefix {prefix} is listed twice")]
    DuplicatePrefix { prefix: Ipv4Net },
    #[error("{prefix} of vendor `{vendor}` overlaps {other} of vendor `{other_vendor}`")]
    VendorOverlap { prefix: Ipv4Net, vendor: String, other: Ipv4Net, other_vendor: String },
    #[error("egress address {address} lies inside allow_from {prefix} of vendor `{vendor}`")]
    EgressInsideAllowed { address: Ipv4Addr, prefix: Ipv4Net, vendor: String },
    #[error("egress address {address} lies inside {prefix} of vendor `{vendor}`")]
    EgressInsideVendor { address: Ipv4Addr, prefix: Ipv4Net, vendor: String },
    #[error(
        "vendors `{vendor}` and `{other}` share egress address {address} and ports, but not their `mapping`"
    )]
    MappingsMixed { address: Ipv4Addr, vendor: String, other: String },
    #[error("{name} = {value} is out of range")]
    OutOfRange { name: &'static str, value: u32, least: u32, most: u32 },
    #[error("allow_from {prefix} overlaps {other} of vendor `{vendor}`")]
    AllowedIsVendor { prefix: Ipv4Net, other: Ipv4Net, vendor: String },
    #[error("exempt {prefix} is not inside the vendor's cidrs")]
    ExemptOutside { prefix: Ipv4Net },
    #[error("exempt {prefix} is also in the vendor's cidrs")]
    ExemptIsCidr { prefix: Ipv4Net },
    #[error("tcp_mss {text} is neither \"auto\", \"off\" nor a number from {} to {}", MSS.least, MSS.most)]
    BadMss { text: String },
    #[error("`{text}` is not a port range")]
    BadPorts { text: String },
    #[error("port range {min}-{max} is reversed")]
    PortsReversed { min: u16, max: u16 },
    #[error("port range {min}-{max} reaches below {LOWEST_PORT}")]
    PortsTooLow { min: u16, max: u16 },
    #[error("timeout `{name}` of {seconds} s is below the minimum of {minimum} s ({rule})")]
    TimeoutTooShort { name: &'static str, seconds: u32, minimum: u32, rule: &'static str },
    #[error("timeout `{name}` of {seconds} s is out of range")]
    TimeoutOutOfRange { name: &'static str, seconds: u32 },
    #[error("`{name}` is not a device name")]
    BadDeviceName { name: String },
    #[error("device `{name}` is listed twice in `{list}`")]
    DuplicateDevice { name: String, list: &'static str },
    #[error("the loopback device cannot be inside or outside")]
    LoopbackDevice,
    #[error("max_flows = {value} is out of range")]
    MaxFlowsOutOfRange { value: u32 },
    #[error("refusal_answers = {value} is more than {} a second", REFUSAL_ANSWERS.most)]
    RefusalAnswersOutOfRange { value: u32 },
    #[error("the flow log writes nowhere")]
    FlowLogNowhere,
    #[error("`{text}` is no place for the flow log")]
    BadFlowLogTarget { text: String },
    #[error("flow_log.{name} = {value} is out of range")]
    FlowLogOutOfRange { name: &'static str, value: u32, least: u32, most: u32 },
    #[error("buffer_kib = {value} is not a size that the kernel takes")]
    BadEventBuffer { value: u32 },
    #[error("the pin directory `{path}` is not an absolute path of plain names")]
    BadPinRoot { path: String },
    #[error("the run directory `{path}` is not an absolute path of at most {LONGEST_RUN_DIR} bytes")]
    BadRunDir { path: String },
}

impl Issue {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Syntax { message } if message.contains("unknown field") => {
                "remove or correct this key; keys that vpnat does not know are refused".into()
            }
            Self::Syntax { message } if message.contains("missing field") => "add the missing key".into(),
            Self::Syntax { message } if message.contains("unknown variant") => {
                "write one of the words that are expected".into()
            }
            Self::Syntax { message } if message.contains("socket address") => {
                "write a numeric address and a port, as in 127.0.0.1:9477".into()
            }
            Self::Syntax { message }
                if ["invalid type", "invalid value", "neither "]
                    .iter()
                    .any(|part| message.contains(part)) =>
            {
                "write a value of the kind that is expected; vpnat.example.toml shows every key".into()
            }
            Self::Syntax { .. } => "correct the file; vpnat.example.toml shows every key".into(),
            Self::NoVendor => "add a [[vendor]] section".into(),
            Self::TooManyVendors { .. } => {
                "remove vendors, or merge those with the same egress addresses".into()
            }
            Self::DuplicateVendor { .. } => "give each vendor a name of its own".into(),
            Self::BadVendorName { .. } => {
                format!(
                    "use 1 to {LONGEST_NAME} letters, digits, `-`, `_` or `.`, beginning with a letter or digit"
                )
            }
            Self::EmptyList { list } => format!("list at least one entry in `{list}`"),
            Self::Prefix(PrefixError::HostBits { network, .. }) => {
                format!("write {network}, or a longer prefix if a part was meant")
            }
            Self::Prefix(PrefixError::Ipv6(_)) | Self::Ipv6Address { .. } => {
                "list IPv4 only; IPv6 needs no address translation here".into()
            }
            Self::Prefix(PrefixError::Malformed(_)) => {
                "write an address and a length, as in 192.0.2.0/24".into()
            }
            Self::BadAddress { .. } => "write four numbers, as in 10.0.1.10, without a length".into(),
            Self::UnusableEgress { .. } => "use a unicast address that the vendor admits".into(),
            Self::DuplicateEgress { .. } | Self::DuplicatePrefix { .. } => "list it once".into(),
            Self::TooManyEgress { .. } => {
                format!("keep {MOST_EGRESS}, or split the vendor into several")
            }
            Self::VendorOverlap { .. } => {
                "a destination belongs to one vendor: shrink one of the two prefixes".into()
            }
            Self::EgressInsideAllowed { .. } => {
                "a source must not be both a pod and the translated address: narrow allow_from".into()
            }
            Self::EgressInsideVendor { .. } => {
                "the egress address is this side's, the prefix the vendor's: correct one of them".into()
            }
            Self::MappingsMixed { .. } => {
                "give both the same mapping, an address each, or `ports` that do not overlap".into()
            }
            Self::OutOfRange { least, most, .. } => format!("use {least} to {most}"),
            Self::AllowedIsVendor { .. } => {
                "an address is either a pod's or the vendor's: correct one of the prefixes".into()
            }
            Self::ExemptOutside { .. } => "remove it: what lies outside the cidrs is never translated".into(),
            Self::ExemptIsCidr { .. } => "remove it from one of the two lists".into(),
            Self::BadMss { .. } => "write tcp_mss = \"auto\", \"off\", or bytes such as 1360".into(),
            Self::BadPorts { .. } => {
                format!("write the lowest and the highest port, as in \"{}\"", PortRange::DEFAULT)
            }
            Self::PortsReversed { min, max } => format!("write \"{max}-{min}\""),
            Self::PortsTooLow { .. } => {
                format!("begin at {LOWEST_PORT} or above: lower ports are the system's")
            }
            Self::TimeoutTooShort { minimum, .. } => {
                format!("set {minimum} or more, or allow_short = true in [vendor.timeouts] to have it anyway")
            }
            Self::TimeoutOutOfRange { .. } => format!("use 1 to {LONGEST_TIMEOUT} seconds"),
            Self::BadDeviceName { .. } => {
                format!("use the name that `ip link` shows, at most {LONGEST_DEVICE} bytes")
            }
            Self::DuplicateDevice { .. } => {
                "list it once in each list; in both lists it serves both sides".into()
            }
            Self::LoopbackDevice => "list the devices that the pods and the vendor are reached by".into(),
            Self::MaxFlowsOutOfRange { .. } => format!("use {} to {}", MAX_FLOWS.least, MAX_FLOWS.most),
            Self::BadRunDir { .. } => format!("use a directory such as {}", DEFAULT_RUN_DIR),
            Self::RefusalAnswersOutOfRange { .. } => {
                format!("use 0 (refusals are silent) to {}", REFUSAL_ANSWERS.most)
            }
            Self::FlowLogNowhere => "set json, ipfix or both, or remove [flow_log]".into(),
            Self::BadFlowLogTarget { .. } => "write a file's absolute path, \"stdout\" or \"journal\"".into(),
            Self::FlowLogOutOfRange { least, most, .. } => format!("use {least} to {most}"),
            Self::BadEventBuffer { .. } => format!(
                "use a power of two from {} to {}, as {}",
                BUFFER_KIB.least, BUFFER_KIB.most, BUFFER_KIB.default
            ),
            Self::BadPinRoot { .. } => {
                format!("use a directory on a BPF file system without dots, as in {}", DEFAULT_PIN_ROOT)
            }
        }
    }
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}
