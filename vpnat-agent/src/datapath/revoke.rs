//! Ending flows that the configuration no longer allows: their prefix, vendor or source was removed, or their egress
//! address is another vendor's.
//!
//! The programs refuse new flows as soon as the maps are filled, so a flow that is found here cannot come back.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use vpnat_common::layout::flow::{Direction, FlowEntry, FlowKey, kind};
use vpnat_common::layout::names;
use vpnat_common::layout::user::FlowEntryBytes;

use super::Error;
use super::batch;
use super::flows::walk_error;
use super::maps::{ConfigMaps, Table, read_vendors};
use super::reap::{KEYS_PER_CALL, Reaper};
use crate::config::{Config, OnRemoval, Vendor};

/// How often the program is asked to remove what is not allowed.
const TRIES: u32 = 3;

/// Entries read at a time.
const SLICE: usize = 4096;

/// What may go on.
#[derive(Debug)]
pub struct Rules<'a> {
    vendors: &'a [Vendor],
    slots: HashMap<&'a str, u8>,
    /// Whether flows of removed vendors, prefixes and sources may go on.
    drain: bool,
}

impl<'a> Rules<'a> {
    /// By `config`, with the slots that its vendors have in `maps`.
    pub fn new(config: &'a Config, maps: &ConfigMaps) -> Result<Self, Error> {
        let known = read_vendors(&maps.vendors)?;
        let named =
            |vendor: &&Vendor| known.iter().find(|slot| slot.name == vendor.name).map(|slot| slot.slot);
        let slots = config.vendors.iter().filter_map(|vendor| Some((vendor.name.as_str(), named(&vendor)?)));
        Ok(Self {
            vendors: &config.vendors,
            slots: slots.collect(),
            drain: config.on_removal == OnRemoval::Drain,
        })
    }

    /// Whether the flow of `entry`, found under `key`, may go on.
    fn allow(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        let (inside, remote, egress) = match entry.direction {
            Direction::Outbound => (key.src, key.dst, entry.new_addr),
            Direction::Inbound => (entry.new_addr, key.src, key.dst),
        };
        if key.kind != kind::FLOW {
            // A binding: its remote end is nobody's, and its flows are judged by theirs.
            return self.slots.values().any(|slot| *slot == entry.vendor) || self.drain;
        }
        let (inside, remote, egress) =
            (Ipv4Addr::from(inside), Ipv4Addr::from(remote), Ipv4Addr::from(egress));
        // The vendor's prefixes do not overlap another's.
        let owner = self.vendors.iter().find(|vendor| vendor.cidrs.iter().any(|cidr| cidr.contains(&remote)));
        let Some(vendor) = owner else { return self.drain };
        if vendor.exempt.iter().any(|prefix| prefix.contains(&remote)) {
            return false;
        }
        // From another vendor's address, or one that this vendor has no longer, it is a wrong source.
        if self.slots.get(vendor.name.as_str()) != Some(&entry.vendor) || !vendor.egress_ips.contains(&egress)
        {
            return false;
        }
        // The instance's own have an egress address inside as well.
        self.drain
            || vendor.egress_ips.contains(&inside)
            || vendor.allow_from.iter().any(|prefix| prefix.contains(&inside))
    }
}

/// Removes every flow that `rules` do not allow; how many entries that were.
///
/// The program removes them, which keeps the sources' accounts. What it leaves, because a packet came in between or it does
/// not know it for a flow, is asked for again, and deleted in the end. Each time by what lies there then: the port may be
/// another flow's by now, which is allowed.
pub fn revoke(table: &Table, reaper: &Reaper, rules: &Rules<'_>) -> Result<u64, Error> {
    let mut removed = 0;
    let mut walk = table.walk::<FlowKey, FlowEntryBytes>(SLICE);
    while let Some((keys, values)) = walk.next_slice().map_err(walk_error)? {
        let refused = keys.iter().zip(values).filter(|(key, value)| {
            // Entries that cannot be read are the sweep's.
            value.decode().is_some_and(|entry| !rules.allow(key, &entry))
        });
        let refused: Vec<FlowKey> = refused.map(|(key, _)| *key).collect();
        for keys in refused.chunks(KEYS_PER_CALL) {
            let mut left = keys.to_vec();
            for _ in 0..TRIES {
                reaper.revoke(&left)?;
                left = still_refused(table, rules, &left)?;
            }
            for key in left {
                batch::delete(table.fd(), &key).map_err(|error| Error::Map {
                    action: "clearing",
                    name: names::FLOWS,
                    error: aya::maps::MapError::IoError(error),
                })?;
            }
        }
        removed += refused.len() as u64;
    }
    Ok(removed)
}

/// Those of `keys` under which something lies that `rules` do not allow.
fn still_refused(table: &Table, rules: &Rules<'_>, keys: &[FlowKey]) -> Result<Vec<FlowKey>, Error> {
    let mut left = Vec::new();
    for key in keys {
        let found = table.lookup::<FlowKey, FlowEntryBytes>(key).map_err(walk_error)?;
        if found.and_then(|value| value.decode()).is_some_and(|entry| !rules.allow(key, &entry)) {
            left.push(*key);
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::super::flows::tests::{EGRESS, POD, REMOTE, entry};
    use super::*;
    use vpnat_common::addr::Port;
    use vpnat_common::layout::flow::protocol;

    fn rules(config: &Config) -> Rules<'_> {
        let drain = config.on_removal == OnRemoval::Drain;
        Rules { vendors: &config.vendors, slots: HashMap::from([("vendor-a", 1)]), drain }
    }

    /// Whether both halves of the pod's flow may go on; they agree.
    fn goes_on(change: impl FnOnce(&mut Config)) -> bool {
        let mut config = Config::parse(include_str!("../../vpnat.example.toml"), "x".as_ref()).unwrap();
        change(&mut config);
        let (near, far) = (Port::new(40000), Port::new(443));
        let out = FlowKey::new(POD, near, REMOTE, far, protocol::TCP);
        let back = FlowKey::new(REMOTE, far, EGRESS, near, protocol::TCP);
        let outbound = rules(&config).allow(&out, &entry(Direction::Outbound, EGRESS, 40000, 1));
        let inbound = rules(&config).allow(&back, &entry(Direction::Inbound, POD, 40000, 1));
        assert_eq!(outbound, inbound);
        outbound
    }

    #[test]
    fn what_is_configured_goes_on() {
        assert!(goes_on(|_| {}));
        assert!(goes_on(|config| config.vendors[0].tcp_pick_up = false));
    }

    #[test]
    fn what_was_removed_ends_or_drains() {
        let changes: [fn(&mut Config); 3] = [
            |config| config.vendors.clear(),
            |config| config.vendors[0].cidrs = vec!["198.51.100.0/24".parse().unwrap()],
            |config| config.vendors[0].allow_from = vec!["10.0.3.0/24".parse().unwrap()],
        ];
        for change in changes {
            assert!(!goes_on(change));
            assert!(goes_on(|config| {
                change(config);
                config.on_removal = OnRemoval::Drain;
            }));
        }
    }

    #[test]
    fn a_wrong_source_never_drains() {
        let changes: [fn(&mut Config); 3] = [
            |config| config.vendors[0].egress_ips = vec![[10, 0, 1, 11].into()],
            |config| config.vendors[0].exempt = vec!["192.0.2.0/28".parse().unwrap()],
            // The prefix is another vendor's now.
            |config| config.vendors[0].name = "vendor-b".into(),
        ];
        for change in changes {
            for on_removal in [OnRemoval::Drop, OnRemoval::Drain] {
                assert!(!goes_on(|config| {
                    change(config);
                    config.on_removal = on_removal;
                }));
            }
        }
    }

    #[test]
    fn the_instances_own_flows_need_no_source_rule() {
        let config = Config::parse(include_str!("../../vpnat.example.toml"), "x".as_ref()).unwrap();
        let key = FlowKey::new(EGRESS, Port::new(500), REMOTE, Port::new(443), protocol::TCP);
        assert!(rules(&config).allow(&key, &entry(Direction::Outbound, EGRESS, 500, 1)));
    }
}
