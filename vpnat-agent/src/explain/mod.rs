//! What would happen to a packet, and why: the programs' own code is run on it, hook by hook, on the way that the
//! kernel's routing takes it.

pub mod known;
pub mod packet;
mod remedy;
mod walk;

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::datapath::Error;
use packet::Kind;
pub use walk::explain;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Source.
    pub from: packet::Place,
    /// Destination.
    pub to: packet::Place,
    /// Protocol.
    pub protocol: packet::Protocol,
    /// The device that it arrives on, if it is named.
    pub device: Option<String>,
    /// Whole length, bytes, if it matters.
    pub size: Option<u16>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The datapath or the kernel did not answer.
    #[error(transparent)]
    Datapath(#[from] Error),
    /// The question names a device that is not there.
    #[error("no such device: {0}: see `ip link`")]
    NoDevice(String),
    /// It cannot be told where the packet arrives.
    #[error(
        "cannot tell on which device packets from {address} arrive ({reason}): the routing table: name it with --device"
    )]
    WhichDevice {
        /// Source of the packet.
        address: Ipv4Addr,
        /// What the kernel said.
        reason: String,
    },
}

/// What becomes of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It goes on with another source or destination.
    Translated,
    /// It goes on as it is.
    Passed,
    /// A program of vpnat drops it.
    Dropped,
    /// The kernel does not send it on.
    NotForwarded,
    /// It ends on this host.
    Delivered,
}

/// An address and a port, or a query identifier.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct End {
    /// Address.
    pub address: Ipv4Addr,
    /// Port or identifier.
    pub port: Option<u16>,
}

impl From<packet::Place> for End {
    fn from(place: packet::Place) -> Self {
        Self { address: place.address, port: place.port }
    }
}

/// The packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Asked {
    /// Which kind.
    pub kind: Kind,
    /// Source.
    pub from: End,
    /// Destination.
    pub to: End,
    /// Length from the IP header on.
    pub bytes: usize,
}

/// Where the packet arrives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Arrival {
    /// Name of the device.
    pub device: String,
    /// Whether pods' packets arrive there.
    pub inside: bool,
    /// Whether vendors' packets arrive there.
    pub outside: bool,
    /// Whether frames have an Ethernet header.
    pub ethernet: bool,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Whether the question named it.
    pub named: bool,
}

/// The vendor whose packet it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Vendor {
    /// Name.
    pub name: String,
    /// The prefix by which it was found.
    pub prefix: String,
    /// The prefix is exempt: not translated.
    pub exempt: bool,
    /// `endpoint-dependent` or `endpoint-independent`.
    pub mapping: &'static str,
}

/// Whether the pod may talk to the vendor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Source {
    /// It may.
    pub allowed: bool,
    /// The prefix of `allow_from` that says so.
    pub rule: Option<String>,
    /// Its place in the list, from 0.
    pub index: Option<u32>,
}

/// The flow of the packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Flow {
    /// It is in the table; otherwise it is the one that the packet would make.
    pub exists: bool,
    /// Its state after the packet.
    pub state: &'static str,
    /// What the vendor sees as source when outbound, the pod when inbound.
    pub becomes: End,
    /// When it ends without more packets, seconds.
    pub expires_in_s: i32,
    /// Ports that were found taken first.
    pub ports_taken: u32,
}

/// What a hook did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Hook {
    /// Name of the device.
    pub device: String,
    /// `xdp`, `tc-ingress` or `tc-egress`.
    pub hook: &'static str,
    /// The program.
    pub program: &'static str,
    /// It is attached there; otherwise it was not run.
    pub attached: bool,
    /// How the packet ended there.
    pub outcome: Option<&'static str>,
    /// `translated`, `passed` or `dropped`.
    pub fate: Option<&'static str>,
    /// In a sentence.
    pub reason: Option<&'static str>,
}

/// Where the kernel's routing sends the packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Route {
    /// Name of the device.
    pub device: String,
    /// Next hop, if it is not the destination.
    pub gateway: Option<Ipv4Addr>,
    /// Largest packet on this way, bytes.
    pub mtu: u32,
}

/// The MSS of a SYN.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mss {
    /// As it was offered, bytes.
    pub offered: u16,
    /// As it goes on.
    pub sent: u16,
}

/// The packet after translation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Becomes {
    /// Source.
    pub from: End,
    /// Destination.
    pub to: End,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// Raised when a field is renamed or removed.
    pub version: u32,
    /// The packet.
    pub packet: Asked,
    /// Where it arrives; `None` if this host sends it.
    pub arrival: Option<Arrival>,
    /// Whose it is.
    pub vendor: Option<Vendor>,
    /// Whether its source may.
    pub source: Option<Source>,
    /// Its flow.
    pub flow: Option<Flow>,
    /// What each hook did, in order.
    pub hooks: Vec<Hook>,
    /// Where it goes.
    pub route: Option<Route>,
    /// What became of its MSS.
    pub mss: Option<Mss>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why.
    pub why: String,
    /// What it is afterwards, if it was translated.
    pub becomes: Option<Becomes>,
    /// What would change a refusal.
    pub remedy: Option<String>,
}
