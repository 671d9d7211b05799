//! What the verifier need not know.

/// The same value, of which the verifier of Linux 6.1 knows nothing any more. What it knows keeps it from seeing that two ways through the
/// program have become one, and of what a loop begins with it takes it to be true in every round
/// ([`Tables::repeat`](crate::engine::tables::Tables::repeat)).
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub fn opaque(value: u64) -> u64 {
    let mut opaque = value;
    // Negated, a number is any number to it.
    // SAFETY: the instructions change their register only.
    unsafe {
        core::arch::asm!(
            "{value} = -{value}",
            "{value} = -{value}",
            value = inout(reg) opaque,
            options(pure, nomem, nostack),
        );
    }
    opaque
}

/// As on the BPF target.
#[inline(always)]
#[cfg(not(target_arch = "bpf"))]
pub const fn opaque(value: u64) -> u64 {
    value
}
