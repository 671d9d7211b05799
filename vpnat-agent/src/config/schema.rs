//! The file as it is written: field names, types and defaults, no rules.
//!
//! Values that a rule can refuse keep their place in the file, so that the complaint can point at it.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

/// Addresses, prefixes and device names, each with its place in the file.
pub type Texts = Vec<Spanned<String>>;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `[agent]`.
    #[serde(default)]
    pub agent: Agent,
    /// `[datapath]`.
    pub datapath: Spanned<Datapath>,
    /// `[flow_log]`.
    pub flow_log: Option<Spanned<super::flow_log::Section>>,
    /// `[[vendor]]`.
    #[serde(default)]
    pub vendor: Vec<Spanned<Vendor>>,
}

/// `[agent]`: what the process itself does.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// Where metrics, health and readiness are served.
    pub metrics: SocketAddr,
    /// Directory on a BPF file system under which everything is pinned.
    pub bpffs: PathBuf,
    /// Whether the agent may set the sysctls that forwarding needs.
    pub enable_forwarding: bool,
    /// Directory of the control socket and of what must be remembered until the next boot.
    pub run_dir: PathBuf,
    /// What becomes of flows that the configuration no longer allows.
    pub on_removal: super::OnRemoval,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            metrics: SocketAddr::from(([127, 0, 0, 1], 9477)),
            bpffs: PathBuf::from(super::DEFAULT_PIN_ROOT),
            enable_forwarding: true,
            run_dir: PathBuf::from(super::DEFAULT_RUN_DIR),
            on_removal: super::OnRemoval::default(),
        }
    }
}

/// `[datapath]`: devices and sizes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Datapath {
    /// Devices on which pods' packets arrive.
    pub inside: Spanned<Texts>,
    /// Devices through which vendors are reached.
    pub outside: Spanned<Texts>,
    /// How XDP is chosen.
    #[serde(default)]
    pub xdp: super::XdpChoice,
    /// Whether TC ingress sends on by redirect, past the stack, what it can finish.
    #[serde(default = "yes")]
    pub redirect: bool,
    /// Answers to refused packets, per second at most.
    pub refusal_answers: Option<Spanned<u32>>,
    /// Flows the table can hold.
    pub max_flows: Option<Spanned<u32>>,
}

/// `[[vendor]]`: who is reached, from where, and as whom.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vendor {
    /// Name in metrics and listings.
    pub name: Spanned<String>,
    /// Destination prefixes.
    pub cidrs: Spanned<Texts>,
    /// Prefixes inside `cidrs` that pass untranslated.
    #[serde(default)]
    pub exempt: Texts,
    /// Source addresses that the vendor sees.
    pub egress_ips: Spanned<Texts>,
    /// Inside prefixes that may talk to the vendor.
    pub allow_from: Spanned<Texts>,
    /// Ports given out, `"low-high"`.
    pub ports: Option<Spanned<String>>,
    /// Whether a TCP segment without a flow, other than a SYN, makes one.
    pub tcp_pick_up: Option<bool>,
    /// `"auto"`, `"off"` or bytes.
    pub tcp_mss: Option<Spanned<TcpMss>>,
    /// Whether a pod's end shows one port to all remote ends.
    #[serde(default)]
    pub mapping: super::Mapping,
    /// Flows that a source may have at a time, of each protocol.
    pub max_flows_per_source: Option<Spanned<u32>>,
    /// Flows that a source may open in a second, of each protocol.
    pub new_flows_per_source: Option<Spanned<u32>>,
    /// Seconds that the port of an ended UDP flow or ICMP query is kept from others.
    pub port_hold: Option<Spanned<u32>>,
    /// Ports that may be kept so at a time.
    pub max_held_ports: Option<Spanned<u32>>,
    /// What a pod is told whose packet is refused.
    #[serde(default)]
    pub refuse: super::Refuse,
    /// `[vendor.timeouts]`.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// The MSS of SYNs: a word or a number.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "tcp_mss is neither a word nor a number of bytes")]
pub enum TcpMss {
    /// Bytes.
    Bytes(i64),
    /// `auto` or `off`.
    Word(String),
}

/// `[vendor.timeouts]`, in seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// UDP mapping.
    pub udp: Option<Spanned<u32>>,
    /// ICMP query session.
    pub icmp_query: Option<Spanned<u32>>,
    /// TCP before the handshake is complete.
    pub tcp_init: Option<Spanned<u32>>,
    /// TCP established or half-closed.
    pub tcp_established: Option<Spanned<u32>>,
    /// TCP after both FINs.
    pub tcp_closing: Option<Spanned<u32>>,
    /// TCP after a reset.
    pub tcp_trans: Option<Spanned<u32>>,
    /// Accept timers below the RFCs' minima.
    #[serde(default)]
    pub allow_short: bool,
}

fn yes() -> bool {
    true
}
