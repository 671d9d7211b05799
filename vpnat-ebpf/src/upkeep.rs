//! Programs that the agent runs by itself (BPF_PROG_TEST_RUN): the clock, and the sweep's deletions.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use vpnat_common::engine::flows::When;
use vpnat_common::engine::tables::{Round, Tables as _};
use vpnat_common::engine::{Clock, flows};
use vpnat_common::layout::event::Cause;
use vpnat_common::layout::flow::FlowKey;
use vpnat_common::layout::upkeep::{REAP_HOW_AT, REAP_KEYS_AT, REAP_MOST, REAP_NOW, REAP_REVOKED};

use crate::tables::Kernel;

/// Returns the datapath's clock, seconds.
#[classifier]
pub fn probe_clock(context: TcContext) -> i32 {
    Clock::read(&Kernel::new(context.as_ptr(), 0)).now.seconds as i32
}

struct Reaping {
    skb: *mut c_void,
    /// [`REAP_NOW`], [`REAP_REVOKED`] or anything else.
    how: u8,
    entries: u32,
}

impl Round for Reaping {
    #[inline(always)]
    fn round(&mut self, index: u32) -> bool {
        let mut key = FlowKey::default();
        // SAFETY: `key` has the stated length, and any bytes are a key.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.skb,
                REAP_KEYS_AT + index * size_of::<FlowKey>() as u32,
                (&raw mut key).cast(),
                size_of::<FlowKey>() as u32,
            )
        };
        if failed == 0 {
            let kernel = Kernel::new(self.skb, 0);
            let when = match self.how {
                REAP_NOW => When::Now(Cause::Killed),
                REAP_REVOKED => When::Now(Cause::Policy),
                _ => flows::SWEPT,
            };
            self.entries += flows::reap(&kernel, &Clock::read(&kernel), &key, when);
        }
        failed != 0
    }
}

/// Removes the flows named in the packet, those that are over or all ([`REAP_NOW`], [`REAP_REVOKED`]); returns the number of entries removed.
#[classifier]
pub fn reap(context: TcContext) -> i32 {
    let keys = context.len().saturating_sub(REAP_KEYS_AT) / size_of::<FlowKey>() as u32;
    let mut how = 0u8;
    // SAFETY: `how` has the stated length, and any byte is a value of it.
    let failed = unsafe { bpf_skb_load_bytes(context.as_ptr(), REAP_HOW_AT, (&raw mut how).cast(), 1) };
    if failed != 0 {
        return 0;
    }
    let mut reaping = Reaping { skb: context.as_ptr(), how, entries: 0 };
    Kernel::new(context.as_ptr(), 0).repeat(keys.min(REAP_MOST), &mut reaping);
    reaping.entries as i32
}
