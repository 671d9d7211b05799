//! Limits on what one source has of a vendor (RFC 6888 REQ-4, REQ-5): its flows, and how fast it opens them.
//!
//! A flow is counted before its port is searched for, and given back by whoever finds that it will not be, or removes it:
//! the same one who has claimed its entries, so once. Vendors without limits pay a look at their policy.

use super::tables::Tables;
use super::{Clock, Decision};
use crate::flow_ref::FlowRef;
use crate::layout::account::AccountKey;
use crate::layout::flow::{Direction, FlowKey, kind};
use crate::layout::outcome::Outcome;
use crate::layout::vendor::VendorPolicy;

/// Whether the vendor's sources are counted.
#[inline(always)]
const fn counts(policy: &VendorPolicy) -> bool {
    policy.max_flows_per_source | policy.new_flows_per_source != 0
}

/// Counts the flow that was prepared, of the vendor in `slot`. The outcome translates if its source may have it.
#[inline(never)]
pub fn take<T: Tables>(tables: &T, slot: u8) -> Decision {
    let ends = |outcome| Decision::of(slot, outcome);
    let (Some(policy), Some(search)) = (tables.policy(slot), tables.search()) else {
        return ends(Outcome::NotReady);
    };
    if !counts(policy) {
        return ends(Outcome::Outbound);
    }
    let (source, protocol) = search.source();
    let key = AccountKey::new(source, slot, protocol);
    let now = Clock::read(tables).now;
    let account = match tables.account(&key) {
        Some(account) => account,
        None => {
            tables.make_account(&key, now);
            // More sources than there can be accounts: who cannot be counted cannot be limited.
            let Some(account) = tables.account(&key) else { return ends(Outcome::TableFull) };
            account
        }
    };
    let most = policy.new_flows_per_source;
    if !account.add(policy.max_flows_per_source) {
        return ends(Outcome::SourceLimit);
    }
    if most != 0 && !account.open_in(now.seconds, most) {
        account.remove();
        return ends(Outcome::SourceRate);
    }
    ends(Outcome::Outbound)
}

/// Gives back what [`take`] has counted: the flow was not made.
#[inline(never)]
pub fn give_back<T: Tables>(tables: &T, slot: u8) -> u32 {
    let (Some(policy), Some(search)) = (tables.policy(slot), tables.search()) else { return 0 };
    if counts(policy) {
        let (source, protocol) = search.source();
        if let Some(account) = tables.account(&AccountKey::new(source, slot, protocol)) {
            account.remove();
        }
    }
    0
}

/// Counts a flow less that was removed, with the `entry` of `key`.
#[inline(never)]
pub fn leave<T: Tables>(tables: &T, key: &FlowKey, entry: &FlowRef<'_>) -> u32 {
    let vendor = entry.vendor();
    if !tables.policy(vendor).is_some_and(counts) || key.kind != kind::FLOW {
        return 0;
    }
    let source = match entry.direction() {
        Some(Direction::Outbound) => key.src,
        Some(Direction::Inbound) => entry.new_addr(),
        None => return 0,
    };
    if let Some(account) = tables.account(&AccountKey::new(source, vendor, key.protocol))
        && !account.since().is_after(entry.created())
    {
        account.remove();
    }
    0
}
