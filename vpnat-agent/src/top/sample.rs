//! One look at the maps.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use vpnat_common::layout::clock::Moment;
use vpnat_common::layout::flow::{Direction, FlowEntry, FlowKey, kind};
use vpnat_common::layout::outcome::{Count, Fate, Outcome};

use crate::datapath::Error;
use crate::datapath::census::{Census, PortUse};
use crate::datapath::clock::{self, PROBE_CLOCK};
use crate::datapath::flows::{Endpoint, each_entry, half};
use crate::datapath::maps::{StateMaps, Table};
use crate::datapath::pins::Pins;

/// Flows whose traffic is followed one by one; the others are only counted. Bounds the memory to some tens of megabytes.
pub const MOST_FLOWS: usize = 262_144;

/// Packets and bytes since a counter was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Packets; a GSO packet counts as one.
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
}

impl From<Count> for Traffic {
    fn from(count: Count) -> Self {
        Self { packets: count.packets, bytes: count.bytes }
    }
}

impl Traffic {
    /// What came since `before`; everything, if the counter has begun anew.
    pub fn since(self, before: Self) -> Self {
        if self.packets < before.packets || self.bytes < before.bytes {
            return self;
        }
        Self { packets: self.packets - before.packets, bytes: self.bytes - before.bytes }
    }
}

/// Pod to vendor, and back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BothWays {
    /// Pod to vendor.
    pub outbound: Traffic,
    /// Vendor to pod.
    pub inbound: Traffic,
}

impl BothWays {
    /// What came since `before`.
    pub fn since(self, before: Self) -> Self {
        Self { outbound: self.outbound.since(before.outbound), inbound: self.inbound.since(before.inbound) }
    }
}

/// A vendor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vendor {
    /// Its slot.
    pub slot: u8,
    /// Its name.
    pub name: String,
    /// Ports of each egress address.
    pub ports: u32,
    /// Translated packets.
    pub traffic: BothWays,
}

/// A flow, as its pod knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FlowId {
    /// IP protocol number.
    pub protocol: u8,
    /// The pod's end.
    pub inside: Endpoint,
    /// The vendor's end.
    pub remote: Endpoint,
}

/// What is known of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Vendor slot.
    pub vendor: u8,
    /// What the vendor sees.
    pub egress: Endpoint,
    /// The state's name.
    pub state: &'static str,
    /// When it was made.
    pub created: Moment,
    /// When it ends if it stays idle.
    pub expires: Moment,
    /// Its packets.
    pub traffic: BothWays,
}

/// All that is read at one time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// When, on the datapath's clock.
    pub now: Moment,
    /// Whether an agent runs.
    pub agent_running: bool,
    /// Whether the datapath translates.
    pub configured: bool,
    /// Vendors in use.
    pub vendors: Vec<Vendor>,
    /// Packets that were dropped, by vendor slot (0: nobody's) and the outcome's name.
    pub drops: BTreeMap<(u8, &'static str), u64>,
    /// Flows of each vendor slot.
    pub flows: BTreeMap<u8, u64>,
    /// Flows of each pod, of those that are followed.
    pub followed: HashMap<FlowId, Flow>,
    /// How far ports are used up.
    pub ports: Vec<PortUse>,
    /// Entries of the flow table, two per flow.
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u32,
}

impl Sample {
    /// Reads the maps. They are opened anew each time, so that what replaced them meanwhile is what is shown.
    pub fn read(pins: &Pins) -> Result<Self, Error> {
        let maps = StateMaps::open(pins)?;
        let table = Table::flows(pins)?;
        let mut sample = Self {
            at: Instant::now(),
            now: clock::now(&pins.program(PROBE_CLOCK))?,
            agent_running: pins.locked(),
            configured: maps.settings()?.ready == 1,
            vendors: Vec::new(),
            drops: BTreeMap::new(),
            flows: BTreeMap::new(),
            followed: HashMap::new(),
            ports: Vec::new(),
            entries: 0,
            capacity: table.capacity,
        };
        let found = maps.vendors()?;
        for slot in std::iter::once(0).chain(found.iter().map(|vendor| vendor.slot)) {
            for outcome in Outcome::ALL.iter().filter(|outcome| outcome.fate() == Fate::Dropped) {
                let packets = maps.count_everywhere(slot, *outcome)?.packets;
                if packets > 0 {
                    sample.drops.insert((slot, outcome.name()), packets);
                }
            }
        }
        for vendor in found {
            let traffic = BothWays {
                outbound: maps.count_everywhere(vendor.slot, Outcome::Outbound)?.into(),
                inbound: maps.count_everywhere(vendor.slot, Outcome::Inbound)?.into(),
            };
            let ports = vendor.ports();
            sample.vendors.push(Vendor { slot: vendor.slot, name: vendor.name, ports, traffic });
        }
        let mut census = Census::default();
        each_entry(&table, |key, entry| {
            census.add(key, entry);
            sample.add(key, entry);
        })?;
        for ((vendor, ..), count) in &census.flows {
            *sample.flows.entry(*vendor).or_default() += count;
        }
        sample.ports = census.port_use();
        Ok(sample)
    }

    /// Takes note of an entry of the flow table.
    pub fn add(&mut self, key: &FlowKey, entry: &FlowEntry) {
        self.entries += 1;
        if key.kind != kind::FLOW {
            return;
        }
        let found = half(key, *entry);
        let id = FlowId { protocol: key.protocol, inside: found.inside, remote: found.remote };
        let room = self.followed.len() < MOST_FLOWS;
        let flow = match self.followed.entry(id) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) if room => place.insert(Flow {
                vendor: entry.vendor,
                egress: found.egress,
                state: entry.phase.name(),
                created: entry.created,
                expires: entry.expires,
                traffic: BothWays::default(),
            }),
            std::collections::hash_map::Entry::Vacant(_) => return,
        };
        let traffic = Traffic { packets: entry.packets, bytes: entry.bytes };
        match entry.direction {
            Direction::Outbound => flow.traffic.outbound = traffic,
            Direction::Inbound => flow.traffic.inbound = traffic,
        }
        // It lives as long as either side's timer runs.
        if entry.expires.is_after(flow.expires) {
            flow.expires = entry.expires;
        }
    }

    /// Flows of all vendors.
    pub fn total(&self) -> u64 {
        self.flows.values().sum()
    }

    /// The vendor's name, or its slot if it has none any more; nobody's packets have no vendor.
    pub fn name(&self, slot: u8) -> String {
        match self.vendors.iter().find(|vendor| vendor.slot == slot) {
            Some(vendor) => vendor.name.clone(),
            None if slot == 0 => "none".into(),
            None => format!("slot-{slot}"),
        }
    }
}
