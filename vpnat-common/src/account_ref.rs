//! An account of a source where it lies: in the map, while other CPUs use it too.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::atomic;
use crate::layout::account::Account;
use crate::layout::clock::Moment;
use crate::layout::refusal::Budget;

/// How often another CPU may come in between.
const TRIES: u32 = 4;

/// A shared account. Every change of it is one atomic step, so that no flow is counted twice or not at all.
#[derive(Clone, Copy)]
pub struct AccountRef<'a> {
    account: NonNull<Account>,
    map: PhantomData<&'a Account>,
}

impl AccountRef<'_> {
    /// Wraps a pointer into the map of accounts.
    ///
    /// # Safety
    /// `account` points to an [`Account`] that stays readable and writable for `'a`, aligned to 4.
    #[inline(always)]
    pub const unsafe fn new(account: NonNull<Account>) -> Self {
        Self { account, map: PhantomData }
    }

    #[inline(always)]
    fn flows_word(&self) -> *mut u32 {
        // SAFETY: the field lies within the account.
        unsafe { &raw mut (*self.account.as_ptr()).flows }
    }

    #[inline(always)]
    fn opened_word(&self) -> *mut u32 {
        // SAFETY: as above; a budget is one word.
        unsafe { (&raw mut (*self.account.as_ptr()).opened).cast() }
    }

    /// Flows now.
    #[inline(always)]
    pub fn flows(&self) -> u32 {
        // SAFETY: `new` vouches for the memory.
        unsafe { self.flows_word().read_volatile() }
    }

    /// When the account was opened.
    #[inline(always)]
    pub fn since(&self) -> Moment {
        // SAFETY: as above; nobody writes it.
        unsafe { (&raw const (*self.account.as_ptr()).since).read_volatile() }
    }

    /// Counts one more flow if there are fewer than `most` (0: whatever there are); false if there are not.
    #[inline(always)]
    #[must_use]
    pub fn add(&self, most: u32) -> bool {
        // SAFETY: as above; the word is aligned, and shared by atomic steps only.
        let before = unsafe { atomic::fetch_add(self.flows_word(), 1) };
        if most != 0 && before >= most {
            self.remove();
            return false;
        }
        true
    }

    /// Counts one flow less. Never below none: a count that is wrong must not shut a source out for ever.
    #[inline(always)]
    pub fn remove(&self) {
        for _ in 0..TRIES {
            let seen = self.flows();
            // SAFETY: as above.
            if seen == 0 || unsafe { atomic::compare_exchange(self.flows_word(), seen, seen - 1) } == seen {
                return;
            }
        }
        // So many others count at this moment that it is not 0.
        // SAFETY: as above.
        unsafe { atomic::fetch_add(self.flows_word(), u32::MAX) };
    }

    /// Counts a flow opened in `second` unless there were `most` in it; false if there were.
    #[inline(always)]
    #[must_use]
    pub fn open_in(&self, second: u32, most: u32) -> bool {
        // SAFETY: as above.
        unsafe {
            let seen = Budget { word: self.opened_word().read_volatile() };
            if seen.spent(second) >= most {
                return false;
            }
            let next = seen.spend(second);
            if next.word == seen.word.wrapping_add(1) {
                // The same second: however many do so at a time, each counts.
                return Budget { word: atomic::fetch_add(self.opened_word(), 1) }.spent(second) < most;
            }
            // Whoever loses here has seen another one begin the second.
            if atomic::compare_exchange(self.opened_word(), seen.word, next.word) != seen.word {
                return Budget { word: atomic::fetch_add(self.opened_word(), 1) }.spent(second) < most;
            }
        }
        true
    }
}
