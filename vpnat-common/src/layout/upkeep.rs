//! What the agent hands to the sweep's program.

/// Offset of the first flow key in the packet given to `reap`; what lies before it is filler that a test run
/// takes for link-layer headers.
pub const REAP_KEYS_AT: u32 = 16;

/// Most keys per call: bounds how long one call holds its CPU.
pub const REAP_MOST: u32 = 128;

/// Offset of the byte, in that filler but behind the link-layer header, that says how: 0 removes the flows that are over,
/// other values all of them, and say why.
pub const REAP_HOW_AT: u32 = 14;

/// Value of that byte: an operator ends them.
pub const REAP_NOW: u8 = 1;

/// Value of that byte: the configuration no longer allows them.
pub const REAP_REVOKED: u8 = 2;
