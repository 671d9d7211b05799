//! Writing the configuration into the maps: what is new first, what is gone last, so that no packet meets
//! a gap.
//!
//! A prefix that is no vendor's any more stays, closed: pods that still send to it must not be seen there as themselves.
//! Whatever the maps held before, in the middle of another filling too, they hold this configuration afterwards.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use ipnet::Ipv4Net;
use vpnat_common::addr::{Ip4, Port};
use vpnat_common::layout::vendor::{
    EgressAddress, PrefixTarget, SOURCE_KEY_VENDOR_BITS, SourceKey, SourceRule, VendorPolicy, flag,
};
use vpnat_common::layout::{MAX_VENDORS, names};

use super::Error;
use super::maps::{ConfigMaps, VendorSlot, read_vendors};
use crate::config::{Config, Mapping, OnRemoval, Refuse, Vendor};

type Prefixes = HashMap<(u32, [u8; 4]), PrefixTarget>;
type Sources = HashMap<(u32, u8, [u8; 4]), SourceRule>;
type Egress = HashMap<[u8; 4], u64>;

/// Writes vendors, prefixes, sources and egress addresses. `in_use` says which vendor slots flows still
/// name; it is asked only when a slot must be given out.
pub fn fill(
    maps: &mut ConfigMaps,
    config: &Config,
    in_use: impl FnOnce() -> Result<HashSet<u8>, Error>,
) -> Result<(), Error> {
    let known = read_vendors(&maps.vendors)?;
    let slots = assign_slots(&known, config, in_use)?;
    let draining: Vec<&VendorSlot> = match config.on_removal {
        OnRemoval::Drop => Vec::new(),
        OnRemoval::Drain => known.iter().filter(|vendor| !slots.contains(&vendor.slot)).collect(),
    };

    let mut egress = Egress::new();
    let mut prefixes = Prefixes::new();
    let mut sources = Sources::new();
    let mut policies: Vec<(u8, VendorPolicy)> = Vec::new();
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
        let before = known.iter().find(|vendor| vendor.slot == slot).map(|vendor| &vendor.policy);
        policies.push((slot, policy(vendor, before)));
    }
    for vendor in &draining {
        let mut policy = vendor.policy;
        policy.flags |= flag::DRAINING;
        for address in policy.egress_addresses() {
            *egress.entry(address.octets).or_default() |= 1 << vendor.slot;
        }
        policies.push((vendor.slot, policy));
    }

    // An egress address is known as one before the first flow has it, and as long as the last may.
    write_egress(maps, &egress, true)?;
    for (slot, policy) in &policies {
        maps.vendors.set((*slot).into(), policy, 0).map_err(Error::map("writing", names::VENDORS))?;
    }
    for ((length, slot, octets), rule) in &sources {
        let key = Key::new(*length, SourceKey::new(*slot, Ip4 { octets: *octets }));
        maps.sources.insert(&key, rule, 0).map_err(Error::map("writing", names::SOURCES))?;
    }
    for ((length, octets), target) in &prefixes {
        let key = Key::new(*length, Ip4 { octets: *octets });
        maps.prefixes.insert(&key, target, 0).map_err(Error::map("writing", names::VENDOR_PREFIXES))?;
    }

    close_prefixes(maps, config, &prefixes)?;
    clear_sources(maps, &sources)?;
    for slot in 1..MAX_VENDORS {
        if !policies.iter().any(|(used, _)| u32::from(*used) == slot) {
            maps.vendors.set(slot, VendorPolicy::FREE, 0).map_err(Error::map("writing", names::VENDORS))?;
        }
    }
    write_egress(maps, &egress, false)?;
    clear_egress(maps, &egress)?;
    // What the programs remember of the old configuration ends.
    maps.raise_route_generation()
}

/// Opens the prefixes that were closed when their vendor was removed; what they were.
pub fn open_removed(maps: &mut ConfigMaps) -> Result<Vec<Ipv4Net>, Error> {
    let closed = closed_prefixes(&maps.prefixes)?;
    for prefix in &closed {
        let key = Key::new(prefix.prefix_len().into(), Ip4::from(prefix.addr()));
        maps.prefixes.remove(&key).map_err(Error::map("clearing", names::VENDOR_PREFIXES))?;
    }
    maps.raise_route_generation()?;
    Ok(closed)
}

/// The prefixes that are closed because they are no vendor's any more.
pub fn closed_prefixes(prefixes: &LpmTrie<MapData, Ip4, PrefixTarget>) -> Result<Vec<Ipv4Net>, Error> {
    let keys: Vec<_> = prefixes.keys().collect::<Result<_, _>>().map_err(reading)?;
    let mut closed = Vec::new();
    for key in keys {
        if prefixes.get(&key, 0).map_err(reading)? == PrefixTarget::CLOSED {
            closed.extend(net(&key));
        }
    }
    closed.sort();
    Ok(closed)
}

/// Ends the draining of vendors whose slots no flow names any more; their names.
pub fn retire(maps: &mut ConfigMaps, in_use: impl Fn(u8) -> bool) -> Result<Vec<String>, Error> {
    let mut retired = Vec::new();
    for vendor in read_vendors(&maps.vendors)? {
        if vendor.policy.flags & flag::DRAINING == 0 || in_use(vendor.slot) {
            continue;
        }
        let slot = vendor.slot.into();
        maps.vendors.set(slot, VendorPolicy::FREE, 0).map_err(Error::map("writing", names::VENDORS))?;
        for address in vendor.policy.egress_addresses() {
            let Ok(known) = maps.egress.get(&address, 0) else { continue };
            let vendors = known.vendors & !(1 << vendor.slot);
            if vendors == 0 {
                maps.egress.remove(&address).map_err(Error::map("clearing", names::EGRESS))?;
            } else {
                let rest = EgressAddress { vendors };
                maps.egress.insert(address, rest, 0).map_err(Error::map("writing", names::EGRESS))?;
            }
        }
        retired.push(vendor.name);
    }
    Ok(retired)
}

/// A vendor keeps the slot that its name has in the map, because flows name slots. A slot is given out only if no vendor
/// has it, removed ones included, whose prefixes still lead to it, and no flow names it.
fn assign_slots(
    known: &[VendorSlot],
    config: &Config,
    in_use: impl FnOnce() -> Result<HashSet<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let slot_of = |name: &str| known.iter().find(|vendor| vendor.name == name).map(|vendor| vendor.slot);
    let mut taken: HashSet<u8> = known.iter().map(|vendor| vendor.slot).collect();
    let all_known = config.vendors.iter().all(|vendor| slot_of(&vendor.name).is_some());
    let flows = if all_known { HashSet::new() } else { in_use()? };
    let mut slots = Vec::new();
    for vendor in &config.vendors {
        let slot = match slot_of(&vendor.name) {
            Some(slot) => slot,
            None => {
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

/// What is found out about the way to a vendor is kept from `before`: the routes are asked later.
fn policy(vendor: &Vendor, before: Option<&VendorPolicy>) -> VendorPolicy {
    let mut policy = VendorPolicy::FREE;
    let name = vendor.name.as_bytes();
    let length = name.len().min(policy.name.len() - 1);
    policy.name[..length].copy_from_slice(&name[..length]);
    policy.timeouts = vendor.timeouts;
    for (to, from) in policy.egress.iter_mut().zip(&vendor.egress_ips) {
        *to = Ip4::from(*from);
    }
    policy.egress_count = vendor.egress_ips.len() as u32;
    policy.flags = if vendor.tcp_pick_up { flag::TCP_PICK_UP } else { 0 }
        | match vendor.refuse {
            Refuse::HostUnreachable => 0,
            Refuse::AdminProhibited => flag::REFUSE_PROHIBITED,
            Refuse::Drop => flag::REFUSE_SILENTLY,
        }
        | match vendor.mapping {
            Mapping::EndpointDependent => 0,
            Mapping::EndpointIndependent => flag::ENDPOINT_INDEPENDENT,
        };
    policy.hold_s = vendor.port_hold;
    policy.max_flows_per_source = vendor.max_flows_per_source;
    policy.new_flows_per_source = vendor.new_flows_per_source;
    policy.port_min = Port::new(vendor.ports.min);
    policy.port_max = Port::new(vendor.ports.max);
    if let Some(before) = before {
        (policy.path_mtu, policy.mss) = (before.path_mtu, before.mss);
    }
    policy
}

/// Writes the egress addresses; `with_old`: for the vendors that have them already, too.
fn write_egress(maps: &mut ConfigMaps, egress: &Egress, with_old: bool) -> Result<(), Error> {
    for (octets, vendors) in egress {
        let address = Ip4 { octets: *octets };
        let old = maps.egress.get(&address, 0).map_or(0, |known| known.vendors);
        let vendors = if with_old { *vendors | old } else { *vendors };
        if vendors != old {
            maps.egress
                .insert(address, EgressAddress { vendors }, 0)
                .map_err(Error::map("writing", names::EGRESS))?;
        }
    }
    Ok(())
}

/// Closes the prefixes that are no vendor's any more. Those that lie within another's are that one's.
fn close_prefixes(maps: &mut ConfigMaps, config: &Config, keep: &Prefixes) -> Result<(), Error> {
    let keys: Vec<_> = maps.prefixes.keys().collect::<Result<_, _>>().map_err(reading)?;
    for key in keys.into_iter().filter(|key| !keep.contains_key(&(key.prefix_len(), key.data().octets))) {
        let target = maps.prefixes.get(&key, 0).map_err(reading)?;
        let within = net(&key).is_some_and(|prefix| {
            config.vendors.iter().flat_map(|vendor| &vendor.cidrs).any(|cidr| cidr.contains(&prefix))
        });
        if within || target.exempt != 0 {
            maps.prefixes.remove(&key).map_err(Error::map("clearing", names::VENDOR_PREFIXES))?;
        } else if target != PrefixTarget::CLOSED {
            let address = Ipv4Addr::from(key.data());
            log::info!("{address}/{} is no vendor's any more and is closed", key.prefix_len());
            maps.prefixes
                .insert(&key, PrefixTarget::CLOSED, 0)
                .map_err(Error::map("writing", names::VENDOR_PREFIXES))?;
        }
    }
    Ok(())
}

fn reading(error: aya::maps::MapError) -> Error {
    Error::map("reading", names::VENDOR_PREFIXES)(error)
}

fn net(key: &Key<Ip4>) -> Option<Ipv4Net> {
    Ipv4Net::new(Ipv4Addr::from(key.data()), u8::try_from(key.prefix_len()).ok()?).ok()
}

fn clear_sources(maps: &mut ConfigMaps, keep: &Sources) -> Result<(), Error> {
    let keys: Vec<_> = maps.sources.keys().flatten().collect();
    for key in keys {
        let data = key.data();
        if !keep.contains_key(&(key.prefix_len(), data.vendor[3], data.address.octets)) {
            maps.sources.remove(&key).map_err(Error::map("clearing", names::SOURCES))?;
        }
    }
    Ok(())
}

fn clear_egress(maps: &mut ConfigMaps, keep: &Egress) -> Result<(), Error> {
    let keys: Vec<_> = maps.egress.keys().flatten().collect();
    for key in keys {
        if !keep.contains_key(&key.octets) {
            maps.egress.remove(&key).map_err(Error::map("clearing", names::EGRESS))?;
        }
    }
    Ok(())
}
