//! What a rehearsal is told and what it reports: a run of the engine on a made-up packet that changes nothing.
//! These maps are never pinned; whoever rehearses has its own.

/// Bits of [`Report::asked`].
pub mod asked {
    /// Which vendor a destination or source belongs to.
    pub const VENDOR: u32 = 1;
    /// Whether a source is allowed.
    pub const SOURCE: u32 = 2;
    /// The routing table.
    pub const ROUTE: u32 = 4;
    /// For a free port.
    pub const PORT: u32 = 8;
}

/// What the engine asked and how it ended. Host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Report {
    /// Told beforehand: entries that the flow table still takes.
    pub room: u32,
    /// [`super::outcome::counter_index`] of the packet.
    pub counter: u32,
    /// How often a packet was counted: 1.
    pub counted: u32,
    /// Bits of [`asked`].
    pub asked: u32,
    /// Inbound keys that were taken when the engine looked for a port.
    pub taken: u32,
    /// Device of the route that the engine was told, 0 if there was none.
    pub device: u32,
    /// Largest packet that this route takes, bytes; 0 if the fast path cannot use it.
    pub mtu: u32,
}
