//! What happens to a packet, hook by hook.
//!
//! A hook's function reads the packet, decides, and either leaves it exactly as it was or translates it
//! completely; it returns how the packet ended, which the program turns into a verdict and a counter.

pub mod account;
pub mod admission;
pub mod binding;
pub mod egress;
pub mod fast;
pub mod flows;
pub mod fragments;
pub mod holding;
pub mod icmp_errors;
pub mod identification;
pub mod ingress;
pub mod mss;
pub mod opening;
pub mod own_errors;
pub mod refusal;
pub mod rewrite;
pub mod session;
pub mod sums;
pub mod tables;

use crate::layout::clock::Moment;
use crate::layout::outcome::{Fate, Hook, Outcome, counter_index, counter_index_at};
use tables::Tables;

/// How a packet ended, and whose it was. One word, so that a BPF function can return it in a register.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Decision {
    /// Outcome in bits 0-7, vendor slot in bits 8-15, fate in bits 16-17.
    code: u32,
}

impl Decision {
    /// `outcome` for a packet that no vendor claims.
    #[inline(always)]
    pub const fn nobody(outcome: Outcome) -> Self {
        Self::of(0, outcome)
    }

    /// `outcome` for a packet of the vendor in `slot`.
    #[inline(always)]
    pub const fn of(slot: u8, outcome: Outcome) -> Self {
        Self { code: outcome as u32 | (slot as u32) << 8 | (outcome.fate() as u32) << 16 }
    }

    /// The same vendor's packet, ended otherwise.
    #[inline(always)]
    pub const fn but(self, outcome: Outcome) -> Self {
        Self::of(self.vendor(), outcome)
    }

    /// Vendor slot, 0 if it is nobody's.
    #[inline(always)]
    pub const fn vendor(self) -> u8 {
        (self.code >> 8) as u8
    }

    /// Whether the packet goes no further: dropped, or held.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self.code >> 16 >= Fate::Dropped as u32
    }

    /// Whether it ended with `outcome`.
    #[inline(always)]
    pub const fn is(self, outcome: Outcome) -> bool {
        self.code & 0xff == outcome as u32
    }

    /// Whether the packet was translated.
    #[inline(always)]
    pub const fn is_translated(self) -> bool {
        self.code >> 16 == Fate::Translated as u32
    }

    /// Where it is counted if it was taken at `hook`.
    #[inline(always)]
    pub const fn counter(self, hook: Hook) -> u32 {
        counter_index(self.vendor(), hook, self.code & 0xff)
    }

    /// The same, for the hook with this number.
    #[inline(always)]
    pub const fn counter_at(self, hook: u32) -> u32 {
        counter_index_at(self.vendor(), hook, self.number())
    }

    /// The outcome's number.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.code & 0xff
    }

    /// How the packet ended.
    pub fn outcome(self) -> Outcome {
        // Built from an outcome only, so it is found.
        let known = Outcome::ALL.iter().find(|outcome| **outcome as u32 == self.code & 0xff);
        known.copied().unwrap_or(Outcome::Unfinished)
    }
}

impl core::fmt::Debug for Decision {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} of vendor {}", self.outcome(), self.vendor())
    }
}

/// The time, and what depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Now.
    pub now: Moment,
    /// Equal stamps mean: within the same few seconds and nothing about routes or configuration has changed. While a
    /// flow's stamp is current its next hop holds and its other half is there.
    pub stamp: u16,
}

/// Length of a stamp's life in seconds. Trades work (one route lookup and one look at the other half per flow and
/// life) against how long a next hop can be stale while the agent, which ends it by the generation, is down.
pub const STAMP_SECONDS: u32 = 16;

impl Clock {
    /// Reads the clock.
    #[inline(always)]
    pub fn read<T: Tables>(tables: &T) -> Self {
        let settings = tables.settings();
        let now = Moment::new(tables.now().seconds.wrapping_add(settings.clock_offset_s));
        let stamp =
            (now.seconds / STAMP_SECONDS).wrapping_add(settings.route_generation.wrapping_mul(0x9e37)) as u16;
        // 0 is what a new entry holds: never current.
        Self { now, stamp: if stamp == 0 { 1 } else { stamp } }
    }

    /// When a timer of `seconds` ends that is started now. Never [`flows::GONE`].
    #[inline(always)]
    pub const fn deadline(&self, seconds: u32) -> Moment {
        let end = self.now.after(seconds);
        if end.seconds == flows::GONE.seconds { Moment::new(1) } else { end }
    }

    /// How long ago a timer of `seconds` was started that ends at `deadline`, in seconds: rounded down, negative if it
    /// was none of that length.
    #[inline(always)]
    pub const fn since_start(&self, deadline: Moment, seconds: u32) -> i32 {
        let start = deadline.seconds.wrapping_sub(seconds).wrapping_sub(1);
        // The second in which it was started had begun before.
        self.now.seconds.wrapping_sub(start) as i32 - 1
    }
}
