//! Counting the flow table: flows by class, and how far ports are used up. In memory that does not grow with the table.

use std::collections::{BTreeMap, HashMap};

use vpnat_common::addr::Ip4;
use vpnat_common::layout::flow::{Direction, FlowEntry, FlowKey, kind};

use super::flows::Endpoint;

/// What a flow is counted by: vendor slot, protocol, state.
pub type FlowClass = (u8, u8, &'static str);

/// A pool of ports: vendor slot, egress address, protocol.
pub type Pool = (u8, Ip4, u8);

/// Remote ends that are told apart; more are not looked at. The table is in no order, so an end that uses a notable part
/// of the ports is met long before there are so many.
const MOST_ENDPOINTS: usize = 65_536;

/// Words of a set of ports.
const WORDS: usize = 65_536 / 64;

/// A walk's counts so far.
#[derive(Debug, Default)]
pub struct Census {
    /// Flows, by class.
    pub flows: BTreeMap<FlowClass, u64>,
    ports: BTreeMap<Pool, Box<[u64]>>,
    owned: BTreeMap<Pool, u32>,
    endpoints: HashMap<(Pool, Endpoint), u32>,
}

/// How far a pool of ports is used up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortUse {
    /// Whose ports.
    pub pool: Pool,
    /// Different ports in use.
    pub ports: u32,
    /// The remote end towards which most ports are in use.
    pub busiest: Endpoint,
    /// How many: towards another end the same ports can be used again.
    pub busiest_ports: u32,
    /// Ports that one pod's end has towards every remote end (endpoint-independent mapping).
    pub owned: u32,
}

impl PortUse {
    /// The share of the pool's `configured` ports that a new flow to the busiest end cannot have, 0 to 1.
    pub fn ratio(&self, configured: u32) -> f64 {
        f64::from(self.busiest_ports.max(self.owned)) / f64::from(configured.max(1))
    }
}

impl Census {
    /// Counts an entry. Outbound ones speak for their flow, or binding; others are passed over.
    pub fn add(&mut self, key: &FlowKey, entry: &FlowEntry) {
        if entry.direction != Direction::Outbound {
            return;
        }
        if key.kind == kind::FLOW {
            *self.flows.entry((entry.vendor, key.protocol, entry.phase.name())).or_default() += 1;
        }
        self.add_port(key, entry);
    }

    /// Counts the port of an entry that has ended, and rests: nobody else gets it yet.
    pub fn add_resting(&mut self, key: &FlowKey, entry: &FlowEntry) {
        if entry.direction == Direction::Outbound {
            self.add_port(key, entry);
        }
    }

    fn add_port(&mut self, key: &FlowKey, entry: &FlowEntry) {
        let pool = (entry.vendor, entry.new_addr, key.protocol);
        let port = usize::from(entry.new_port.number);
        self.ports.entry(pool).or_insert_with(|| vec![0; WORDS].into())[port / 64] |= 1 << (port % 64);
        if key.kind == kind::BINDING {
            *self.owned.entry(pool).or_default() += 1;
            return;
        }
        let remote = Endpoint { address: key.dst, port: key.dst_port };
        if let Some(count) = self.endpoints.get_mut(&(pool, remote)) {
            *count += 1;
        } else if self.endpoints.len() < MOST_ENDPOINTS {
            self.endpoints.insert((pool, remote), 1);
        }
    }

    /// Flows of all classes.
    pub fn total(&self) -> u64 {
        self.flows.values().sum()
    }

    /// Every pool that is used.
    pub fn port_use(&self) -> Vec<PortUse> {
        let mut busiest: BTreeMap<Pool, (u32, Endpoint)> = BTreeMap::new();
        for ((pool, remote), count) in &self.endpoints {
            let candidate = (*count, *remote);
            let best = busiest.entry(*pool).or_insert(candidate);
            *best = (*best).max(candidate);
        }
        self.ports
            .iter()
            .filter_map(|(pool, ports)| {
                let (busiest_ports, busiest) = *busiest.get(pool)?;
                let ports = ports.iter().map(|word| word.count_ones()).sum();
                let owned = self.owned.get(pool).copied().unwrap_or(0);
                Some(PortUse { pool: *pool, ports, busiest, busiest_ports, owned })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::flows::tests::{EGRESS, POD, REMOTE, entry};
    use super::*;
    use vpnat_common::addr::Port;
    use vpnat_common::layout::flow::protocol;

    fn add(census: &mut Census, port: u16, remote: u16) {
        let key = FlowKey::new(POD, Port::new(port), REMOTE, Port::new(remote), protocol::TCP);
        census.add(&key, &entry(Direction::Outbound, EGRESS, port, 100));
    }

    #[test]
    fn the_busiest_end_is_what_runs_out() {
        let mut census = Census::default();
        (0..10).for_each(|port| add(&mut census, 40000 + port, 443));
        (0..15).for_each(|port| add(&mut census, 40000 + port, 80));
        let inbound = FlowKey::new(REMOTE, Port::new(80), EGRESS, Port::new(1), protocol::TCP);
        census.add(&inbound, &entry(Direction::Inbound, POD, 1, 100));
        assert_eq!(census.total(), 25);
        let [found] = &census.port_use()[..] else { panic!("one pool") };
        assert_eq!((found.pool, found.ports), ((1, EGRESS, protocol::TCP), 15));
        assert_eq!((found.busiest.port.number, found.busiest_ports), (80, 15));
    }

    /// Where a pod's end has its port towards everybody, all ports together run out, and ports that rest are missing too.
    #[test]
    fn owned_and_resting_ports_are_in_use() {
        let mut census = Census::default();
        for port in 0..10 {
            add(&mut census, 40000 + port, 443 + port);
            let pod = FlowKey::new(POD, Port::new(40000 + port), EGRESS, Port::new(0), protocol::TCP);
            let binding = entry(Direction::Outbound, EGRESS, 40000 + port, 100);
            census.add(&pod.of_kind(kind::BINDING), &binding);
            let owner = FlowKey::new(Ip4::UNSPECIFIED, Port::new(0), EGRESS, Port::new(1), protocol::TCP);
            census.add(&owner.of_kind(kind::BINDING), &entry(Direction::Inbound, POD, 1, 100));
        }
        let resting = FlowKey::new(POD, Port::new(7), REMOTE, Port::new(443), protocol::TCP);
        census.add_resting(&resting, &entry(Direction::Outbound, EGRESS, 50000, 100));
        assert_eq!(census.total(), 10, "flows are not counted twice, nor when they are over");
        let [found] = &census.port_use()[..] else { panic!("one pool") };
        assert_eq!((found.ports, found.owned, found.busiest_ports), (11, 10, 2));
        assert!((found.ratio(20) - 0.5).abs() < 1e-9, "{}", found.ratio(20));
        let shared = PortUse { owned: 0, ..found.clone() };
        assert!((shared.ratio(20) - 0.1).abs() < 1e-9, "{}", shared.ratio(20));
    }

    #[test]
    fn memory_is_bounded() {
        let mut census = Census::default();
        for remote in 0..=u16::MAX {
            add(&mut census, 40000, remote);
            let key =
                FlowKey::new(POD, Port::new(1), Ip4::new(192, 0, 2, 11), Port::new(remote), protocol::TCP);
            census.add(&key, &entry(Direction::Outbound, EGRESS, 40001, 100));
        }
        assert_eq!(census.endpoints.len(), MOST_ENDPOINTS);
        assert_eq!(census.total(), 2 * 65_536);
    }
}
