//! What lies in the BPF maps, byte for byte.
//!
//! Every type is `repr(C)` with its padding spelled out, because map keys are compared as bytes and
//! because another agent version must be able to say whether it understands a pinned map. A change to any
//! of them raises [`LAYOUT_VERSION`], which is part of the pin path.

pub mod account;
pub mod clock;
pub mod device;
pub mod event;
pub mod flow;
pub mod held;
pub mod outcome;
pub mod pool;
pub mod recycling;
pub mod refusal;
pub mod rehearsal;
pub mod trace;
pub mod upkeep;
pub mod vendor;

#[cfg(feature = "user")]
pub mod user;

/// Version of everything in this module; maps are pinned under a directory named after it.
pub const LAYOUT_VERSION: u32 = 4 + cfg!(feature = "layout-next") as u32;

/// Most vendors one agent can serve. Slot 0 is nobody: packets that no vendor claims are counted there.
pub const MAX_VENDORS: u32 = 64;

/// Most egress addresses of one vendor.
pub const MAX_EGRESS_PER_VENDOR: usize = 8;

/// Most network devices that XDP can send through.
pub const MAX_DEVICES: u32 = 64;

/// The maps' names, at most 15 bytes each (the kernel's `BPF_OBJ_NAME_LEN`).
pub mod names {
    /// Hash of [`super::flow::FlowKey`] to [`super::flow::FlowEntry`].
    pub const FLOWS: &str = "FLOWS";
    /// Hash of [`super::flow::FragmentKey`] to [`super::flow::FragmentEntry`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Array of [`super::flow::IDENTIFICATION_COUNTERS`] counters, host byte order.
    pub const IDENTIFICATIONS: &str = "IDENTIFICATIONS";
    /// LRU hash of [`super::pool::PoolKey`] to [`super::pool::PortPool`].
    pub const PORT_POOLS: &str = "PORT_POOLS";
    /// LRU hash of [`super::recycling::SetKey`] to [`super::recycling::WorkingSet`].
    pub const WORKING_SETS: &str = "WORKING_SETS";
    /// Hash of [`super::account::AccountKey`] to [`super::account::Account`].
    pub const ACCOUNTS: &str = "ACCOUNTS";
    /// Array of one [`super::clock::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Array of [`super::vendor::VendorPolicy`], by vendor slot.
    pub const VENDORS: &str = "VENDORS";
    /// LPM trie of destination prefix to [`super::vendor::PrefixTarget`].
    pub const VENDOR_PREFIXES: &str = "VENDOR_PREFIXES";
    /// LPM trie of [`super::vendor::SourceKey`] to [`super::vendor::SourceRule`].
    pub const SOURCES: &str = "SOURCES";
    /// Hash of egress address to [`super::vendor::EgressAddress`].
    pub const EGRESS: &str = "EGRESS";
    /// Hash of interface index to [`super::device::Device`].
    pub const DEVICES: &str = "DEVICES";
    /// Array of [`super::device::XdpPort`], by XDP slot.
    pub const XDP_PORTS: &str = "XDP_PORTS";
    /// Device map, by XDP slot.
    pub const XDP_DEVICES: &str = "XDP_DEVICES";
    /// Per-CPU array of [`super::outcome::Count`], see [`super::outcome::counter_index`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Per-CPU array of one [`super::refusal::Answers`].
    pub const ANSWERS: &str = "ANSWERS";
    /// Per-CPU array of `u64`, see [`super::event::Tally::index`].
    pub const TALLIES: &str = "TALLIES";
    /// Ring buffer of [`super::event::FlowEvent`]; its one reader is the agent.
    pub const EVENTS: &str = "EVENTS";
    /// Hash of [`super::event::ExhaustedKey`] to the second in which it was last noted.
    pub const EXHAUSTED: &str = "EXHAUSTED";

    /// Hash of [`super::flow::FlowKey`] to [`super::flow::FlowEntry`], of a rehearsal. Not pinned.
    pub const REHEARSED: &str = "REHEARSED";
    /// Array of one [`super::rehearsal::Report`]. Not pinned.
    pub const REPORT: &str = "REPORT";

    /// Array of one [`super::trace::TraceFilter`]. Not pinned.
    pub const TRACE_FILTER: &str = "TRACE_FILTER";
    /// Ring buffer of [`super::trace::TraceEvent`]; its one reader is a tracer. Not pinned.
    pub const TRACE_EVENTS: &str = "TRACE_EVENTS";
    /// Per-CPU array of one [`super::trace::TraceCpu`]. Not pinned.
    pub const TRACE_CPU: &str = "TRACE_CPU";

    /// All that are pinned, in the order in which the agent creates and checks them.
    pub const ALL: [&str; 19] = [
        SETTINGS,
        VENDORS,
        VENDOR_PREFIXES,
        SOURCES,
        EGRESS,
        DEVICES,
        XDP_PORTS,
        XDP_DEVICES,
        COUNTERS,
        ANSWERS,
        TALLIES,
        EVENTS,
        EXHAUSTED,
        FLOWS,
        FRAGMENTS,
        IDENTIFICATIONS,
        PORT_POOLS,
        WORKING_SETS,
        ACCOUNTS,
    ];
}
