//! The BPF programs: entry points, and nothing that could be decided without the kernel. What happens to a
//! packet is in `vpnat_common::engine`.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod events;
mod maps;
mod rehearsal;
mod skb;
mod tables;
mod tc;
mod trace;
mod unaligned;
mod upkeep;
mod whole;
mod xdp;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the build rejects an object with panicking code in it.
    loop {}
}

/// Some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
