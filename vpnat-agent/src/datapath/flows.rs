//! The flow table as people see it: the two entries of a flow, or of a binding, as one line.

use std::collections::HashMap;

use vpnat_common::addr::{Ip4, Port};
use vpnat_common::layout::clock::Moment;
use vpnat_common::layout::flow::{Direction, FlowEntry, FlowKey, kind, protocol};
use vpnat_common::layout::user::FlowEntryBytes;

use super::Error;
use super::census::Census;
use super::maps::Table;

/// Entries read at a time.
const SLICE: usize = 4096;

/// An address with a port or query identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Endpoint {
    /// Address.
    pub address: Ip4,
    /// Port or query identifier.
    pub port: Port,
}

/// A flow, or a binding: both entries, or the one that there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    /// One of [`kind`].
    pub kind: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// The pod's end.
    pub inside: Endpoint,
    /// The vendor's end; of a binding nobody's.
    pub remote: Endpoint,
    /// What the vendor sees.
    pub egress: Endpoint,
    /// Pod to vendor.
    pub outbound: Option<FlowEntry>,
    /// Vendor to pod.
    pub inbound: Option<FlowEntry>,
}

impl Flow {
    /// Either entry; there is always one.
    fn any(&self) -> Option<&FlowEntry> {
        self.outbound.as_ref().or(self.inbound.as_ref())
    }

    /// Key of its outbound entry.
    pub fn outbound_key(&self) -> FlowKey {
        let (from, to) = (self.inside, self.remote);
        FlowKey::new(from.address, from.port, to.address, to.port, self.protocol).of_kind(self.kind)
    }

    /// Key of its inbound entry.
    pub fn inbound_key(&self) -> FlowKey {
        let (from, to) = (self.remote, self.egress);
        FlowKey::new(from.address, from.port, to.address, to.port, self.protocol).of_kind(self.kind)
    }

    /// Key of an entry that is there.
    pub fn a_key(&self) -> FlowKey {
        if self.outbound.is_some() { self.outbound_key() } else { self.inbound_key() }
    }

    /// The vendor slot.
    pub fn vendor(&self) -> u8 {
        self.any().map_or(0, |entry| entry.vendor)
    }

    /// The state's name.
    pub fn state(&self) -> &'static str {
        self.any().map_or("unknown", |entry| entry.phase.name())
    }

    /// Seconds since it was made.
    pub fn age(&self, now: Moment) -> u32 {
        self.any().map_or(0, |entry| now.seconds.wrapping_sub(entry.created.seconds) as i32).max(0) as u32
    }

    /// Seconds until it ends if it stays idle; it lives as long as either side's timer runs. Not positive
    /// once it has ended.
    pub fn expires_in(&self, now: Moment) -> i32 {
        let left = |entry: &FlowEntry| entry.expires.seconds.wrapping_sub(now.seconds) as i32;
        self.outbound.iter().chain(&self.inbound).map(left).max().unwrap_or_default()
    }

    /// Of a binding, how many flows use it; its outbound half knows.
    pub fn users(&self) -> Option<u32> {
        self.outbound.as_ref().map(|entry| entry.ack)
    }

    /// Whether one half is missing.
    pub fn is_orphan(&self) -> bool {
        self.outbound.is_none() || self.inbound.is_none()
    }
}

/// The protocol's name, or its number.
pub fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".into(),
        protocol::UDP => "udp".into(),
        protocol::ICMP => "icmp".into(),
        other => other.to_string(),
    }
}

/// All flows, and how many entries could not be read.
#[derive(Debug, Default)]
pub struct Listing {
    /// Flows by protocol and inside address.
    pub flows: Vec<Flow>,
    /// Entries with a value that the datapath never writes.
    pub unreadable: usize,
}

/// Reads the whole table.
pub fn list(table: &Table) -> Result<Listing, Error> {
    let mut entries = Vec::new();
    let mut unreadable = 0;
    let mut walk = table.walk::<FlowKey, FlowEntryBytes>(SLICE);
    while let Some((keys, values)) = walk.next_slice().map_err(walk_error)? {
        for (key, value) in keys.iter().zip(values) {
            match value.decode() {
                Some(entry) if key.kind == kind::FLOW => entries.push((*key, entry)),
                Some(_) => {}
                None => unreadable += 1,
            }
        }
    }
    Ok(Listing { flows: pair(entries), unreadable })
}

/// What a walk has come upon besides what it has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Besides {
    /// Entries that could not be read.
    pub unreadable: usize,
    /// Whether there were entries of another kind.
    pub others: bool,
}

/// Shows every flow, or whatever is of this [`kind`], that is `wanted` to `each`, in the table's order and in memory that does
/// not grow with the table. `wanted` is asked before the other half is looked up. What starts or ends meanwhile may be missed.
pub fn visit<E: From<Error>>(
    table: &Table,
    kind: u8,
    wanted: impl Fn(&Flow) -> bool,
    mut each: impl FnMut(Flow) -> Result<(), E>,
) -> Result<Besides, E> {
    let mut besides = Besides::default();
    let mut walk = table.walk::<FlowKey, FlowEntryBytes>(SLICE);
    while let Some((keys, values)) = walk.next_slice().map_err(walk_error)? {
        for (key, value) in keys.iter().zip(values) {
            let Some(entry) = value.decode() else {
                besides.unreadable += 1;
                continue;
            };
            if key.kind != kind {
                besides.others = true;
                continue;
            }
            let mut flow = half(key, entry);
            if !wanted(&flow) {
                continue;
            }
            let (other, back) = match entry.direction {
                Direction::Outbound => (flow.inbound_key(), flow.inside),
                Direction::Inbound => (flow.outbound_key(), flow.egress),
            };
            let found = table.lookup::<FlowKey, FlowEntryBytes>(&other).map_err(walk_error)?;
            let found = found.and_then(|value| value.decode()).filter(|found| {
                found.direction != entry.direction
                    && (found.new_addr, found.new_port) == (back.address, back.port)
            });
            match (entry.direction, found) {
                // Its outbound half speaks for it.
                (Direction::Inbound, Some(_)) => continue,
                (Direction::Inbound, None) => {}
                (Direction::Outbound, found) => flow.inbound = found,
            }
            each(flow)?;
        }
    }
    Ok(besides)
}

/// Counts the whole table; also how many entries there are.
pub fn census(table: &Table) -> Result<(Census, u64), Error> {
    let mut census = Census::default();
    let entries = each_entry(table, |key, entry| census.add(key, entry))?;
    Ok((census, entries))
}

/// Shows every entry that can be read to `each`; how many there are, with those that cannot.
pub fn each_entry(table: &Table, mut each: impl FnMut(&FlowKey, &FlowEntry)) -> Result<u64, Error> {
    let mut entries = 0;
    let mut walk = table.walk::<FlowKey, FlowEntryBytes>(SLICE);
    while let Some((keys, values)) = walk.next_slice().map_err(walk_error)? {
        entries += keys.len() as u64;
        for (key, value) in keys.iter().zip(values) {
            if let Some(entry) = value.decode() {
                each(key, &entry);
            }
        }
    }
    Ok(entries)
}

pub(super) fn walk_error(error: std::io::Error) -> Error {
    Error::Map {
        action: "walking",
        name: vpnat_common::layout::names::FLOWS,
        error: aya::maps::MapError::IoError(error),
    }
}

/// The flow of an entry, the other half not there yet.
pub fn half(key: &FlowKey, entry: FlowEntry) -> Flow {
    let source = Endpoint { address: key.src, port: key.src_port };
    let destination = Endpoint { address: key.dst, port: key.dst_port };
    let new = Endpoint { address: entry.new_addr, port: entry.new_port };
    let (inside, remote, egress, outbound, inbound) = match entry.direction {
        Direction::Outbound => (source, destination, new, Some(entry), None),
        Direction::Inbound => (new, source, destination, None, Some(entry)),
    };
    Flow { kind: key.kind, protocol: key.protocol, inside, remote, egress, outbound, inbound }
}

/// Brings the two halves of each flow together.
fn pair(entries: Vec<(FlowKey, FlowEntry)>) -> Vec<Flow> {
    let mut flows: HashMap<(u8, Endpoint, Endpoint, Endpoint), Flow> = HashMap::new();
    for (key, entry) in entries {
        let found = half(&key, entry);
        let flow = flows
            .entry((found.protocol, found.inside, found.remote, found.egress))
            .or_insert_with(|| Flow { outbound: None, inbound: None, ..found.clone() });
        flow.outbound = found.outbound.or(flow.outbound.take());
        flow.inbound = found.inbound.or(flow.inbound.take());
    }
    let mut flows: Vec<Flow> = flows.into_values().collect();
    flows.sort_by_key(|flow| (flow.vendor(), flow.protocol, flow.inside, flow.remote, flow.egress));
    flows
}

impl std::hash::Hash for Endpoint {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.address.hash(state);
        self.port.hash(state);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use vpnat_common::layout::flow::Phase;

    pub const POD: Ip4 = Ip4::new(10, 0, 2, 7);
    pub const EGRESS: Ip4 = Ip4::new(10, 0, 1, 10);
    pub const REMOTE: Ip4 = Ip4::new(192, 0, 2, 10);

    pub fn entry(direction: Direction, new_addr: Ip4, new_port: u16, expires: u32) -> FlowEntry {
        FlowEntry {
            bytes: 100,
            packets: 1,
            expires: Moment::new(expires),
            created: Moment::new(10),
            new_addr,
            new_port: Port::new(new_port),
            addr_delta: 0,
            check: 0,
            vendor: 1,
            direction,
            phase: Phase::TcpEstablished,
            sent: 0,
            window_scale: 0,
            out_slot: 0,
            seq_end: 0,
            ack: 0,
            ts_val: 0,
            window: 0,
            stamp: 0,
            mtu: 0,
            out_mac: [0; 6],
        }
    }

    /// Both entries of a flow whose port changed from 40000 to 41000.
    fn both(expires: (u32, u32)) -> [(FlowKey, FlowEntry); 2] {
        let (pod, public, remote) = (Port::new(40000), Port::new(41000), Port::new(443));
        [
            (
                FlowKey::new(POD, pod, REMOTE, remote, protocol::TCP),
                entry(Direction::Outbound, EGRESS, 41000, expires.0),
            ),
            (
                FlowKey::new(REMOTE, remote, EGRESS, public, protocol::TCP),
                entry(Direction::Inbound, POD, 40000, expires.1),
            ),
        ]
    }

    #[test]
    fn two_entries_are_one_flow() {
        let flows = pair(both((100, 70)).into());
        let [flow] = flows.as_slice() else { panic!("{flows:?}") };
        assert_eq!((flow.inside.address, flow.inside.port.number), (POD, 40000));
        assert_eq!((flow.remote.address, flow.remote.port.number), (REMOTE, 443));
        assert_eq!((flow.egress.address, flow.egress.port.number), (EGRESS, 41000));
        assert!(!flow.is_orphan());
        assert_eq!(flow.expires_in(Moment::new(60)), 40, "the later timer counts");
        assert_eq!(flow.expires_in(Moment::new(101)), -1);
        assert_eq!(flow.age(Moment::new(60)), 50);
    }

    #[test]
    fn a_half_is_shown_as_an_orphan() {
        for half in both((100, 70)) {
            let flows = pair(vec![half]);
            assert!(flows[0].is_orphan());
            assert_eq!(flows[0].inside.address, POD);
            assert_eq!(flows[0].state(), "established");
        }
    }
}
