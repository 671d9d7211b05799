//! Rates of two samples, what they were in the last minute, and the rows of the lists.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use vpnat_common::addr::Ip4;

use super::sample::{BothWays, Flow, FlowId, Sample, Traffic};
use super::ui::{Sort, Ui};
use crate::datapath::flows::protocol_name;

/// Samples that sparklines go back.
const REMEMBERED: usize = 60;

/// Per second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rate {
    /// Packets.
    pub packets: f64,
    /// Bits, from the IP header on.
    pub bits: f64,
}

impl Rate {
    fn of(traffic: Traffic, seconds: f64) -> Self {
        Self { packets: traffic.packets as f64 / seconds, bits: traffic.bytes as f64 * 8.0 / seconds }
    }
}

/// Pod to vendor, and back.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    /// Pod to vendor.
    pub outbound: Rate,
    /// Vendor to pod.
    pub inbound: Rate,
}

impl Rates {
    fn of(traffic: BothWays, seconds: f64) -> Self {
        Self { outbound: Rate::of(traffic.outbound, seconds), inbound: Rate::of(traffic.inbound, seconds) }
    }

    /// Bits both ways.
    pub fn bits(&self) -> f64 {
        self.outbound.bits + self.inbound.bits
    }

    /// Packets both ways.
    pub fn packets(&self) -> f64 {
        self.outbound.packets + self.inbound.packets
    }

    fn add(&mut self, other: &Self) {
        for (sum, rate) in [(&mut self.outbound, &other.outbound), (&mut self.inbound, &other.inbound)] {
            sum.packets += rate.packets;
            sum.bits += rate.bits;
        }
    }
}

/// A vendor's last minute, oldest first.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Series {
    /// Bits per second, pod to vendor.
    pub outbound: Vec<f64>,
    /// Bits per second, vendor to pod.
    pub inbound: Vec<f64>,
    /// Packets refused per second.
    pub refused: Vec<f64>,
}

impl Series {
    fn push(&mut self, outbound: f64, inbound: f64, refused: f64) {
        for (values, value) in
            [(&mut self.outbound, outbound), (&mut self.inbound, inbound), (&mut self.refused, refused)]
        {
            if values.len() == REMEMBERED {
                values.remove(0);
            }
            values.push(value);
        }
    }
}

/// A row of the vendors.
#[derive(Clone, PartialEq, Debug)]
pub struct VendorRow {
    /// Slot.
    pub slot: u8,
    /// Name.
    pub name: String,
    /// Traffic.
    pub rates: Rates,
    /// Flows.
    pub flows: u64,
    /// Share of the ports in use towards the busiest destination, or owned by pods' ends, 0 to 1.
    pub port_use: f64,
    /// Packets refused per second.
    pub refused: f64,
}

/// A row of the pods.
#[derive(Clone, PartialEq, Debug)]
pub struct PodRow {
    /// Address.
    pub pod: Ip4,
    /// Its flows, of those that are followed.
    pub flows: u64,
    /// Their traffic.
    pub rates: Rates,
}

/// A row of the flows.
#[derive(Clone, PartialEq, Debug)]
pub struct FlowRow {
    /// Which.
    pub id: FlowId,
    /// What is known of it.
    pub flow: Flow,
    /// Its traffic.
    pub rates: Rates,
}

/// A row of the drops.
#[derive(Clone, PartialEq, Debug)]
pub struct DropRow {
    /// Vendor, or `none`.
    pub vendor: String,
    /// The outcome's name.
    pub reason: &'static str,
    /// Packets per second.
    pub rate: f64,
    /// Packets since the pins were made.
    pub total: u64,
}

/// The last two samples, and what was before.
#[derive(Debug)]
pub struct Model {
    before: Option<Sample>,
    /// The last.
    pub current: Sample,
    history: BTreeMap<u8, Series>,
}

impl Model {
    /// Without rates yet.
    pub const fn new(first: Sample) -> Self {
        Self { before: None, current: first, history: BTreeMap::new() }
    }

    /// Takes a later sample.
    pub fn push(&mut self, sample: Sample) {
        self.before = Some(std::mem::replace(&mut self.current, sample));
        let slots: Vec<u8> = self.current.vendors.iter().map(|vendor| vendor.slot).collect();
        self.history.retain(|slot, _| *slot == 0 || slots.contains(slot));
        for slot in std::iter::once(0).chain(slots) {
            let (rates, refused) = (self.vendor_rates(slot), self.refused(slot));
            self.history.entry(slot).or_default().push(rates.outbound.bits, rates.inbound.bits, refused);
        }
    }

    /// Seconds between the samples; `None` if there is one only.
    fn seconds(&self) -> Option<f64> {
        let before = self.before.as_ref()?;
        Some(self.current.at.saturating_duration_since(before.at).as_secs_f64().max(0.001))
    }

    fn vendor_rates(&self, slot: u8) -> Rates {
        let find = |sample: &Sample| {
            sample.vendors.iter().find(|vendor| vendor.slot == slot).map(|vendor| vendor.traffic)
        };
        let (Some(before), Some(seconds)) = (&self.before, self.seconds()) else { return Rates::default() };
        let (Some(now), Some(then)) = (find(&self.current), find(before)) else { return Rates::default() };
        Rates::of(now.since(then), seconds)
    }

    fn drop_rate(&self, slot: u8, reason: &'static str, now: u64) -> f64 {
        let (Some(before), Some(seconds)) = (&self.before, self.seconds()) else { return 0.0 };
        let then = before.drops.get(&(slot, reason)).copied().unwrap_or(0);
        // Less than before: counted anew.
        now.checked_sub(then).unwrap_or(now) as f64 / seconds
    }

    fn refused(&self, slot: u8) -> f64 {
        let drops = self.current.drops.iter().filter(|((of, _), _)| *of == slot);
        drops.map(|((of, reason), total)| self.drop_rate(*of, reason, *total)).sum()
    }

    /// The vendors.
    pub fn vendors(&self, ui: &Ui) -> Vec<VendorRow> {
        let mut rows: Vec<VendorRow> = self
            .current
            .vendors
            .iter()
            .map(|vendor| VendorRow {
                slot: vendor.slot,
                name: vendor.name.clone(),
                rates: self.vendor_rates(vendor.slot),
                flows: self.current.flows.get(&vendor.slot).copied().unwrap_or(0),
                port_use: self.port_use(vendor.slot, vendor.ports),
                refused: self.refused(vendor.slot),
            })
            .collect();
        rows.sort_by(|a, b| ui.order((&a.rates, &b.rates), || b.flows.cmp(&a.flows), || a.name.cmp(&b.name)));
        rows
    }

    fn port_use(&self, slot: u8, ports: u32) -> f64 {
        let pools = self.current.ports.iter().filter(|found| found.pool.0 == slot);
        pools.map(|found| found.ratio(ports)).fold(0.0, f64::max)
    }

    /// The flows that are followed, wanted and in scope, with their traffic.
    fn wanted<'a>(&'a self, ui: &'a Ui) -> impl Iterator<Item = FlowRow> + 'a {
        let (before, seconds) = (self.before.as_ref(), self.seconds());
        let names: HashMap<u8, &str> =
            self.current.vendors.iter().map(|vendor| (vendor.slot, vendor.name.as_str())).collect();
        self.current.followed.iter().filter_map(move |(id, flow)| {
            let scope = &ui.scope;
            if scope.vendor.is_some_and(|slot| slot != flow.vendor)
                || scope.pod.is_some_and(|pod| pod != id.inside.address)
                || !wants(&ui.filter, id, flow, names.get(&flow.vendor).copied().unwrap_or_default())
            {
                return None;
            }
            let came = before.zip(seconds).map_or_else(Rates::default, |(before, seconds)| {
                match before.followed.get(id) {
                    Some(then) => Rates::of(flow.traffic.since(then.traffic), seconds),
                    None if flow.created.is_after(before.now) => Rates::of(flow.traffic, seconds),
                    // Older than the last look, which had no room for it: nobody knows when its packets came.
                    None => Rates::default(),
                }
            });
            Some(FlowRow { id: *id, flow: *flow, rates: came })
        })
    }

    /// The pods.
    pub fn pods(&self, ui: &Ui) -> Vec<PodRow> {
        let mut pods: HashMap<Ip4, PodRow> = HashMap::new();
        for row in self.wanted(ui) {
            let pod = row.id.inside.address;
            let sum = pods.entry(pod).or_insert(PodRow { pod, flows: 0, rates: Rates::default() });
            sum.flows += 1;
            sum.rates.add(&row.rates);
        }
        let mut rows: Vec<PodRow> = pods.into_values().collect();
        rows.sort_by(|a, b| ui.order((&a.rates, &b.rates), || b.flows.cmp(&a.flows), || a.pod.cmp(&b.pod)));
        rows
    }

    /// The first `most` of the flows, and how many there are.
    pub fn flows(&self, ui: &Ui, most: usize) -> (Vec<FlowRow>, usize) {
        let mut rows: Vec<FlowRow> = self.wanted(ui).collect();
        let count = rows.len();
        let order = |a: &FlowRow, b: &FlowRow| {
            ui.order((&a.rates, &b.rates), || age(&b.flow, self).cmp(&age(&a.flow, self)), || a.id.cmp(&b.id))
        };
        if most < count {
            rows.select_nth_unstable_by(most, order);
            rows.truncate(most);
        }
        rows.sort_by(order);
        (rows, count)
    }

    /// Why packets were dropped: what comes fastest first.
    pub fn drops(&self, ui: &Ui) -> Vec<DropRow> {
        let mut rows: Vec<DropRow> = self
            .current
            .drops
            .iter()
            .filter(|((slot, _), _)| ui.scope.vendor.is_none_or(|vendor| vendor == *slot))
            .map(|((slot, reason), total)| DropRow {
                vendor: self.current.name(*slot),
                reason,
                rate: self.drop_rate(*slot, reason, *total),
                total: *total,
            })
            .collect();
        rows.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)));
        rows
    }

    /// The last minute of a vendor, or of all and of what no vendor claims.
    pub fn series(&self, vendor: Option<u8>) -> Series {
        let mut sum = Series::default();
        for (_, series) in
            self.history.iter().filter(|(slot, _)| vendor.is_none_or(|vendor| vendor == **slot))
        {
            for (sum, values) in [
                (&mut sum.outbound, &series.outbound),
                (&mut sum.inbound, &series.inbound),
                (&mut sum.refused, &series.refused),
            ] {
                // A vendor that came later has fewer: the newest stand below each other.
                let longer = values.len().saturating_sub(sum.len());
                sum.splice(0..0, std::iter::repeat_n(0.0, longer));
                let offset = sum.len() - values.len();
                values.iter().enumerate().for_each(|(at, value)| sum[offset + at] += value);
            }
        }
        sum
    }
}

/// Seconds since a flow was made.
pub fn age(flow: &Flow, model: &Model) -> u32 {
    (model.current.now.seconds.wrapping_sub(flow.created.seconds) as i32).max(0) as u32
}

impl Ui {
    /// The order of two rows with these rates: what has most comes first, and by `name` those that are equal.
    fn order(
        &self,
        (a, b): (&Rates, &Rates),
        flows: impl FnOnce() -> Ordering,
        name: impl FnOnce() -> Ordering,
    ) -> Ordering {
        let by = match self.sort {
            Sort::Bits => b.bits().total_cmp(&a.bits()),
            Sort::Packets => b.packets().total_cmp(&a.packets()),
            Sort::Flows => flows(),
            Sort::Name => Ordering::Equal,
        };
        let order = by.then_with(name);
        if self.reversed { order.reverse() } else { order }
    }
}

/// Whether a flow holds the text.
fn wants(filter: &str, id: &FlowId, flow: &Flow, vendor: &str) -> bool {
    if filter.is_empty() {
        return true;
    }
    let end = |end: &crate::datapath::flows::Endpoint| format!("{}:{}", end.address, end.port.number);
    vendor.contains(filter)
        || flow.state.contains(filter)
        || protocol_name(id.protocol) == filter
        || [&id.inside, &id.remote, &flow.egress].into_iter().any(|place| end(place).contains(filter))
}
