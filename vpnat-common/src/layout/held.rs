//! Fragments that have overtaken the first of their datagram, kept until it comes.
//!
//! They lie in shares of a fixed number of slots. A fragment's source decides which share is its own, so that a flood of
//! fragments pushes out those of its own source, or of one that shares its place, and no others. A share is filled in a
//! ring: the oldest gives way.

use super::clock::Moment;
use super::flow::FragmentKey;

/// Slots of a share: more than the largest datagram has fragments on a link of 1500 bytes.
pub const SHARE_SLOTS: u32 = 64;

/// Shares for each direction, a power of two.
pub const SHARES_EACH_WAY: u32 = 16;

/// All shares: outbound ones, then inbound ones.
pub const SHARES: u32 = 2 * SHARES_EACH_WAY;

/// All slots.
pub const SLOTS: u32 = SHARES * SHARE_SLOTS;

/// Largest fragment that is kept, bytes from the IP header on.
pub const KEPT_BYTES: usize = 2048;

/// Largest first fragment that others can be sent behind, bytes from the IP header on.
pub const FIRST_BYTES: usize = 16_384;

/// What [`HeldFragment::state`] says.
pub mod state {
    /// Nothing is kept here.
    pub const FREE: u32 = 0;
    /// A program is writing or sending it; it alone may use the slot.
    pub const BUSY: u32 = 1;
    /// A fragment is kept here.
    pub const KEPT: u32 = 2;
}

/// What is kept in a slot; the packet itself lies in a map of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct HeldFragment {
    /// One of [`state`].
    pub state: u32,
    /// From then on the slot is as good as free.
    pub expires: Moment,
    /// The datagram that it belongs to.
    pub key: FragmentKey,
    /// Its length, bytes from the IP header on.
    pub len: u16,
    /// Way of translation, a [`Direction`](super::flow::Direction) as its byte.
    pub direction: u8,
    /// Padding, 0.
    pub _pad: u8,
}

/// A first fragment that waits while those held for it are sent in its buffer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Aside {
    /// Its length, bytes from the IP header on.
    pub len: u32,
    /// The packet.
    pub bytes: [u8; FIRST_BYTES],
}

/// A share of the slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct HeldShare {
    /// How many fragments were put here so far, wrapping: the next one's slot.
    pub turn: u32,
    /// How many slots are not free.
    pub kept: u32,
}
