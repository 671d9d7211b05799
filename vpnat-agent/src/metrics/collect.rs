//! The metrics themselves.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use vpnat_common::layout::outcome::{Count, Fate, Hook, Outcome};

use super::Shared;
use crate::datapath::flows::protocol_name;
use crate::datapath::sweep;

/// The label of packets that no vendor claims.
const NOBODY: &str = "none";

impl Collector for Shared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        gauge(&mut encoder, "build_info", "Version of the running agent", |family| {
            family(&[("version", version)], 1)
        })?;
        let help = "1 if every hook is attached and the maps hold the configuration";
        single(&mut encoder, "ready", help, &ConstGauge::new(i64::from(self.is_ready())))?;
        let hooks = self.hooks();
        gauge(&mut encoder, "hook_attached", "Hooks that are attached, by device", |family| {
            for (device, hook, program) in &hooks {
                family(&[("device", device), ("hook", hook), ("program", program)], 1)?;
            }
            Ok(())
        })?;
        let vendors = self.vendors();
        self.encode_counters(&mut encoder, &vendors)?;
        self.encode_flows(&mut encoder, &vendors)
    }
}

impl Shared {
    /// Slots and names, the first for nobody's packets.
    fn vendors(&self) -> Vec<(u8, String)> {
        let mut vendors = vec![(0, NOBODY.to_owned())];
        match self.0.maps.vendors() {
            Ok(found) => vendors.extend(found.into_iter().map(|vendor| (vendor.slot, vendor.name))),
            Err(error) => log::warn!("metrics are incomplete: {error}"),
        }
        vendors
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>, vendors: &[(u8, String)]) -> fmt::Result {
        let mut counts: Vec<(&str, Hook, Outcome, Count)> = Vec::new();
        for (slot, name) in vendors {
            for hook in Hook::ALL {
                for outcome in Outcome::ALL {
                    let count = self.0.maps.count(*slot, hook, *outcome).unwrap_or_default();
                    counts.push((name, hook, *outcome, count));
                }
            }
        }

        // Translated packets by direction, summed over the hooks: each packet is translated at one of them.
        let directions = [("outbound", Outcome::Outbound), ("inbound", Outcome::Inbound)];
        for (name, help, value) in [
            ("packets", "Packets translated", (|count| count.packets) as fn(&Count) -> u64),
            ("bytes", "Bytes translated, from the IP header on", |count| count.bytes),
        ] {
            counter(encoder, name, help, |family| {
                for (_, vendor) in vendors.iter().filter(|(slot, _)| *slot != 0) {
                    for (direction, outcome) in directions {
                        let sum = counts
                            .iter()
                            .filter(|(name, _, counted, _)| *name == vendor && *counted == outcome)
                            .map(|(_, _, _, count)| value(count))
                            .sum();
                        family(&[("vendor", vendor), ("direction", direction)], sum)?;
                    }
                }
                Ok(())
            })?;
        }

        let help = "Packets that a hook saw, by how they ended: received = translated + passed + dropped";
        counter(encoder, "hook_packets", help, |family| {
            for (vendor, hook, outcome, count) in &counts {
                family(
                    &[
                        ("hook", hook.name()),
                        ("fate", fate_name(outcome.fate())),
                        ("outcome", outcome.name()),
                        ("vendor", vendor),
                    ],
                    count.packets,
                )?;
            }
            Ok(())
        })?;

        let answers = self.0.maps.answers().unwrap_or_default();
        let help = "ICMP answers to refused packets: sent, or suppressed by the rate limit";
        counter(encoder, "refusal_answers", help, |family| {
            family(&[("state", "sent")], answers.sent)?;
            family(&[("state", "suppressed")], answers.suppressed)
        })
    }

    fn encode_flows(&self, encoder: &mut DescriptorEncoder<'_>, vendors: &[(u8, String)]) -> fmt::Result {
        let report = sweep::lock(&self.0.report).clone();
        gauge(encoder, "flows", "Flows, as of the last sweep", |family| {
            for ((slot, protocol, state), flows) in &report.flows {
                let vendor = vendors.iter().find(|(known, _)| known == slot).map_or(NOBODY, |(_, name)| name);
                let protocol = protocol_name(*protocol);
                family(&[("vendor", vendor), ("protocol", &protocol), ("state", state)], *flows)?;
            }
            Ok(())
        })?;
        for (name, help, value) in [
            (
                "flow_table_entries",
                "Entries in the flow table, two per flow, as of the last sweep",
                report.entries,
            ),
            ("flow_table_capacity", "Entries that the flow table can hold", report.capacity),
        ] {
            single(encoder, name, help, &ConstGauge::new(value as i64))?;
        }
        for (name, help, value) in [
            ("sweeps", "Walks over the flow table", report.cycles),
            ("sweep_failures", "Walks over the flow table that failed", report.failures),
            ("swept_entries", "Entries removed by sweeping", report.removed),
        ] {
            single(encoder, name, help, &ConstCounter::new(value))?;
        }
        let help = "Processor time of the last walk over the flow table";
        single(encoder, "sweep_duration_seconds", help, &ConstGauge::new(report.busy.as_secs_f64()))
    }
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

/// Writes one sample with its labels.
type Sample<'a> = dyn FnMut(&[(&str, &str)], u64) -> fmt::Result + 'a;

/// A metric without labels.
fn single(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &impl EncodeMetric,
) -> fmt::Result {
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl FnOnce(&mut Sample<'_>) -> fmt::Result,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    samples(&mut |labels, value| encode(&mut metric, labels, &ConstGauge::new(value as i64)))
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl FnOnce(&mut Sample<'_>) -> fmt::Result,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    samples(&mut |labels, value| encode(&mut metric, labels, &ConstCounter::new(value)))
}

fn encode(metric: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: &impl EncodeMetric) -> fmt::Result {
    value.encode(metric.encode_family(&labels)?)
}
