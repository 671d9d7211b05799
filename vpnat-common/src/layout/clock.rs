//! Time as the datapath counts it, and the settings that every packet may need.

/// A moment in whole seconds since an arbitrary start, the same for all programs until the next boot.
///
/// Derived from the kernel's jiffies, which cost nothing to read. Whole seconds are enough for timers of a
/// minute and more: a timer set for `t` seconds ends between `t` and `t + 1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct Moment {
    /// Seconds, host byte order.
    pub seconds: u32,
}

impl Moment {
    /// The moment `seconds` after the start.
    #[inline(always)]
    pub const fn new(seconds: u32) -> Self {
        Self { seconds }
    }

    /// When a timer of `seconds`, started now, may end at the earliest. The second that is running now
    /// does not count, so that the timer never ends early.
    #[inline(always)]
    pub const fn after(self, seconds: u32) -> Self {
        Self { seconds: self.seconds.wrapping_add(seconds).wrapping_add(1) }
    }

    /// Whether the timer that ends at `self` still runs at `now`.
    #[inline(always)]
    pub const fn is_after(self, now: Self) -> bool {
        (self.seconds.wrapping_sub(now.seconds) as i32) > 0
    }
}

/// What every program may need and the agent may change while they run. Host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Settings {
    /// Nothing.
    #[cfg(feature = "layout-next")]
    pub next: u32,
    /// Added to the clock of the datapath. Tests move time with it; 0 in production.
    pub clock_offset_s: u32,
    /// Raised by the agent whenever routes, neighbours or devices changed: cached next hops end at once.
    pub route_generation: u32,
    /// 1 once every map holds the configuration. Until then no flow is opened; those that exist go on.
    pub ready: u32,
    /// The packet mark by which TC egress knows what TC ingress has translated and redirected; random, so that
    /// nobody sets it by accident. 0: TC ingress leaves forwarding to the stack.
    pub redirect_mark: u32,
    /// Most answers to refused packets in a second of the clock, up to
    /// [`MOST_ANSWERS_PER_S`](super::refusal::MOST_ANSWERS_PER_S); 0: refusals are silent.
    pub answers_per_s: u32,
    /// 1 if somebody reads what becomes of flows: events are written.
    pub events: u32,
}
