//! What is known of the ports towards a busy remote endpoint: a hint that makes the search for a free one short.

use super::flow::FlowKey;
use crate::addr::{Ip4, Port};

/// Words of 64 ports.
pub const POOL_WORDS: usize = 1024;

/// Words of 64 words of ports.
pub const POOL_SUMMARY: usize = POOL_WORDS / 64;

/// Endpoints that can have a pool at a time; the one unused for longest makes room.
pub const POOLS: usize = 64;

/// A remote endpoint as one egress address sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct PoolKey {
    /// The vendor's address.
    pub remote: Ip4,
    /// The egress address.
    pub egress: Ip4,
    /// The vendor's port, 0 for ICMP queries.
    pub remote_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Padding, 0.
    pub _pad: u8,
}

impl PoolKey {
    /// The pool of the flow with the inbound key `inbound`.
    #[inline(always)]
    pub const fn of(inbound: &FlowKey) -> Self {
        Self {
            remote: inbound.src,
            egress: inbound.dst,
            remote_port: inbound.src_port,
            protocol: inbound.protocol,
            _pad: 0,
        }
    }
}

/// The ports of one endpoint. Never the truth: that is the flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
pub struct PortPool {
    /// The port that was last looked at for whether it can be taken back.
    pub hand: u32,
    /// Searches for datagrams that have found every port taken in this second: its number by the datapath's clock, shifted left by
    /// [`FAILED_BITS`], and how many.
    pub failed: u32,
    /// Bit `n` is set if all 64 bits of word `n` of `full` are.
    pub groups: u64,
    /// Bit `n` of word `m` is set if all 64 ports of word `64 * m + n` of `taken` are.
    pub full: [u64; POOL_SUMMARY],
    /// Bit `n` of word `m` is set if port `64 * m + n` is known to be taken.
    pub taken: [u64; POOL_WORDS],
}

/// Bits of [`PortPool::failed`] that count.
pub const FAILED_BITS: u32 = 8;

impl PortPool {
    /// Nothing is known.
    pub const EMPTY: Self =
        Self { hand: 0, failed: 0, groups: 0, full: [0; POOL_SUMMARY], taken: [0; POOL_WORDS] };
}

const _: () = assert!(size_of::<PoolKey>() == 12);
