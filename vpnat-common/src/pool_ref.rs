//! A port pool where it lies: in the map, while other CPUs use it too.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::addr::Port;
use crate::atomic;
use crate::bounded::bounded;
use crate::layout::clock::Moment;
use crate::layout::pool::{FAILED_BITS, POOL_SUMMARY, POOL_WORDS, PortPool};

/// A shared pool. Bits change one at a time; that a free port is marked as taken can happen only where a program
/// lost sight of its pool in between, and is put right by whoever looks at the port's flow.
#[derive(Clone, Copy)]
pub struct PoolRef<'a> {
    pool: NonNull<PortPool>,
    map: PhantomData<&'a PortPool>,
}

impl PoolRef<'_> {
    /// Wraps a pointer into the map of pools.
    ///
    /// # Safety
    /// `pool` points to a [`PortPool`] that stays readable and writable for `'a`.
    #[inline(always)]
    pub const unsafe fn new(pool: NonNull<PortPool>) -> Self {
        Self { pool, map: PhantomData }
    }

    #[inline(always)]
    fn taken_word(&self, word: u32) -> *mut u64 {
        // SAFETY: the field lies within the pool, and the mask keeps the word inside it.
        unsafe {
            (&raw mut (*self.pool.as_ptr()).taken)
                .cast::<u64>()
                .add(bounded::<{ POOL_WORDS as u32 - 1 }>(word))
        }
    }

    #[inline(always)]
    fn full_word(&self, word: u32) -> *mut u64 {
        // SAFETY: as above.
        unsafe {
            (&raw mut (*self.pool.as_ptr()).full)
                .cast::<u64>()
                .add(bounded::<{ POOL_SUMMARY as u32 - 1 }>(word >> 6))
        }
    }

    /// The ports `64 * word` to `64 * word + 63` that are known to be taken, a bit for each.
    #[inline(always)]
    pub fn taken(&self, word: u32) -> u64 {
        // SAFETY: `taken_word` is inside the pool, which `new` vouches for.
        unsafe { self.taken_word(word).read_volatile() }
    }

    /// The words of the 64 around `word` whose ports are all taken, a bit for each.
    #[inline(always)]
    pub fn full(&self, word: u32) -> u64 {
        // SAFETY: as above.
        unsafe { self.full_word(word).read_volatile() }
    }

    /// The groups of 64 words whose ports are all taken, a bit for each of the 16.
    #[inline(always)]
    pub fn groups(&self) -> u64 {
        // SAFETY: `groups_word` is inside the pool, which `new` vouches for.
        unsafe { self.groups_word().read_volatile() }
    }

    #[inline(always)]
    fn groups_word(&self) -> *mut u64 {
        // SAFETY: the field lies within the pool.
        unsafe { &raw mut (*self.pool.as_ptr()).groups }
    }

    /// Marks a port as taken.
    #[inline(always)]
    pub fn set(&self, port: Port) {
        let word = port.number as u32 >> 6;
        let (bit, group) = (1 << (word & 63), 1 << (word >> 6));
        // SAFETY: the words are inside the pool, which `new` vouches for, and aligned.
        unsafe {
            atomic::or(self.taken_word(word), 1 << (port.number & 63));
            if self.taken(word) != u64::MAX {
                return;
            }
            // After each step up: what lies below may have been freed meanwhile, by somebody who found the step above
            // still clear.
            atomic::or(self.full_word(word), bit);
            if self.taken(word) != u64::MAX {
                atomic::and(self.full_word(word), !bit);
            }
            if self.full(word) == u64::MAX {
                atomic::or(self.groups_word(), group);
                if self.full(word) != u64::MAX {
                    atomic::and(self.groups_word(), !group);
                }
            }
        }
    }

    /// Marks a port as not known to be taken.
    #[inline(always)]
    pub fn clear(&self, port: Port) {
        let word = port.number as u32 >> 6;
        // SAFETY: as in `set`.
        unsafe {
            atomic::and(self.taken_word(word), !(1 << (port.number & 63)));
            atomic::and(self.full_word(word), !(1 << (word & 63)));
            atomic::and(self.groups_word(), !(1 << (word >> 6)));
            // Searches are worth their while again.
            self.failed_word().write_volatile(0);
        }
    }

    #[inline(always)]
    fn failed_word(&self) -> *mut u32 {
        // SAFETY: the field lies within the pool.
        unsafe { &raw mut (*self.pool.as_ptr()).failed }
    }

    /// Searches that have found every port taken in the second of `now`.
    #[inline(always)]
    pub fn failed(&self, now: Moment) -> u32 {
        // SAFETY: `failed_word` is inside the pool, which `new` vouches for.
        let failed = unsafe { self.failed_word().read_volatile() };
        let count = failed.wrapping_sub(now.seconds << FAILED_BITS);
        if count >> FAILED_BITS == 0 { count } else { 0 }
    }

    /// Counts a search that has found every port taken. CPUs that do so at once may count one.
    #[inline(always)]
    pub fn count_failed(&self, now: Moment) {
        let count = self.failed(now) + 1;
        if count >> FAILED_BITS == 0 {
            // SAFETY: as above.
            unsafe { self.failed_word().write_volatile(now.seconds << FAILED_BITS | count) };
        }
    }

    /// The next port of `min..=max` whose holder is to be looked at, from `start` on when it is the first.
    #[inline(always)]
    pub fn turn_hand(&self, min: Port, max: Port, start: Port) -> Port {
        // SAFETY: `new` vouches for the memory; two CPUs that turn the hand at once look at the same port.
        let hand = unsafe { &raw mut (*self.pool.as_ptr()).hand };
        // SAFETY: as above.
        let last = unsafe { hand.read_volatile() };
        let next = match last {
            0 => start.number as u32,
            last if last < min.number as u32 || last >= max.number as u32 => min.number as u32,
            last => last + 1,
        };
        // SAFETY: as above.
        unsafe { hand.write_volatile(next) };
        Port::new(next as u16)
    }
}

/// The number of the lowest bit that is set in `bits`, 64 if none is.
#[inline(always)]
pub const fn lowest(bits: u64) -> u32 {
    ones(!bits & bits.wrapping_sub(1))
}

/// How many bits are set in `bits`. In arithmetic, since BPF has no instruction for it (Warren, "Hacker's Delight", 5-1).
#[inline(always)]
pub const fn ones(bits: u64) -> u32 {
    let pairs = bits - ((bits >> 1) & 0x5555_5555_5555_5555);
    let nibbles = (pairs & 0x3333_3333_3333_3333) + ((pairs >> 2) & 0x3333_3333_3333_3333);
    let bytes = (nibbles + (nibbles >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (bytes.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use proptest::prelude::*;

    use super::*;

    fn with_pool(check: impl FnOnce(PoolRef<'_>)) {
        let mut pool = Box::new(PortPool::EMPTY);
        // SAFETY: the box lives through the call, and nobody else uses it.
        check(unsafe { PoolRef::new(NonNull::from(&mut *pool)) });
    }

    #[test]
    fn the_summary_follows_the_ports() {
        with_pool(|pool| {
            for bit in 0..64 {
                assert_eq!(pool.full(700), 0);
                pool.set(Port::new(700 * 64 + bit));
            }
            assert_eq!((pool.taken(700), pool.full(700)), (u64::MAX, 1 << (700 & 63)));
            pool.clear(Port::new(700 * 64 + 9));
            assert_eq!((pool.taken(700), pool.full(700)), (!(1 << 9), 0));
        });
    }

    #[test]
    fn the_hand_goes_round() {
        with_pool(|pool| {
            let ports: std::vec::Vec<_> =
                (0..4).map(|_| pool.turn_hand(Port::new(5), Port::new(7), Port::new(6)).number).collect();
            assert_eq!(ports, [6, 7, 5, 6]);
        });
    }

    #[test]
    fn failures_count_for_their_second() {
        with_pool(|pool| {
            let [now, later] = [Moment::new(u32::MAX), Moment::new(0)];
            assert_eq!((pool.failed(now), pool.failed(later)), (0, 0));
            for _ in 0..300 {
                pool.count_failed(now);
            }
            // It stops short of the next second's.
            assert_eq!((pool.failed(now), pool.failed(later)), (255, 0));
            pool.count_failed(later);
            assert_eq!((pool.failed(now), pool.failed(later)), (0, 1));
            pool.clear(Port::new(5));
            assert_eq!(pool.failed(later), 0);
        });
    }

    proptest! {
        #[test]
        fn the_lowest_bit_is_found(bits: u64, shift in 0u32..64) {
            prop_assert_eq!(lowest(bits << shift), (bits << shift).trailing_zeros());
            prop_assert_eq!(ones(bits), bits.count_ones());
        }
    }
}
