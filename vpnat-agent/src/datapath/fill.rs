//! Writing the configuration into the maps: what is new first, what is gone last, so that no packet meets
//! a gap.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use aya::maps::lpm_trie::Key;
use vpnat_common::addr::{Ip4, Port};
use vpnat_common::layout::vendor::{
    EgressAddress, PrefixTarget, SOURCE_KEY_VENDOR_BITS, SourceKey, SourceRule, VendorPolicy, flag,
};
use vpnat_common::layout::{MAX_VENDORS, names};

use super::Error;
use super::maps::{ConfigMaps, read_vendors};
use crate::config::{Config, Vendor};

/// Writes vendors, prefixes, sources and egress addresses. `in_use` says which vendor slots flows still
/// name; it is asked only when a slot must be given out.
pub fn fill(
    maps: &mut ConfigMaps,
    config: &Config,
    in_use: impl FnOnce() -> Result<HashSet<u8>, Error>,
) -> Result<(), Error> {
    let slots = assign_slots(maps, config, in_use)?;

    let mut egress: HashMap<[u8; 4], u64> = HashMap::new();
    let mut prefixes: HashMap<(u32, [u8; 4]), PrefixTarget> = HashMap::new();
    let mut sources: HashMap<(u32, u8, [u8; 4]), SourceRule> = HashMap::new();
    for (vendor, slot) in config.vendors.iter().zip(&slots) {
        let slot = *slot;
        for address in &vendor.egress_ips {
            *egress.entry(address.octets()).or_default() |= 1 << slot;
        }
        for (list, exempt) in [(&vendor.cidrs, 0), (&vendor.exempt, 1)] {
            for prefix in list {
                let target = PrefixTarget { vendor: slot, exempt, _pad: [0; 2] };
                prefixes.insert((prefix.prefix_len().into(), prefix.addr().octets()), target);
            }
        }
        for (index, prefix) in vendor.allow_from.iter().enumerate() {
            let key = (SOURCE_KEY_VENDOR_BITS + u32::from(prefix.prefix_len()), slot, prefix.addr().octets());
            sources.insert(key, SourceRule { index: index as u32 });
        }
        let policy = policy(vendor);
        maps.vendors.set(slot.into(), policy, 0).map_err(Error::map("writing", names::VENDORS))?;
    }

    for (octets, vendors) in &egress {
        maps.egress
            .insert(Ip4 { octets: *octets }, EgressAddress { vendors: *vendors }, 0)
            .map_err(Error::map("writing", names::EGRESS))?;
    }
    for ((length, slot, octets), rule) in &sources {
        let key = Key::new(*length, SourceKey::new(*slot, Ip4 { octets: *octets }));
        maps.sources.insert(&key, rule, 0).map_err(Error::map("writing", names::SOURCES))?;
    }
    for ((length, octets), target) in &prefixes {
        let key = Key::new(*length, Ip4 { octets: *octets });
        maps.prefixes.insert(&key, target, 0).map_err(Error::map("writing", names::VENDOR_PREFIXES))?;
    }

    clear_prefixes(maps, &prefixes)?;
    clear_sources(maps, &sources)?;
    clear_egress(maps, &egress)?;
    for slot in 1..MAX_VENDORS {
        if !slots.iter().any(|used| u32::from(*used) == slot) {
            maps.vendors.set(slot, VendorPolicy::FREE, 0).map_err(Error::map("writing", names::VENDORS))?;
        }
    }
    // What the programs remember of the old configuration ends.
    maps.raise_route_generation()
}

/// A vendor keeps the slot that its name has in the map, because flows name slots.
fn assign_slots(
    maps: &ConfigMaps,
    config: &Config,
    in_use: impl FnOnce() -> Result<HashSet<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let known = read_vendors(&maps.vendors)?;
    let slot_of = |name: &str| known.iter().find(|vendor| vendor.name == name).map(|vendor| vendor.slot);
    let mut taken: HashSet<u8> = config.vendors.iter().filter_map(|vendor| slot_of(&vendor.name)).collect();
    let all_known = config.vendors.iter().all(|vendor| slot_of(&vendor.name).is_some());
    let flows = if all_known { HashSet::new() } else { in_use()? };
    let mut slots = Vec::new();
    for vendor in &config.vendors {
        let slot = match slot_of(&vendor.name) {
            Some(slot) => slot,
            None => {
                // A slot of a removed vendor is given out again only when no flow names it any more.
                let slot = (1..MAX_VENDORS as u8)
                    .find(|slot| !taken.contains(slot) && !flows.contains(slot))
                    .ok_or_else(|| Error::NoVendorSlot { name: vendor.name.clone() })?;
                taken.insert(slot);
                slot
            }
        };
        slots.push(slot);
    }
    Ok(slots)
}

fn policy(vendor: &Vendor) -> VendorPolicy {
    let mut policy = VendorPolicy::FREE;
    let name = vendor.name.as_bytes();
    let length = name.len().min(policy.name.len() - 1);
    policy.name[..length].copy_from_slice(&name[..length]);
    policy.timeouts = vendor.timeouts;
    for (to, from) in policy.egress.iter_mut().zip(&vendor.egress_ips) {
        *to = Ip4::from(*from);
    }
    policy.egress_count = vendor.egress_ips.len() as u32;
    policy.flags = if vendor.tcp_pick_up { flag::TCP_PICK_UP } else { 0 };
    policy.port_min = Port::new(vendor.ports.min);
    policy.port_max = Port::new(vendor.ports.max);
    policy
}

fn clear_prefixes(maps: &mut ConfigMaps, keep: &HashMap<(u32, [u8; 4]), PrefixTarget>) -> Result<(), Error> {
    let keys: Vec<_> = maps.prefixes.keys().flatten().collect();
    for key in keys {
        if !keep.contains_key(&(key.prefix_len(), key.data().octets)) {
            let address = Ipv4Addr::from(key.data());
            log::info!("{address}/{} is no vendor's any more", key.prefix_len());
            maps.prefixes.remove(&key).map_err(Error::map("clearing", names::VENDOR_PREFIXES))?;
        }
    }
    Ok(())
}

fn clear_sources(maps: &mut ConfigMaps, keep: &HashMap<(u32, u8, [u8; 4]), SourceRule>) -> Result<(), Error> {
    let keys: Vec<_> = maps.sources.keys().flatten().collect();
    for key in keys {
        let data = key.data();
        if !keep.contains_key(&(key.prefix_len(), data.vendor[3], data.address.octets)) {
            maps.sources.remove(&key).map_err(Error::map("clearing", names::SOURCES))?;
        }
    }
    Ok(())
}

fn clear_egress(maps: &mut ConfigMaps, keep: &HashMap<[u8; 4], u64>) -> Result<(), Error> {
    let keys: Vec<_> = maps.egress.keys().flatten().collect();
    for key in keys {
        if !keep.contains_key(&key.octets) {
            maps.egress.remove(&key).map_err(Error::map("clearing", names::EGRESS))?;
        }
    }
    Ok(())
}
