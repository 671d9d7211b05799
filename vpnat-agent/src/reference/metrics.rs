//! The metrics.

use crate::metrics::catalog::{ALL, Kind};

/// What operators of a NAT gateway look for, and where it is here.
const NAT_GATEWAY: [(&str, &str); 12] = [
    ("ActiveConnectionCount", "`sum(vpnat_flows)`"),
    ("ConnectionAttemptCount", "`vpnat_flows_attempted_total`"),
    ("ConnectionEstablishedCount", "`vpnat_flows_established_total`"),
    ("ErrorPortAllocation", "`vpnat_port_allocation_errors_total`"),
    ("IdleTimeoutCount", "`vpnat_flows_ended_total{reason=\"idle\"}`"),
    ("PacketsDropCount", "`vpnat_hook_packets_total{fate=\"dropped\"}`"),
    ("BytesInFromSource, BytesOutToDestination", "`vpnat_bytes_total{direction=\"outbound\"}`"),
    ("BytesInFromDestination, BytesOutToSource", "`vpnat_bytes_total{direction=\"inbound\"}`"),
    ("PacketsInFromSource, PacketsOutToDestination", "`vpnat_packets_total{direction=\"outbound\"}`"),
    ("PacketsInFromDestination, PacketsOutToSource", "`vpnat_packets_total{direction=\"inbound\"}`"),
    ("PeakPacketsPerSecond", "`max_over_time(rate(vpnat_packets_total[1m])[1h:1m])`"),
    ("PeakBytesPerSecond", "`max_over_time(rate(vpnat_bytes_total[1m])[1h:1m])`"),
];

pub fn page() -> String {
    let mut text = super::heading(
        "Metrics",
        "Served at `http://127.0.0.1:9477/metrics` (`[agent] metrics`), as OpenMetrics for those who ask for it and as Prometheus text\n\
         otherwise. By vendor, direction and reason, never by flow: a scrape costs the same with a million flows as with none.\n\
         Counters about packets and flows are the datapath's and go on through restarts of the agent.",
    );
    text += "| metric | type | labels | meaning |\n|---|---|---|---|\n";
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        text += &format!("| `{}` | {kind} | {} | {} |\n", metric.full_name(), labels.join(", "), metric.help);
    }
    text += "\nThe values of `hook`, `fate` and `outcome` are in [outcomes.md](outcomes.md). Allowances are exported where the driver has them (ENA).\n\n\
             ## For those who know the cloud's NAT gateway\n\n| there | here |\n|---|---|\n";
    for (theirs, ours) in NAT_GATEWAY {
        text += &format!("| {theirs} | {ours} |\n");
    }
    text
}
