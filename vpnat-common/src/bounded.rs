//! Bounds that stay in the program.

/// `value & MASK`, also where the compiler can prove that nothing is masked out, by a type or a mask further up. It would
/// leave the mask out; the verifier of Linux 6.1 cannot prove as much, and refuses what is read by such an index.
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub fn bounded<const MASK: u32>(value: u32) -> usize {
    let mut bounded = u64::from(value);
    // SAFETY: the instruction changes its register only.
    unsafe {
        core::arch::asm!(
            "{value} &= {mask}",
            value = inout(reg) bounded,
            mask = const MASK,
            options(pure, nomem, nostack),
        );
    }
    bounded as usize
}

/// As on the BPF target.
#[inline(always)]
#[cfg(not(target_arch = "bpf"))]
pub const fn bounded<const MASK: u32>(value: u32) -> usize {
    (value & MASK) as usize
}
