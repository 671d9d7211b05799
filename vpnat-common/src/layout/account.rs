//! What a source has of a vendor's flows, where the vendor limits it (RFC 6888 REQ-4).

use super::clock::Moment;
use super::refusal::Budget;
use crate::addr::Ip4;

/// Accounts that there can be. Those without a flow are cleared by the agent.
pub const ACCOUNTS: usize = 65_536;

/// Most new flows in a second that can be set as a limit.
pub const MOST_NEW_FLOWS_PER_S: u32 = 60_000;

/// A source as one vendor sees it. Each protocol counts by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct AccountKey {
    /// The pod's address.
    pub source: Ip4,
    /// Vendor slot.
    pub vendor: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Padding, 0: keys are compared as bytes.
    pub _pad: u16,
}

impl AccountKey {
    /// The account of `source` with the vendor in slot `vendor`.
    #[inline(always)]
    pub const fn new(source: Ip4, vendor: u8, protocol: u8) -> Self {
        Self { source, vendor, protocol, _pad: 0 }
    }
}

/// What is counted. Host byte order; shared between CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Account {
    /// Flows made since `since` that are in the table, or being made.
    pub flows: u32,
    /// When the account was opened: older flows are not counted in it.
    pub since: Moment,
    /// Flows opened in a second of the clock.
    pub opened: Budget,
}

const _: () = assert!(size_of::<AccountKey>() == 8 && size_of::<Account>() == 12);
