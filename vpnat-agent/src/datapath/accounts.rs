//! Accounts of sources ([`vpnat_common::layout::account`]): opened and kept by the programs, cleared here.

use std::collections::{HashMap as Map, HashSet};

use aya::maps::{HashMap, MapData};
use vpnat_common::addr::Ip4;
use vpnat_common::layout::account::{Account, AccountKey};
use vpnat_common::layout::clock::Moment;
use vpnat_common::layout::flow::{Direction, FlowEntry, FlowKey, kind};
use vpnat_common::layout::names;
use vpnat_common::layout::refusal::Budget;
use vpnat_common::layout::user::FlowEntryBytes;
use vpnat_common::layout::vendor::VendorPolicy;

use super::Error;
use super::flows::walk_error;
use super::maps::{Table, VendorSlot};
use super::pins::Pins;

/// Entries read at a time.
const SLICE: usize = 4096;

/// Whether the vendor's sources have accounts.
const fn counts(policy: &VendorPolicy) -> bool {
    policy.max_flows_per_source | policy.new_flows_per_source != 0
}

/// The pinned map.
pub struct Accounts {
    map: HashMap<MapData, AccountKey, Account>,
}

impl Accounts {
    /// Opens it.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self { map: super::maps::typed(pins, names::ACCOUNTS)? })
    }

    /// Removes the accounts that had no flow when this was last called, and have none now; `idle` is what it remembers.
    pub fn clear_idle(&mut self, idle: &mut HashSet<AccountKey>) -> Result<(), Error> {
        let keys: Vec<_> = self.map.keys().flatten().collect();
        let mut now = HashSet::new();
        for key in keys {
            if self.map.get(&key, 0).is_ok_and(|account| account.flows == 0) {
                if idle.contains(&key) {
                    self.remove(&key)?;
                } else {
                    now.insert(key);
                }
            }
        }
        *idle = now;
        Ok(())
    }

    /// Removes the accounts with vendors that set no limit: what is not kept up to date must not be there when they set one.
    pub fn clear_unlimited(&mut self, vendors: &[VendorSlot]) -> Result<(), Error> {
        let keys: Vec<_> = self.map.keys().flatten().collect();
        for key in keys {
            if !vendors.iter().any(|vendor| vendor.slot == key.vendor && counts(&vendor.policy)) {
                self.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Counts the flows of the table, while none is opened.
    pub fn recount(&mut self, table: &Table, vendors: &[VendorSlot]) -> Result<(), Error> {
        let keys: Vec<_> = self.map.keys().flatten().collect();
        for key in keys {
            self.remove(&key)?;
        }
        let limited: HashSet<u8> =
            vendors.iter().filter(|vendor| counts(&vendor.policy)).map(|vendor| vendor.slot).collect();
        if limited.is_empty() {
            return Ok(());
        }
        let mut count = Count::default();
        let mut walk = table.walk::<FlowKey, FlowEntryBytes>(SLICE);
        while let Some((keys, values)) = walk.next_slice().map_err(walk_error)? {
            for (key, value) in keys.iter().zip(values) {
                if let Some(entry) = value.decode()
                    && limited.contains(&entry.vendor)
                {
                    count.add(key, &entry);
                }
            }
        }
        for (key, account) in count.accounts {
            self.map.insert(key, account, 0).map_err(Error::map("writing", names::ACCOUNTS))?;
        }
        Ok(())
    }

    fn remove(&mut self, key: &AccountKey) -> Result<(), Error> {
        self.map.remove(key).map_err(Error::map("clearing", names::ACCOUNTS))
    }
}

/// What the table says of the accounts.
#[derive(Debug, Default)]
struct Count {
    accounts: Map<AccountKey, Account>,
}

impl Count {
    /// Counts an entry; outbound ones speak for their flow.
    fn add(&mut self, key: &FlowKey, entry: &FlowEntry) {
        if entry.direction != Direction::Outbound || key.kind != kind::FLOW {
            return;
        }
        let source: Ip4 = key.src;
        let begins = Account { flows: 0, since: entry.created, opened: Budget::default() };
        let account =
            self.accounts.entry(AccountKey::new(source, entry.vendor, key.protocol)).or_insert(begins);
        account.flows += 1;
        // None of those counted here is older than the account.
        if account.since.is_after(entry.created) {
            account.since = Moment::new(entry.created.seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use vpnat_common::addr::Port;
    use vpnat_common::layout::flow::protocol;

    use super::super::flows::tests::{EGRESS, POD, REMOTE, entry};
    use super::*;

    #[test]
    fn flows_are_counted_by_source_and_protocol_and_none_is_older_than_its_account() {
        let mut count = Count::default();
        let mut add = |pod, port, protocol, kind, created| {
            let key = FlowKey::new(pod, Port::new(port), REMOTE, Port::new(443), protocol).of_kind(kind);
            let mut entry = entry(Direction::Outbound, EGRESS, port, 100);
            entry.created = Moment::new(created);
            count.add(&key, &entry);
            let mut inbound = entry;
            inbound.direction = Direction::Inbound;
            count.add(&key, &inbound);
        };
        let other = Ip4::new(10, 0, 2, 8);
        add(POD, 1, protocol::TCP, kind::FLOW, 50);
        add(POD, 2, protocol::TCP, kind::FLOW, 40);
        add(POD, 2, protocol::TCP, kind::BINDING, 1);
        add(POD, 3, protocol::UDP, kind::FLOW, 60);
        add(other, 1, protocol::TCP, kind::FLOW, 70);
        let found = |pod, protocol| {
            let account = count.accounts[&AccountKey::new(pod, 1, protocol)];
            (account.flows, account.since.seconds)
        };
        assert_eq!(found(POD, protocol::TCP), (2, 40));
        assert_eq!(found(POD, protocol::UDP), (1, 60));
        assert_eq!(found(other, protocol::TCP), (1, 70));
        assert_eq!(count.accounts.len(), 3);
    }
}
