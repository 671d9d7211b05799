//! What happens to a packet, hook by hook.
//!
//! A hook's function reads the packet, decides, and either leaves it exactly as it was or translates it
//! completely; it returns how the packet ended, which the program turns into a verdict and a counter.

pub mod egress;
pub mod fast;
pub mod flows;
pub mod fragments;
pub mod icmp_errors;
pub mod ingress;
pub mod rewrite;
pub mod session;
pub mod tables;

use crate::layout::clock::Moment;
use crate::layout::outcome::Outcome;
use tables::Tables;

/// How a packet ended, and whose it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// How it ended.
    pub outcome: Outcome,
    /// Vendor slot, 0 if it is nobody's.
    pub vendor: u8,
}

impl Decision {
    /// `outcome` for a packet that no vendor claims.
    #[inline(always)]
    pub const fn nobody(outcome: Outcome) -> Self {
        Self { outcome, vendor: 0 }
    }

    /// `outcome` for a packet of the vendor in `slot`.
    #[inline(always)]
    pub const fn of(vendor: u8, outcome: Outcome) -> Self {
        Self { outcome, vendor }
    }
}

/// The time, and what depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Now.
    pub now: Moment,
    /// Equal stamps mean: within the same few seconds and nothing about routes has changed. While a flow's
    /// stamp is current its timers need no look and its next hop holds.
    pub stamp: u16,
}

/// Length of a stamp's life in seconds; timers are set this much longer, since they are only renewed when
/// the stamp changes. The default trades renewal work (one route lookup per flow and life) against how
/// long a next hop can be stale while the agent, which ends it by the generation, is down.
pub const STAMP_SECONDS: u32 = 4;

impl Clock {
    /// Reads the clock.
    #[inline(always)]
    pub fn read<T: Tables>(tables: &T) -> Self {
        let settings = tables.settings();
        let now = Moment::new(tables.now().seconds.wrapping_add(settings.clock_offset_s));
        let stamp = (now.seconds / STAMP_SECONDS)
            .wrapping_add(settings.route_generation.wrapping_mul(0x9e37)) as u16;
        // 0 is what a new entry holds: never current.
        Self { now, stamp: if stamp == 0 { 1 } else { stamp } }
    }

    /// When a timer of `seconds` ends that is started now and renewed once per stamp.
    #[inline(always)]
    pub const fn deadline(&self, seconds: u32) -> Moment {
        self.now.after(seconds.saturating_add(STAMP_SECONDS))
    }
}
