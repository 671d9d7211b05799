//! Which external port a new flow tries, and in which order (RFC 6056).

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::addr::{Ip4, Port};
use crate::layout::flow::FlowKey;
use crate::layout::pool::POOL_WORDS;
use crate::layout::vendor::VendorPolicy;
use crate::pool_ref::{PoolRef, lowest};
use crate::recycling::{LAST_TRIES, SET_TRIES};

/// Random ports that are tried towards an endpoint of whose ports nothing is known.
pub const BLIND_TRIES: u32 = 6;

/// Ports that are tried, at most, with a pool's help: bounds what one packet may cost while the pool is learning.
pub const POOL_TRIES: u32 = 64;

/// Holders that are looked at, with no port left, for whether they have ended.
const HAND_TRIES: u32 = 2;

/// Searches for datagrams that may find every port taken in a second, by endpoint and egress address. After that many, one in
/// [`CHANCE`] of those that come still searches, until a port is given back or the second is over.
pub const FAILURES: u32 = 64;

/// See [`FAILURES`]; a power of two.
pub const CHANCE: u32 = 32;

/// A range that is so small is looked at as a whole.
const SMALL: u32 = 12;

/// Rounds of the search, at most: every try, and the steps of the walks in between.
pub const ROUNDS: u32 = 4 * (1 + SET_TRIES + BLIND_TRIES + POOL_TRIES + LAST_TRIES);

/// How often a search goes on after it has come upon a port that another CPU then was faster to take over, plus one.
pub const RACES: u32 = 2;

/// Bits of a seed that a search takes for itself: enough for each port to be as likely as another, to one part in 32.
const PIECE: u32 = 21;

/// One in so many new flows looks whether an endpoint is busy enough for a pool (a power of two).
pub const SAMPLE: u16 = 16;

/// The ports that may be given out, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// Lowest.
    pub min: Port,
    /// Highest.
    pub max: Port,
}

impl Range {
    /// The ports that `policy` gives out.
    #[inline(always)]
    pub const fn of(policy: &VendorPolicy) -> Self {
        Self { min: policy.port_min, max: policy.port_max }
    }

    /// How many ports there are.
    #[inline(always)]
    const fn span(&self) -> u32 {
        (self.max.number as u32).wrapping_sub(self.min.number as u32).wrapping_add(1) & 0x1ffff
    }

    /// How many holders are looked at with no port left.
    #[inline(always)]
    pub const fn hand_tries(&self) -> u32 {
        let span = self.span();
        if span <= SMALL { span } else { HAND_TRIES }
    }

    /// Whether `port` is one of them.
    #[inline(always)]
    pub const fn contains(&self, port: Port) -> bool {
        (port.number as u32).wrapping_sub(self.min.number as u32) < self.span()
    }

    /// The port that `random`, a random number, stands for. Multiply and shift: each is as likely as another to one
    /// part in 2^16, without a division.
    #[inline(always)]
    pub const fn pick(&self, random: u32) -> Port {
        let offset = (((random as u64) * (self.span() as u64)) >> 32) as u32;
        Port::new((self.min.number as u32).wrapping_add(offset) as u16)
    }

    /// The ports of `64 * word..` that belong to the range, a bit for each.
    #[inline(always)]
    const fn ports_of(&self, word: u32) -> u64 {
        between(word << 6, self.min.number as u32, self.max.number as u32)
    }

    /// The words of the 64 around `word` that have ports in the range, a bit for each.
    #[inline(always)]
    const fn words_around(&self, word: u32) -> u64 {
        between(word & !63, self.min.number as u32 >> 6, self.max.number as u32 >> 6)
    }

    /// The groups of 64 words that have ports in the range, a bit for each.
    #[inline(always)]
    const fn groups(&self) -> u64 {
        between(0, self.min.number as u32 >> 12, self.max.number as u32 >> 12)
    }
}

/// The numbers of `base..base + 64` that lie in `first..=last`, a bit for each.
#[inline(always)]
const fn between(base: u32, first: u32, last: u32) -> u64 {
    if base > last || base + 63 < first {
        return 0;
    }
    let from = if first > base { u64::MAX << ((first - base) & 63) } else { u64::MAX };
    let to = if last - base < 63 { u64::MAX >> ((63 - (last - base)) & 63) } else { u64::MAX };
    from & to
}

/// What the search for a port tries next. Each stage is tried when those before it have found nothing.
pub mod stage {
    /// The pod's own port, or the one that the flow had before.
    pub const PREFERRED: u32 = 0;
    /// TCP: the pod's working set.
    pub const SET: u32 = 1;
    /// Random ports, of an endpoint of which nothing is known.
    pub const BLIND: u32 = 2;
    /// Ports that the endpoint's pool does not know to be taken.
    pub const POOL: u32 = 3;
    /// Taken ones, in turn: their flows may have ended.
    pub const HAND: u32 = 4;
}

/// What a port is searched for, and how far the search has come. It lies in a map, not on the stack: the verifier follows
/// every value on the stack through every round, and does not come to an end with a count among them; and the steps that
/// make a flow have it in common without lying on top of each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Search {
    /// Outbound key of the flow.
    pub key: FlowKey,
    /// The egress address.
    pub egress: Ip4,
    /// One of [`stage`].
    pub stage: u32,
    /// Tries that the stage has left.
    pub tries: u32,
    /// The port that is tried first.
    pub preferred: u32,
    /// 1 for a TCP connection from its first segment: it can have the port of a closed one.
    pub is_syn: u32,
    /// That segment's sequence number.
    pub seq: u32,
    /// Its timestamp, 0 if it has none.
    pub ts_val: u32,
    /// The port found, 0 until then.
    pub port: u32,
    /// 1 if the table had no room.
    pub no_room: u32,
    /// The port whose holder is over or gives way: to be taken over when the round has ended. 0 if there is none.
    pub victim: u32,
    /// That holder's outbound timer as it was found, if it is a connection that gives way; otherwise 0.
    pub closed: u32,
    /// Whether the preferred port is left for later.
    pub set_first: u32,
    /// The word of the pool that is looked at next; counted on past the last, so that it shows when the walk is around.
    pub at: u32,
    /// Where the walk over the pool ends.
    pub end: u32,
    /// The first port to look at in each word of the pool.
    pub turn: u32,
    /// 1 if it is the preferred port or none.
    pub fixed: u32,
    /// 1 if a walk over the whole pool has found no port that is not known to be taken.
    pub whole: u32,
    /// 1 if the flow had the preferred port until it ended.
    pub returns: u32,
    /// The second in which the last search on this CPU has found every port taken: one word that spares all others a look at
    /// their pools. It outlives the search.
    pub failed: u32,
    /// What random ports are drawn from, as two halves. Each search that draws takes 21 bits of it for itself, and the last one's
    /// successor gets another ([`super::engine::tables::Tables::unguessable`]): a port that somebody sees tells of its own piece only.
    pub seed_high: u32,
    /// The lower half.
    pub seed_low: u32,
    /// How many pieces are left. The seed outlives the search.
    pub pieces: u32,
    /// How many seeds there have been.
    pub seeds: u32,
    /// The last number that this search has drawn, 0 until then.
    pub chance: u32,
}

/// A search, where it lies.
#[derive(Clone, Copy)]
pub struct SearchRef<'a> {
    search: NonNull<Search>,
    map: PhantomData<&'a Search>,
}

macro_rules! field {
    ($($get:ident, $set:ident;)+) => {
        $(
            #[doc = concat!("Reads `", stringify!($get), "`.")]
            #[inline(always)]
            pub fn $get(&self) -> u32 {
                // SAFETY: `new` vouches for the memory; any bits are a value.
                unsafe { (&raw const (*self.search.as_ptr()).$get).read_volatile() }
            }

            #[doc = concat!("Writes `", stringify!($get), "`.")]
            #[inline(always)]
            pub fn $set(&self, value: u32) {
                // SAFETY: as above.
                unsafe { (&raw mut (*self.search.as_ptr()).$get).write_volatile(value) }
            }
        )+
    };
}

macro_rules! each_begins_with_0 {
    ($($get:ident, $set:ident;)+) => {
        field! { $($get, $set;)+ }

        /// Writes them one by one: together, they would become a call that fills byte by byte, and the verifier would go
        /// through every one.
        #[inline(always)]
        fn clear(&self) {
            $(self.$set(0);)+
        }
    };
}

impl SearchRef<'_> {
    /// Wraps a pointer to a search.
    ///
    /// # Safety
    /// `search` points to a [`Search`] that stays readable and writable for `'a`.
    #[inline(always)]
    pub const unsafe fn new(search: NonNull<Search>) -> Self {
        Self { search, map: PhantomData }
    }

    each_begins_with_0! {
        stage, set_stage;
        tries, set_tries;
        is_syn, set_is_syn;
        seq, set_seq;
        ts_val, set_ts_val;
        port, set_port;
        no_room, set_no_room;
        victim, set_victim;
        closed, set_closed;
        set_first, set_set_first;
        at, set_at;
        end, set_end;
        turn, set_turn;
        fixed, set_fixed;
        whole, set_whole;
        returns, set_returns;
        chance, set_chance;
    }

    field! {
        preferred, set_preferred;
        failed, set_failed;
        seed_high, set_seed_high;
        seed_low, set_seed_low;
        pieces, set_pieces;
        seeds, set_seeds;
    }

    /// Begins anew, for the flow with the outbound `key` by way of `egress`. What is not said here is 0, but for what outlives a
    /// search.
    #[inline(always)]
    pub fn begin(&self, key: &FlowKey, egress: Ip4, preferred: Port) {
        // SAFETY: `new` vouches for the memory.
        unsafe {
            (&raw mut (*self.search.as_ptr()).key).write(*key);
            (&raw mut (*self.search.as_ptr()).egress).write(egress);
        }
        self.set_preferred(preferred.number as u32);
        self.clear();
    }

    /// Whether this search could not draw: it needs a seed.
    #[inline(always)]
    pub fn needs_seed(&self) -> bool {
        self.pieces() == 0
    }

    /// Gives it a `seed`, which nobody can guess; 0 is none.
    #[inline(always)]
    pub fn set_seed(&self, seed: u64) {
        self.set_seed_high((seed >> 32) as u32);
        self.set_seed_low(seed as u32);
        self.set_pieces(if seed == 0 { 0 } else { u64::BITS / PIECE });
        self.set_seeds(self.seeds().wrapping_add(1));
    }

    /// The next random number. Those after the first follow from it: no more than one port of a search is ever seen.
    #[inline(always)]
    pub fn draw(&self) -> u32 {
        let (high, low) = (self.seed_high(), self.seed_low());
        let mut chance = self.chance().wrapping_mul(0x915f_77f5);
        if chance == 0 {
            // Odd, so that no product is 0.
            chance = high & (u32::MAX << (32 - PIECE)) | 1;
            self.set_seed_high(high << PIECE | low >> (32 - PIECE));
            self.set_seed_low(low << PIECE);
            self.set_pieces(self.pieces().saturating_sub(1));
        }
        self.set_chance(chance);
        chance
    }

    /// Outbound key of the flow.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        // SAFETY: `new` vouches for the memory; any bits are a key.
        unsafe { (&raw const (*self.search.as_ptr()).key).read() }
    }

    /// The egress address.
    #[inline(always)]
    pub fn egress(&self) -> Ip4 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.search.as_ptr()).egress).read() }
    }

    /// Source address and IP protocol number of the flow.
    #[inline(always)]
    pub fn source(&self) -> (Ip4, u8) {
        // SAFETY: as above.
        unsafe {
            let key = &raw const (*self.search.as_ptr()).key;
            ((&raw const (*key).src).read(), (&raw const (*key).protocol).read())
        }
    }

    /// Makes `port` the only one that is tried.
    #[inline(always)]
    pub fn fix(&self, port: Port) {
        self.set_preferred(port.number as u32);
        self.set_set_first(0);
        self.set_fixed(1);
    }

    /// Goes on to another stage, with so many tries.
    #[inline(always)]
    pub fn go_on(&self, stage: u32, tries: u32) {
        self.set_stage(stage);
        self.set_tries(tries);
    }

    /// Uses up a try of the stage; false if there is none left.
    #[inline(always)]
    pub fn has_try(&self) -> bool {
        let tries = self.tries();
        if tries == 0 {
            return false;
        }
        self.set_tries(tries - 1);
        true
    }

    /// Begins a walk over the ports that a pool does not know to be taken, from `start` on and once around.
    #[inline(always)]
    pub fn walk_from(&self, start: Port) {
        let word = start.number as u32 >> 6;
        self.set_at(word);
        self.set_end(word + POOL_WORDS as u32);
        self.set_turn(start.number as u32 & 63);
    }

    /// Whether the walk is around.
    #[inline(always)]
    pub fn is_around(&self) -> bool {
        self.at() >= self.end()
    }

    /// Walks on to the next word that may have a free port; the port to try, if it has.
    #[inline(always)]
    pub fn step(&self, pool: &PoolRef<'_>, range: &Range) -> Option<Port> {
        let at = self.at();
        let word = at & (POOL_WORDS as u32 - 1);
        let open = !pool.full(word) & range.words_around(word) & (u64::MAX << (word & 63));
        if open == 0 {
            // On to the next group that may have room, the sixteen of them seen as a ring.
            let groups = !pool.groups() & range.groups();
            let ahead = (groups | groups << 16) >> ((word >> 6) + 1);
            self.set_at(if ahead == 0 { self.end() } else { (at & !63) + 64 * (1 + lowest(ahead)) });
            return None;
        }
        let at = (at & !63) | lowest(open);
        let word = at & (POOL_WORDS as u32 - 1);
        let free = !pool.taken(word) & range.ports_of(word);
        if free == 0 {
            self.set_at(at + 1);
            return None;
        }
        self.set_at(at);
        let turn = self.turn() & 63;
        let bit = lowest(free.rotate_right(turn)) + turn;
        Some(Port::new((word << 6 | (bit & 63)) as u16))
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::layout::pool::PortPool;

    const WHOLE: Range = Range { min: Port::new(1024), max: Port::new(65535) };

    proptest! {
        /// However the range lies, a walk over an empty pool finds each of its ports once, and ends.
        #[test]
        fn a_walk_finds_every_port_of_the_range(a in 1024u16.., span in 1u16..5000, random: u32) {
            let range = Range { min: Port::new(a), max: Port::new(a.saturating_add(span - 1)) };
            let mut pool = Box::new(PortPool::EMPTY);
            // SAFETY: the box outlives the reference, and nobody else uses it.
            let pool = unsafe { PoolRef::new(NonNull::from(&mut *pool)) };
            let mut search = Search::default();
            // SAFETY: as above.
            let walk = unsafe { SearchRef::new(NonNull::from(&mut search)) };
            walk.walk_from(range.pick(random));
            let (mut found, mut steps) = (HashSet::new(), 0);
            while !walk.is_around() {
                steps += 1;
                if let Some(port) = walk.step(&pool, &range) {
                    prop_assert!(range.contains(port));
                    prop_assert!(found.insert(port), "{port} twice");
                    pool.set(port);
                }
            }
            prop_assert_eq!(found.len() as u32, range.span());
            // One per port, one where each word turns out to be empty, and the ends.
            prop_assert!(steps <= found.len() + found.len() / 64 + 24, "{} steps for {}", steps, found.len());
        }

        /// With one port free, wherever it is, it is found in a few steps; with none, as few tell so.
        #[test]
        fn the_last_free_port_is_found_at_once(last in 1024u16.., random: u32) {
            let mut pool = Box::new(PortPool::EMPTY);
            // SAFETY: as above.
            let pool = unsafe { PoolRef::new(NonNull::from(&mut *pool)) };
            for port in 1024..=65535 {
                pool.set(Port::new(port));
            }
            for free in [true, false] {
                if free {
                    pool.clear(Port::new(last));
                } else {
                    pool.set(Port::new(last));
                }
                let mut search = Search::default();
                // SAFETY: as above.
                let walk = unsafe { SearchRef::new(NonNull::from(&mut search)) };
                walk.walk_from(WHOLE.pick(random));
                let mut found = None;
                let mut steps = 0;
                while found.is_none() && !walk.is_around() {
                    found = walk.step(&pool, &WHOLE);
                    steps += 1;
                }
                prop_assert_eq!(found, free.then_some(Port::new(last)));
                prop_assert!(steps <= 6, "{} steps", steps);
            }
        }
    }

    #[test]
    fn the_whole_range_is_reachable_and_its_ends_too() {
        assert_eq!((WHOLE.pick(0).number, WHOLE.pick(u32::MAX).number), (1024, 65535));
    }
}
