//! How many refusals may still be answered, and how many were.

/// Most answers a second that can be set.
pub const MOST_ANSWERS_PER_S: u32 = 10_000;

/// What is spent of one second's answers. It is one word, so that it can be changed in one step: the second's lower
/// half above, the answers sent in it below.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Budget {
    /// Host byte order.
    pub word: u32,
}

impl Budget {
    /// What was sent in `second`.
    #[inline(always)]
    pub const fn spent(self, second: u32) -> u32 {
        if self.word >> 16 == second & 0xffff { self.word & 0xffff } else { 0 }
    }

    /// With one more sent in `second`.
    #[inline(always)]
    pub const fn spend(self, second: u32) -> Self {
        Self { word: second << 16 | (self.spent(second) + 1) & 0xffff }
    }
}

/// Answers to refusals, per CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Answers {
    /// Handed to the device that the refused packet came by.
    pub sent: u64,
    /// Not sent because that second's were spent.
    pub suppressed: u64,
}
