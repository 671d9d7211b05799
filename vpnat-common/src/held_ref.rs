//! Slots for fragments where they lie: in maps, while other CPUs use them too.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::atomic;
use crate::layout::clock::Moment;
use crate::layout::flow::{Direction, FragmentKey};
use crate::layout::held::{HeldFragment, HeldShare, state};

/// A shared slot. Who has made it [`state::BUSY`] may use the rest of it and its packet; others read it at their own
/// risk and look again once they have it.
#[derive(Clone, Copy)]
pub struct HeldRef<'a> {
    slot: NonNull<HeldFragment>,
    map: PhantomData<&'a HeldFragment>,
}

impl HeldRef<'_> {
    /// Wraps a pointer to a slot.
    ///
    /// # Safety
    /// `slot` points to memory of a [`HeldFragment`]'s size and alignment that stays readable and writable for the
    /// reference's life: a map value in the program that looked it up, or a live allocation on the host.
    #[inline(always)]
    pub const unsafe fn new(slot: NonNull<HeldFragment>) -> Self {
        Self { slot, map: PhantomData }
    }

    /// One of [`state`].
    #[inline(always)]
    pub fn state(&self) -> u32 {
        // SAFETY: `new` vouches for the memory; any bit pattern is a value.
        unsafe { (&raw const (*self.slot.as_ptr()).state).read_volatile() }
    }

    /// Changes the state from `old` to `new`; false if it is another by now. Other CPUs see what was written before.
    #[inline(always)]
    #[must_use]
    pub fn change(&self, old: u32, new: u32) -> bool {
        // SAFETY: `new` vouches for the memory; `state` is a 4-byte aligned u32.
        unsafe { atomic::compare_exchange(&raw mut (*self.slot.as_ptr()).state, old, new) == old }
    }

    /// Gives up a slot that this caller has made [`state::BUSY`].
    #[inline(always)]
    pub fn leave(&self, to: u32) {
        // Nobody else changes a busy slot.
        let _ = self.change(state::BUSY, to);
    }

    /// Whether it is the fragment of `key`'s datagram on its way in `direction`.
    #[inline(always)]
    pub fn is_of(&self, key: &FragmentKey, direction: Direction) -> bool {
        let slot = self.slot.as_ptr();
        // SAFETY: `new` vouches for the memory; any bit pattern is a value.
        unsafe {
            (&raw const (*slot).key).read_volatile() == *key
                && (&raw const (*slot).direction).read_volatile() == direction as u8
        }
    }

    /// When it ends.
    #[inline(always)]
    pub fn expires(&self) -> Moment {
        // SAFETY: as in `state`.
        unsafe { (&raw const (*self.slot.as_ptr()).expires).read_volatile() }
    }

    /// Its length, bytes from the IP header on.
    #[inline(always)]
    pub fn len(&self) -> u16 {
        // SAFETY: as in `state`.
        unsafe { (&raw const (*self.slot.as_ptr()).len).read_volatile() }
    }

    /// Whether it has no length, as only a free slot has.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says what is kept in a slot that this caller has made [`state::BUSY`].
    #[inline(always)]
    pub fn describe(&self, key: &FragmentKey, direction: Direction, len: u16, expires: Moment) {
        let slot = self.slot.as_ptr();
        // SAFETY: `new` vouches for the memory.
        unsafe {
            (&raw mut (*slot).key).write_volatile(*key);
            (&raw mut (*slot).expires).write_volatile(expires);
            (&raw mut (*slot).len).write_volatile(len);
            (&raw mut (*slot).direction).write_volatile(direction as u8);
        }
    }
}

/// A share of the slots.
#[derive(Clone, Copy)]
pub struct ShareRef<'a> {
    share: NonNull<HeldShare>,
    map: PhantomData<&'a HeldShare>,
}

impl ShareRef<'_> {
    /// Wraps a pointer to a share.
    ///
    /// # Safety
    /// As [`HeldRef::new`], for a [`HeldShare`].
    #[inline(always)]
    pub const unsafe fn new(share: NonNull<HeldShare>) -> Self {
        Self { share, map: PhantomData }
    }

    /// Takes the next turn; its place in the ring follows from it.
    #[inline(always)]
    pub fn take_turn(&self) -> u32 {
        // SAFETY: `new` vouches for the memory; the field is a 4-byte aligned u32.
        unsafe { atomic::fetch_add(&raw mut (*self.share.as_ptr()).turn, 1) }
    }

    /// How many slots are not free. Whoever has kept a decision before asking sees every fragment that is held without
    /// having seen it: adding nothing orders the two, as a load would not.
    #[inline(always)]
    pub fn kept(&self) -> u32 {
        // SAFETY: as in `take_turn`.
        unsafe { atomic::fetch_add(&raw mut (*self.share.as_ptr()).kept, 0) }
    }

    /// A free slot has been filled.
    #[inline(always)]
    pub fn fill(&self) {
        // SAFETY: as in `take_turn`.
        unsafe { atomic::fetch_add(&raw mut (*self.share.as_ptr()).kept, 1) };
    }

    /// A slot has become free.
    #[inline(always)]
    pub fn free(&self) {
        // SAFETY: as in `take_turn`.
        unsafe { atomic::fetch_add(&raw mut (*self.share.as_ptr()).kept, u32::MAX) };
    }
}
