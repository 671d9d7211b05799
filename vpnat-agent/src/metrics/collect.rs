//! Reading the metrics: from the maps, the last sweep and the machine. Nothing here walks the flow table, so a scrape
//! costs the same with a million flows as with none.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::sync::atomic::{AtomicU64, Ordering};
use vpnat_common::layout::LAYOUT_VERSION;
use vpnat_common::layout::event::Tally;
use vpnat_common::layout::outcome::{Count, Fate, Hook, Outcome};

use super::catalog::{self, Kind, Metric};
use super::machine::{self, Allowance};
use super::{NOBODY, Shared};
use crate::datapath::flows::protocol_name;
use crate::datapath::maps::VendorSlot;
use crate::datapath::sweep::{self, Report};

impl Collector for Shared {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out { encoder };
        out.each(&catalog::BUILD_INFO, [([env!("CARGO_PKG_VERSION"), &LAYOUT_VERSION.to_string()], 1)])?;
        out.one(&catalog::READY, u64::from(self.is_ready()))?;
        let hooks = self.hooks();
        out.each(
            &catalog::HOOK_ATTACHED,
            hooks.iter().map(|(device, hook, program)| ([device.as_str(), hook, program], 1)),
        )?;
        out.one(&catalog::TRACING, u64::from(self.is_tracing()))?;
        let vendors = self.vendors();
        let counts = self.counts(&vendors);
        encode_packets(&mut out, &vendors, &counts)?;
        self.encode_answers(&mut out)?;
        self.encode_flows(&mut out, &vendors, &counts)?;
        let report = sweep::lock(&self.0.report).clone();
        encode_ports(&mut out, &vendors, &report)?;
        encode_table(&mut out, &report)?;
        self.encode_records(&mut out)?;
        self.encode_machine(&mut out)
    }
}

/// Packets by vendor slot and the numbers of hook and outcome.
type Counts = BTreeMap<(u8, u32, u32), Count>;

/// The outcome's packets at all hooks.
fn at_all_hooks(counts: &Counts, slot: u8, outcome: Outcome) -> Count {
    let mut sum = Count::default();
    for hook in Hook::ALL {
        if let Some(count) = counts.get(&(slot, hook as u32, outcome as u32)) {
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
    }
    sum
}

impl Shared {
    fn vendors(&self) -> Vec<VendorSlot> {
        self.0.maps.vendors().unwrap_or_else(|error| {
            log::warn!("metrics are incomplete: {error}");
            Vec::new()
        })
    }

    fn counts(&self, vendors: &[VendorSlot]) -> Counts {
        let mut counts = Counts::new();
        for slot in std::iter::once(0).chain(vendors.iter().map(|vendor| vendor.slot)) {
            for hook in Hook::ALL {
                for outcome in Outcome::ALL {
                    let count = self.0.maps.count(slot, hook, *outcome).unwrap_or_default();
                    counts.insert((slot, hook as u32, *outcome as u32), count);
                }
            }
        }
        counts
    }

    fn tally(&self, slot: u8, tally: Tally) -> u64 {
        self.0.maps.tally(slot, tally).unwrap_or_default()
    }

    /// NAT gateway's figures.
    fn encode_flows(&self, out: &mut Out<'_>, vendors: &[VendorSlot], counts: &Counts) -> fmt::Result {
        const OPENED: [(&str, Tally); 3] =
            [("tcp", Tally::OpenedTcp), ("udp", Tally::OpenedUdp), ("icmp", Tally::OpenedIcmp)];
        let refused = |slot, outcome| at_all_hooks(counts, slot, outcome).packets;
        let opened = |slot| OPENED.iter().map(|(_, tally)| self.tally(slot, *tally)).sum::<u64>();
        let by_vendor = |value: &dyn Fn(u8) -> u64| -> Vec<([&str; 1], u64)> {
            vendors.iter().map(|vendor| ([vendor.name.as_str()], value(vendor.slot))).collect()
        };
        out.each(
            &catalog::FLOWS_ATTEMPTED,
            by_vendor(&|slot| {
                opened(slot) + refused(slot, Outcome::PortsExhausted) + refused(slot, Outcome::TableFull)
            }),
        )?;
        out.each(
            &catalog::FLOWS_OPENED,
            vendors.iter().flat_map(|vendor| {
                OPENED.map(|(name, tally)| ([vendor.name.as_str(), name], self.tally(vendor.slot, tally)))
            }),
        )?;
        out.each(&catalog::FLOWS_ESTABLISHED, by_vendor(&|slot| self.tally(slot, Tally::Established)))?;
        let ends = || Tally::ALL.iter().filter_map(|tally| Some((*tally, tally.reason()?)));
        out.each(
            &catalog::FLOWS_ENDED,
            vendors.iter().flat_map(|vendor| {
                ends().map(|(tally, reason)| ([vendor.name.as_str(), reason], self.tally(vendor.slot, tally)))
            }),
        )?;
        let errors = by_vendor(&|slot| refused(slot, Outcome::PortsExhausted));
        out.each(&catalog::PORT_ALLOCATION_ERRORS, errors)?;
        out.each(&catalog::TABLE_FULL_ERRORS, by_vendor(&|slot| refused(slot, Outcome::TableFull)))
    }

    fn encode_answers(&self, out: &mut Out<'_>) -> fmt::Result {
        let answers = self.0.maps.answers().unwrap_or_default();
        out.each(&catalog::REFUSAL_ANSWERS, [(["sent"], answers.sent), (["suppressed"], answers.suppressed)])
    }

    fn encode_records(&self, out: &mut Out<'_>) -> fmt::Result {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let records = &self.0.records;
        out.one(&catalog::EVENTS_LOST, self.tally(0, Tally::EventsLost))?;
        out.one(&catalog::EVENTS_UNREADABLE, read(&records.unreadable))?;
        let both = |lines, sent| [(["json"], read(lines)), (["ipfix"], read(sent))];
        out.each(&catalog::RECORDS, both(&records.written, &records.sent))?;
        out.each(&catalog::RECORDS_LOST, both(&records.unwritten, &records.unsent))
    }

    fn encode_machine(&self, out: &mut Out<'_>) -> fmt::Result {
        let mut devices: Vec<String> = self.hooks().into_iter().map(|(device, ..)| device).collect();
        devices.dedup();
        let said = self.0.drivers.allowances(&devices);
        out.each(
            &catalog::ALLOWANCE_EXCEEDED,
            said.iter().filter_map(|(device, allowance)| match allowance {
                Allowance::Exceeded(name, value) => Some(([device.as_str(), name], *value)),
                Allowance::ConntrackAvailable(_) => None,
            }),
        )?;
        out.each(
            &catalog::CONNTRACK_AVAILABLE,
            said.iter().filter_map(|(device, allowance)| match allowance {
                Allowance::ConntrackAvailable(value) => Some(([device.as_str()], *value)),
                Allowance::Exceeded(..) => None,
            }),
        )?;
        out.real(&catalog::AGENT_CPU, machine::cpu_seconds())?;
        out.one(&catalog::AGENT_MEMORY, machine::resident_bytes())
    }
}

fn encode_packets(out: &mut Out<'_>, vendors: &[VendorSlot], counts: &Counts) -> fmt::Result {
    // Summed over the hooks: each packet is translated at one of them.
    let directions = [("outbound", Outcome::Outbound), ("inbound", Outcome::Inbound)];
    for (metric, value) in [
        (&catalog::PACKETS, (|count| count.packets) as fn(&Count) -> u64),
        (&catalog::BYTES, |count| count.bytes),
    ] {
        out.each(
            metric,
            vendors.iter().flat_map(|vendor| {
                directions.map(|(direction, outcome)| {
                    let sum = at_all_hooks(counts, vendor.slot, outcome);
                    ([vendor.name.as_str(), direction], value(&sum))
                })
            }),
        )?;
    }
    let names: BTreeMap<u8, &str> = std::iter::once((0, NOBODY))
        .chain(vendors.iter().map(|vendor| (vendor.slot, vendor.name.as_str())))
        .collect();
    out.each(
        &catalog::HOOK_PACKETS,
        counts.iter().filter_map(|((slot, hook, outcome), count)| {
            let hook = Hook::ALL.into_iter().find(|known| *known as u32 == *hook)?;
            let outcome = Outcome::ALL.iter().find(|known| **known as u32 == *outcome)?;
            let fate = fate_name(outcome.fate());
            Some(([hook.name(), fate, outcome.name(), names.get(slot)?], count.packets))
        }),
    )
}

fn name_of(vendors: &[VendorSlot], slot: u8) -> &str {
    vendors.iter().find(|vendor| vendor.slot == slot).map_or(NOBODY, |vendor| &vendor.name)
}

fn encode_ports(out: &mut Out<'_>, vendors: &[VendorSlot], report: &Report) -> fmt::Result {
    let flows: Vec<_> = report
        .flows
        .iter()
        .map(|((slot, protocol, state), flows)| {
            (name_of(vendors, *slot), protocol_name(*protocol), *state, *flows)
        })
        .collect();
    out.each(
        &catalog::FLOWS,
        flows.iter().map(|(vendor, protocol, state, flows)| ([*vendor, protocol, state], *flows)),
    )?;
    out.each(
        &catalog::PORTS_CONFIGURED,
        vendors.iter().map(|vendor| ([vendor.name.as_str()], vendor.ports().into())),
    )?;
    let pools: Vec<_> = report
        .ports
        .iter()
        .filter_map(|found| {
            let (slot, egress, protocol) = found.pool;
            let vendor = vendors.iter().find(|vendor| vendor.slot == slot)?;
            let labels = [vendor.name.clone(), egress.to_string(), protocol_name(protocol)];
            Some((labels, found, found.ratio(vendor.ports())))
        })
        .collect();
    out.each(
        &catalog::PORTS_USED,
        pools.iter().map(|(labels, found, _)| (labels.each_ref().map(String::as_str), found.ports.into())),
    )?;
    out.each_real(
        &catalog::PORT_USE_RATIO,
        pools.iter().map(|(labels, _, ratio)| (labels.each_ref().map(String::as_str), *ratio)),
    )?;
    let busiest: Vec<_> = pools
        .iter()
        .map(|(labels, found, _)| {
            (labels, format!("{}:{}", found.busiest.address, found.busiest.port.number), found.busiest_ports)
        })
        .collect();
    out.each(
        &catalog::BUSIEST_DESTINATION_PORTS,
        busiest.iter().map(|([vendor, egress, protocol], destination, ports)| {
            ([vendor.as_str(), egress, protocol, destination], u64::from(*ports))
        }),
    )
}

fn encode_table(out: &mut Out<'_>, report: &Report) -> fmt::Result {
    out.one(&catalog::TABLE_ENTRIES, report.entries)?;
    out.one(&catalog::TABLE_CAPACITY, report.capacity)?;
    out.one(&catalog::SWEEPS, report.cycles)?;
    out.one(&catalog::SWEEP_FAILURES, report.failures)?;
    out.one(&catalog::SWEPT_ENTRIES, report.removed)?;
    out.real(&catalog::SWEEP_DURATION, report.busy.as_secs_f64())
}

/// The label value in metrics and JSON.
pub fn fate_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Translated => "translated",
        Fate::Passed => "passed",
        Fate::Dropped => "dropped",
        Fate::Held => "held",
    }
}

/// Writes metrics as the catalog has them.
struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Out<'_> {
    fn family(&mut self, metric: &Metric) -> Result<MetricEncoder<'_>, fmt::Error> {
        let kind = match metric.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
        };
        self.encoder.encode_descriptor(metric.name, metric.help, None, kind)
    }

    /// A metric without labels.
    fn one(&mut self, metric: &Metric, value: u64) -> fmt::Result {
        let family = self.family(metric)?;
        match metric.kind {
            Kind::Gauge => ConstGauge::new(value as i64).encode(family),
            Kind::Counter => ConstCounter::new(value).encode(family),
        }
    }

    /// The same, not whole.
    fn real(&mut self, metric: &Metric, value: f64) -> fmt::Result {
        let family = self.family(metric)?;
        match metric.kind {
            Kind::Gauge => ConstGauge::new(value).encode(family),
            Kind::Counter => ConstCounter::new(value).encode(family),
        }
    }

    /// A metric's samples: the values of its labels, in the catalog's order, and what they have.
    fn each<'v, const N: usize>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = ([&'v str; N], u64)>,
    ) -> fmt::Result {
        let mut family = self.family(metric)?;
        for (values, value) in samples {
            let labels = labels(metric, &values);
            match metric.kind {
                Kind::Gauge => ConstGauge::new(value as i64).encode(family.encode_family(&labels)?)?,
                Kind::Counter => ConstCounter::new(value).encode(family.encode_family(&labels)?)?,
            }
        }
        Ok(())
    }

    /// The same, not whole; gauges only.
    fn each_real<'v, const N: usize>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = ([&'v str; N], f64)>,
    ) -> fmt::Result {
        let mut family = self.family(metric)?;
        for (values, value) in samples {
            let labels = labels(metric, &values);
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn labels<'v, const N: usize>(metric: &Metric, values: &[&'v str; N]) -> Vec<(&'static str, &'v str)> {
    debug_assert_eq!(metric.labels.len(), N, "{}", metric.name);
    metric.labels.iter().copied().zip(values.iter().copied()).collect()
}
