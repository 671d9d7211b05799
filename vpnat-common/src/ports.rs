//! Which external port a new flow tries, and in which order (RFC 6056).

use crate::addr::Port;

/// How many ports one packet may try before it is refused: bounds the cost of a refusal.
pub const TRIES: u32 = 48;

/// Distance between two tries. Odd and not near a power of two, so that a walk does not crawl along a
/// run of neighbouring ports that one busy host has taken.
const STRIDE: u32 = 7919;

/// The order in which ports are tried: the flow's own first, then a walk from a random place.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    preferred: Port,
    first: u16,
    span: u32,
    start: u32,
}

impl Search {
    /// A search that has not begun.
    pub const NONE: Self = Self { preferred: Port::new(0), first: 0, span: 0, start: 0 };

    /// Tries `preferred` first if it lies in `min..=max`; `random` is a fresh random number.
    #[inline(always)]
    pub const fn new(preferred: Port, min: Port, max: Port, random: u32) -> Self {
        let span = (max.number as u32).wrapping_sub(min.number as u32).wrapping_add(1) & 0x1ffff;
        // Multiply and shift: every place is as likely as another to one part in 2^16, without a division.
        let start = (((random as u64) * (span as u64)) >> 32) as u32;
        Self { preferred, first: min.number, span, start }
    }

    /// The port to try at `attempt`, counted from 0.
    #[inline(always)]
    pub const fn candidate(&self, attempt: u32) -> Port {
        let offset = (self.preferred.number as u32).wrapping_sub(self.first as u32);
        if attempt == 0 && offset < self.span {
            return self.preferred;
        }
        // A range that the stride divides would be walked in a few steps, over and over.
        let stride = if self.span.is_multiple_of(STRIDE) { STRIDE + 1 } else { STRIDE };
        let mut place = self.start + (attempt * stride) % if self.span == 0 { 1 } else { self.span };
        if place >= self.span {
            place -= self.span;
        }
        Port::new((self.first as u32).wrapping_add(place) as u16)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn candidates_stay_in_the_range_and_do_not_repeat(
            preferred: u16, a in 1024u16.., b in 1024u16.., random: u32,
        ) {
            let (min, max) = (a.min(b), a.max(b));
            let search = Search::new(Port::new(preferred), Port::new(min), Port::new(max), random);
            let span = u32::from(max - min) + 1;
            let mut seen = HashSet::new();
            for attempt in 0..TRIES.min(span) {
                let port = search.candidate(attempt).number;
                prop_assert!((min..=max).contains(&port));
                if attempt > 0 {
                    prop_assert!(seen.insert(port), "{port} tried twice");
                }
            }
        }

        #[test]
        fn the_flows_own_port_comes_first(preferred in 1024u16.., random: u32) {
            let search = Search::new(Port::new(preferred), Port::new(1024), Port::new(65535), random);
            prop_assert_eq!(search.candidate(0).number, preferred);
        }
    }

    #[test]
    fn the_whole_range_is_reachable_and_its_ends_too() {
        let (min, max) = (Port::new(1024), Port::new(65535));
        let start = |random| Search::new(Port::new(80), min, max, random).candidate(0).number;
        assert_eq!(start(0), 1024);
        assert_eq!(start(u32::MAX), 65535);
    }
}
