//! Every metric: its name, kind, labels and meaning. What is exported, documented, drawn and alerted on is checked
//! against this list.

/// Whether a metric may go down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It may.
    Gauge,
    /// It only grows, until the pins are removed (counts of the datapath) or the agent ends (counts of its own). Its name
    /// ends in `_total`.
    Counter,
}

/// A metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Without the prefix `vpnat_` and a counter's `_total`.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// One sentence, without a full stop at its end.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
}

impl Metric {
    /// The name that a query uses.
    pub fn full_name(&self) -> String {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("vpnat_{}{suffix}", self.name)
    }
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, help: $help, labels: &[$($label),*] };
        )+

        /// All of them, in the order in which they are exported.
        pub const ALL: &[&Metric] = &[$(&$constant),+];
    };
}

metrics! {
    BUILD_INFO: Gauge "build_info" ["version", "layout"]
        "Always 1; version of the running agent and of the layout of its maps";
    READY: Gauge "ready" []
        "1 if every hook is attached and the maps hold the configuration";
    HOOK_ATTACHED: Gauge "hook_attached" ["device", "hook", "program"]
        "Always 1; hooks that are attached";
    TRACING: Gauge "tracing" []
        "1 while packets are traced (vpnat trace): every packet then costs somewhat more";
    PACKETS: Counter "packets" ["vendor", "direction"]
        "Packets translated";
    BYTES: Counter "bytes" ["vendor", "direction"]
        "Bytes translated, from the IP header on";
    HOOK_PACKETS: Counter "hook_packets" ["hook", "fate", "outcome", "vendor"]
        "Packets that a hook saw, by how they ended: received = translated + passed + dropped";
    REFUSAL_ANSWERS: Counter "refusal_answers" ["state"]
        "ICMP answers to refused packets: sent, or suppressed by the rate limit";
    FLOWS_ATTEMPTED: Counter "flows_attempted" ["vendor"]
        "Flows that pods tried to open and that were allowed, made or not";
    FLOWS_OPENED: Counter "flows_opened" ["vendor", "protocol"]
        "Flows made";
    FLOWS_ESTABLISHED: Counter "flows_established" ["vendor"]
        "TCP connections whose handshake was completed";
    FLOWS_ENDED: Counter "flows_ended" ["vendor", "reason"]
        "Flows removed; reason idle: nothing came for the length of the timer";
    PORT_ALLOCATION_ERRORS: Counter "port_allocation_errors" ["vendor"]
        "Packets refused because every port towards their destination was taken";
    TABLE_FULL_ERRORS: Counter "table_full_errors" ["vendor"]
        "Packets refused because the flow table was full";
    FLOWS: Gauge "flows" ["vendor", "protocol", "state"]
        "Flows, as of the last sweep";
    PORTS_CONFIGURED: Gauge "ports_configured" ["vendor"]
        "Ports that each egress address has for each protocol and destination";
    PORTS_USED: Gauge "ports_used" ["vendor", "egress", "protocol"]
        "Different ports in use, as of the last sweep";
    PORT_USE_RATIO: Gauge "port_use_ratio" ["vendor", "egress", "protocol"]
        "Share of the configured ports that no new flow to the busiest destination can have, 0 to 1, as of the last sweep";
    BUSIEST_DESTINATION_PORTS: Gauge "busiest_destination_ports" ["vendor", "egress", "protocol", "destination"]
        "Ports in use towards the destination that uses most, as of the last sweep";
    TABLE_ENTRIES: Gauge "flow_table_entries" []
        "Entries in the flow table, two per flow, as of the last sweep";
    TABLE_CAPACITY: Gauge "flow_table_capacity" []
        "Entries that the flow table can hold";
    SWEEPS: Counter "sweeps" []
        "Walks over the flow table";
    SWEEP_FAILURES: Counter "sweep_failures" []
        "Walks over the flow table that failed";
    SWEPT_ENTRIES: Counter "swept_entries" []
        "Entries removed by sweeping";
    SWEEP_DURATION: Gauge "sweep_duration_seconds" []
        "Processor time of the last walk over the flow table";
    EVENTS_LOST: Counter "flow_events_lost" []
        "Flow events lost because nobody took them out of the buffer in time";
    EVENTS_UNREADABLE: Counter "flow_events_unreadable" []
        "Flow events that this agent does not understand";
    RECORDS: Counter "flow_log_records" ["to"]
        "Records of the flow log that were written or sent";
    RECORDS_LOST: Counter "flow_log_records_lost" ["to"]
        "Records of the flow log that could not be written or sent";
    ALLOWANCE_EXCEEDED: Counter "instance_allowance_exceeded" ["device", "allowance"]
        "Packets queued or dropped by the cloud because the instance used up this allowance, from ethtool -S";
    CONNTRACK_AVAILABLE: Gauge "instance_conntrack_allowance_available" ["device"]
        "Connections that the cloud's security groups can still track, from ethtool -S";
    AGENT_CPU: Counter "agent_cpu_seconds" []
        "Processor time that the agent has used";
    AGENT_MEMORY: Gauge "agent_resident_memory_bytes" []
        "Memory of the agent's process, without the kernel's maps";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every metric that `text` names.
    fn named(text: &str) -> impl Iterator<Item = &str> {
        let words = text.split(|c: char| c != '_' && !c.is_ascii_lowercase());
        words.filter(|word| word.starts_with("vpnat_"))
    }

    #[test]
    fn dashboard_and_alerts_name_what_there_is() {
        let known: Vec<String> = ALL.iter().map(|metric| metric.full_name()).collect();
        for (file, text) in [
            ("vpnat.json", include_str!("../../../packaging/grafana/vpnat.json")),
            ("vpnat-alerts.yml", include_str!("../../../packaging/prometheus/vpnat-alerts.yml")),
            ("vpnat-alerts.test.yml", include_str!("../../../packaging/prometheus/vpnat-alerts.test.yml")),
        ] {
            assert!(named(text).count() > 10, "{file}");
            for name in named(text) {
                assert!(
                    known.iter().any(|known| known == name),
                    "{file} names {name}, which is not exported"
                );
            }
        }
    }

    #[test]
    fn names_are_unique_and_in_the_fields_form() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in ALL {
            assert!(seen.insert(metric.name), "{}", metric.name);
            assert!(metric.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            assert!(!metric.name.ends_with("_total") && !metric.help.ends_with('.'), "{}", metric.name);
        }
    }
}
