//! What the agent hands to the sweep's program.

/// Offset of the first flow key in the packet given to `reap`; what lies before it is filler that a test run
/// takes for link-layer headers.
pub const REAP_KEYS_AT: u32 = 16;

/// Most keys per call: bounds how long one call holds its CPU.
pub const REAP_MOST: u32 = 128;
