//! Atomic operations on map values, which the BPF target does not get from `core`.

pub use of_target::{and, compare_exchange, fetch_add, or};

#[cfg(not(target_arch = "bpf"))]
mod of_target {
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    /// Stores `new` if `*at` is `old`; returns what was there.
    ///
    /// # Safety
    /// `at` is valid for reads and writes and aligned to 4.
    pub unsafe fn compare_exchange(at: *mut u32, old: u32, new: u32) -> u32 {
        // SAFETY: the caller's promise is what `from_ptr` asks.
        let cell = unsafe { AtomicU32::from_ptr(at) };
        match cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(seen) | Err(seen) => seen,
        }
    }

    /// Adds `amount` to `*at`, wrapping; returns what was there.
    ///
    /// # Safety
    /// As [`compare_exchange`].
    pub unsafe fn fetch_add(at: *mut u32, amount: u32) -> u32 {
        // SAFETY: the caller's promise is what `from_ptr` asks.
        unsafe { AtomicU32::from_ptr(at) }.fetch_add(amount, Ordering::AcqRel)
    }

    /// Sets the bits of `bits`.
    ///
    /// # Safety
    /// `at` is valid for reads and writes and aligned to 8.
    pub unsafe fn or(at: *mut u64, bits: u64) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(at) }.fetch_or(bits, Ordering::AcqRel);
    }

    /// Clears the bits that are not in `bits`.
    ///
    /// # Safety
    /// As [`or`].
    pub unsafe fn and(at: *mut u64, bits: u64) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(at) }.fetch_and(bits, Ordering::AcqRel);
    }
}

#[cfg(target_arch = "bpf")]
mod of_target {
    /// Stores `new` if `*at` is `old`; returns what was there.
    ///
    /// # Safety
    /// `at` is valid for reads and writes and aligned to 4.
    #[inline(always)]
    pub unsafe fn compare_exchange(at: *mut u32, old: u32, new: u32) -> u32 {
        let seen: u64;
        // SAFETY: BPF_CMPXCHG compares with r0 and returns the old value there (kernel, BPF instruction set,
        // "Atomic operations"); the target has no compare_exchange of its own in `core`.
        unsafe {
            core::arch::asm!(
                "w0 = cmpxchg32_32(r1 + 0, w0, w2)",
                in("r1") at,
                in("r2") u64::from(new),
                inlateout("r0") u64::from(old) => seen,
                options(nostack),
            );
        }
        seen as u32
    }

    /// Adds `amount` to `*at`, wrapping; returns what was there.
    ///
    /// # Safety
    /// As [`compare_exchange`].
    #[inline(always)]
    pub unsafe fn fetch_add(at: *mut u32, amount: u32) -> u32 {
        let seen: u64;
        // SAFETY: BPF_ADD with BPF_FETCH, as above.
        unsafe {
            core::arch::asm!(
                "w2 = atomic_fetch_add((u32 *)(r1 + 0), w2)",
                in("r1") at,
                inlateout("r2") u64::from(amount) => seen,
                options(nostack),
            );
        }
        seen as u32
    }
    /// Sets the bits of `bits`.
    ///
    /// # Safety
    /// `at` is valid for reads and writes and aligned to 8.
    #[inline(always)]
    pub unsafe fn or(at: *mut u64, bits: u64) {
        // SAFETY: BPF_OR with BPF_ATOMIC on a place that the caller vouches for.
        unsafe {
            core::arch::asm!("lock *(u64 *)({at} + 0) |= {bits}", at = in(reg) at, bits = in(reg) bits, options(nostack));
        }
    }

    /// Clears the bits that are not in `bits`.
    ///
    /// # Safety
    /// As [`or`].
    #[inline(always)]
    pub unsafe fn and(at: *mut u64, bits: u64) {
        // SAFETY: BPF_AND with BPF_ATOMIC, as above.
        unsafe {
            core::arch::asm!("lock *(u64 *)({at} + 0) &= {bits}", at = in(reg) at, bits = in(reg) bits, options(nostack));
        }
    }
}
