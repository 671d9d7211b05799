//! Programs that the agent runs by itself (BPF_PROG_TEST_RUN): the clock, and the sweep's deletions.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_jiffies64, bpf_loop, bpf_skb_load_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use vpnat_common::engine::{Clock, flows};
use vpnat_common::layout::flow::FlowKey;
use vpnat_common::layout::upkeep::{REAP_KEYS_AT, REAP_MOST};

use crate::tables::Kernel;

/// Returns the low 32 bits of the kernel's jiffies, for the agent to find out HZ.
#[classifier]
pub fn probe_jiffies(_: TcContext) -> i32 {
    // SAFETY: the helper only reads a kernel variable.
    unsafe { bpf_jiffies64() as i32 }
}

/// Returns the datapath's clock, seconds.
#[classifier]
pub fn probe_clock(context: TcContext) -> i32 {
    Clock::read(&Kernel::new(context.as_ptr(), 0)).now.seconds as i32
}

struct Reaping {
    skb: *mut c_void,
    entries: u32,
}

/// Removes the flows named in the packet that are over; returns the number of entries removed.
#[classifier]
pub fn reap(context: TcContext) -> i32 {
    let keys = context.len().saturating_sub(REAP_KEYS_AT) / size_of::<FlowKey>() as u32;
    let mut reaping = Reaping { skb: context.as_ptr(), entries: 0 };
    // SAFETY: the callback has the helper's signature, and its context outlives the call.
    unsafe {
        bpf_loop(
            keys.min(REAP_MOST),
            reap_one as *const () as *mut c_void,
            (&raw mut reaping).cast(),
            0,
        );
    }
    reaping.entries as i32
}

/// One round of [`reap`]; 0 goes on, 1 ends the loop (bpf_loop).
extern "C" fn reap_one(index: u32, reaping: *mut c_void) -> i64 {
    // SAFETY: `reap` passes its own `Reaping`, exclusively.
    let reaping = unsafe { &mut *reaping.cast::<Reaping>() };
    let mut key = FlowKey::default();
    // SAFETY: `key` has the stated length, and any bytes are a key.
    let failed = unsafe {
        bpf_skb_load_bytes(
            reaping.skb,
            REAP_KEYS_AT + index * size_of::<FlowKey>() as u32,
            (&raw mut key).cast(),
            size_of::<FlowKey>() as u32,
        )
    };
    if failed != 0 {
        return 1;
    }
    let kernel = Kernel::new(reaping.skb, 0);
    let clock = Clock::read(&kernel);
    reaping.entries += flows::reap(&kernel, &clock, &key);
    0
}
