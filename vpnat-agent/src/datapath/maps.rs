//! The pinned maps, typed.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::xdp::DevMap;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues, RingBuf};
use aya::sys::SyscallError;
use ipnet::Ipv4Net;
use vpnat_common::addr::Ip4;
use vpnat_common::layout::clock::Settings;
use vpnat_common::layout::device::{Device, XdpPort};
use vpnat_common::layout::event::Tally;
use vpnat_common::layout::flow::{FlowEntry, FlowKey};
use vpnat_common::layout::names;
use vpnat_common::layout::outcome::{Count, Hook, Outcome, counter_index};
use vpnat_common::layout::refusal::Answers;
use vpnat_common::layout::user::FlowEntryBytes;
use vpnat_common::layout::vendor::{EgressAddress, PrefixTarget, SourceKey, SourceRule, VendorPolicy};

use super::Error;
use super::batch::Walk;
use super::fill;
use super::pins::Pins;

/// Opens a pinned map.
fn open(pins: &Pins, name: &'static str) -> Result<Map, Error> {
    let path = pins.map(name);
    let data = MapData::from_pin(&path).map_err(|error| match &error {
        MapError::SyscallError(SyscallError { io_error, .. }) => match io_error.kind() {
            io::ErrorKind::NotFound => Error::NothingPinned { path: pins.maps() },
            io::ErrorKind::PermissionDenied => Error::Unreadable { path: pins.maps() },
            _ => Error::map("opening", name)(error),
        },
        _ => Error::map("opening", name)(error),
    })?;
    Map::from_map_data(data).map_err(Error::map("opening", name))
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(pins: &Pins, name: &'static str) -> Result<T, Error> {
    T::try_from(open(pins, name)?).map_err(Error::map("opening", name))
}

/// Reads the kernel's description of a pinned map; `None` if there is no pin.
pub fn info(path: &Path, name: &'static str) -> Result<Option<MapInfo>, Error> {
    match MapInfo::from_pin(path) {
        Ok(info) => Ok(Some(info)),
        Err(MapError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(Error::map("looking at", name)(error)),
    }
}

/// What the agent writes.
pub struct ConfigMaps {
    /// Whether the configuration is complete, and the route generation.
    pub settings: Array<MapData, Settings>,
    /// Policies by slot.
    pub vendors: Array<MapData, VendorPolicy>,
    /// Destinations.
    pub prefixes: LpmTrie<MapData, Ip4, PrefixTarget>,
    /// Admitted sources.
    pub sources: LpmTrie<MapData, SourceKey, SourceRule>,
    /// Egress addresses.
    pub egress: HashMap<MapData, Ip4, EgressAddress>,
    /// Roles by interface index.
    pub devices: HashMap<MapData, u32, Device>,
    /// Devices that XDP may send through.
    pub xdp_ports: Array<MapData, XdpPort>,
    /// The same, for redirection.
    pub xdp_devices: DevMap<MapData>,
    /// The same map, for deletion, which aya's type lacks.
    pub xdp_devices_data: MapData,
}

impl ConfigMaps {
    /// Opens the pinned maps.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            settings: typed(pins, names::SETTINGS)?,
            vendors: typed(pins, names::VENDORS)?,
            prefixes: typed(pins, names::VENDOR_PREFIXES)?,
            sources: typed(pins, names::SOURCES)?,
            egress: typed(pins, names::EGRESS)?,
            devices: typed(pins, names::DEVICES)?,
            xdp_ports: typed(pins, names::XDP_PORTS)?,
            xdp_devices: typed(pins, names::XDP_DEVICES)?,
            xdp_devices_data: MapData::from_pin(pins.map(names::XDP_DEVICES))
                .map_err(Error::map("opening", names::XDP_DEVICES))?,
        })
    }

    /// Reads the settings, lets `change` change them, and writes them back.
    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) -> Result<(), Error> {
        let mut settings = self.settings.get(&0, 0).map_err(Error::map("reading", names::SETTINGS))?;
        change(&mut settings);
        self.settings.set(0, settings, 0).map_err(Error::map("writing", names::SETTINGS))
    }

    /// Ends every cached next hop.
    pub fn raise_route_generation(&mut self) -> Result<(), Error> {
        self.change_settings(|settings| settings.route_generation = settings.route_generation.wrapping_add(1))
    }
}

/// A vendor as the maps have it.
#[derive(Clone, Debug)]
pub struct VendorSlot {
    /// Slot, from 1.
    pub slot: u8,
    /// Name.
    pub name: String,
    /// Policy.
    pub policy: VendorPolicy,
}

impl VendorSlot {
    /// How many ports each egress address has; at least 1.
    pub fn ports(&self) -> u32 {
        let (min, max) = (self.policy.port_min.number, self.policy.port_max.number);
        u32::from(max.saturating_sub(min)) + 1
    }
}

/// The name in a policy.
pub fn vendor_name(policy: &VendorPolicy) -> String {
    let end = policy.name.iter().position(|byte| *byte == 0).unwrap_or(policy.name.len());
    String::from_utf8_lossy(&policy.name[..end]).into_owned()
}

/// What reading verbs and the metrics look at.
pub struct StateMaps {
    settings: Array<MapData, Settings>,
    vendors: Array<MapData, VendorPolicy>,
    counters: PerCpuArray<MapData, Count>,
    answers: PerCpuArray<MapData, Answers>,
    tallies: PerCpuArray<MapData, u64>,
    prefixes: LpmTrie<MapData, Ip4, PrefixTarget>,
}

/// The event buffer. There is one reader of it, the agent's flow log.
pub fn events(pins: &Pins) -> Result<RingBuf<MapData>, Error> {
    typed(pins, names::EVENTS)
}

impl StateMaps {
    /// Opens the pinned maps.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            settings: typed(pins, names::SETTINGS)?,
            vendors: typed(pins, names::VENDORS)?,
            counters: typed(pins, names::COUNTERS)?,
            answers: typed(pins, names::ANSWERS)?,
            tallies: typed(pins, names::TALLIES)?,
            prefixes: typed(pins, names::VENDOR_PREFIXES)?,
        })
    }

    /// Prefixes that stay closed since their vendor was removed.
    pub fn closed_prefixes(&self) -> Result<Vec<Ipv4Net>, Error> {
        fill::closed_prefixes(&self.prefixes)
    }

    /// The settings.
    pub fn settings(&self) -> Result<Settings, Error> {
        self.settings.get(&0, 0).map_err(Error::map("reading", names::SETTINGS))
    }

    /// Vendors in use.
    pub fn vendors(&self) -> Result<Vec<VendorSlot>, Error> {
        read_vendors(&self.vendors)
    }

    /// Answers to refusals, summed over the CPUs.
    pub fn answers(&self) -> Result<Answers, Error> {
        let values = self.answers.get(&0, 0).map_err(Error::map("reading", names::ANSWERS))?;
        Ok(values.iter().fold(Answers::default(), |sum, counts| Answers {
            sent: sum.sent.wrapping_add(counts.sent),
            suppressed: sum.suppressed.wrapping_add(counts.suppressed),
        }))
    }

    /// One counter, summed over the CPUs.
    pub fn count(&self, vendor: u8, hook: Hook, outcome: Outcome) -> Result<Count, Error> {
        let index = counter_index(vendor, hook, outcome as u32);
        let values = self.counters.get(&index, 0).map_err(Error::map("reading", names::COUNTERS))?;
        Ok(values.iter().fold(Count::default(), |sum, count| Count {
            packets: sum.packets.wrapping_add(count.packets),
            bytes: sum.bytes.wrapping_add(count.bytes),
        }))
    }

    /// What ended so at all hooks.
    pub fn count_everywhere(&self, vendor: u8, outcome: Outcome) -> Result<Count, Error> {
        let mut sum = Count::default();
        for hook in Hook::ALL {
            let count = self.count(vendor, hook, outcome)?;
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
        Ok(sum)
    }

    /// One tally, summed over the CPUs.
    pub fn tally(&self, vendor: u8, tally: Tally) -> Result<u64, Error> {
        let values =
            self.tallies.get(&tally.index(vendor), 0).map_err(Error::map("reading", names::TALLIES))?;
        Ok(values.iter().fold(0, |sum: u64, count| sum.wrapping_add(*count)))
    }

    /// Events that were lost and that no log has said so of, in this agent's time or before.
    pub fn unreported_losses(&self) -> Result<u64, Error> {
        let lost = self.tally(0, Tally::EventsLost)?;
        Ok(lost.saturating_sub(self.tally(0, Tally::LossesReported)?))
    }

    /// Takes note that a log has said of `more` lost events.
    pub fn report_losses(&mut self, more: u64) -> Result<(), Error> {
        let index = Tally::LossesReported.index(0);
        let values = self.tallies.get(&index, 0).map_err(Error::map("reading", names::TALLIES))?;
        let mut values: Vec<u64> = values.iter().copied().collect();
        if let Some(first) = values.first_mut() {
            *first = first.wrapping_add(more);
        }
        let values = PerCpuValues::try_from(values)
            .map_err(|error| Error::map("writing", names::TALLIES)(error.into()))?;
        self.tallies.set(index, values, 0).map_err(Error::map("writing", names::TALLIES))
    }
}

/// The slots of `vendors` that are in use.
pub fn read_vendors(vendors: &Array<MapData, VendorPolicy>) -> Result<Vec<VendorSlot>, Error> {
    let mut found = Vec::new();
    for slot in 1..vendors.len() {
        let policy = vendors.get(&slot, 0).map_err(Error::map("reading", names::VENDORS))?;
        if policy.egress_count != 0 {
            found.push(VendorSlot { slot: slot as u8, name: vendor_name(&policy), policy });
        }
    }
    Ok(found)
}

/// One entry of the flow table.
pub fn flow_entry(pins: &Pins, key: &FlowKey) -> Result<Option<FlowEntry>, Error> {
    // The shape is checked first.
    Table::flows(pins)?;
    let flows: HashMap<MapData, FlowKey, FlowEntryBytes> = typed(pins, names::FLOWS)?;
    match flows.get(key, 0) {
        Ok(entry) => Ok(entry.decode()),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(Error::map("reading", names::FLOWS)(error)),
    }
}

/// A table that is walked in batches.
#[derive(Debug)]
pub struct Table {
    data: MapData,
    /// Entries that fit.
    pub capacity: u32,
}

impl Table {
    /// The flow table.
    pub fn flows(pins: &Pins) -> Result<Self, Error> {
        Self::open(pins, names::FLOWS, size_of::<FlowKey>(), size_of::<FlowEntryBytes>())
    }

    /// How many entries there are.
    pub fn count(&self) -> Result<u32, Error> {
        let mut walk = self.walk::<FlowKey, FlowEntryBytes>(4096);
        let mut count = 0;
        while let Some((keys, _)) = walk.next_slice().map_err(super::flows::walk_error)? {
            count += keys.len() as u32;
        }
        Ok(count)
    }

    fn open(pins: &Pins, name: &'static str, key: usize, value: usize) -> Result<Self, Error> {
        let path = pins.map(name);
        let Some(info) = info(&path, name)? else {
            return Err(Error::NothingPinned { path: pins.maps() });
        };
        for (property, found, expected) in
            [("key size", info.key_size(), key), ("value size", info.value_size(), value)]
        {
            if found as usize != expected {
                let (found, expected) = (found.to_string(), expected.to_string());
                return Err(Error::MapShape { name: name.into(), path, property, found, expected });
            }
        }
        let data = MapData::from_pin(&path).map_err(Error::map("opening", name))?;
        Ok(Self { data, capacity: info.max_entries() })
    }

    /// Walks over all entries. `K` and `V` are those that the table was opened for.
    pub(super) fn walk<K: Pod, V: Pod>(&self, slice: usize) -> Walk<'_, K, V> {
        Walk::new(self.fd(), slice)
    }

    /// Looks one entry up. `K` and `V` are those that the table was opened for.
    pub(super) fn lookup<K: Pod, V: Pod>(&self, key: &K) -> io::Result<Option<V>> {
        super::batch::lookup(self.fd(), key)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }
}
