//! What the kernel has counted of things that go wrong, for the messages of tests that fail: whether a packet was dropped, by whom,
//! or was only late.

use std::collections::BTreeMap;

use crate::netns::Namespace;

/// Parts of the names of counters that say so.
const AMISS: [&str; 12] = [
    "Retrans", "Drop", "Prune", "Lost", "DSACK", "Spurious", "Reorder", "Timeout", "Err", "Discard", "PAWS",
    "Skipped",
];

/// What the kernel counts of IP, ICMP, TCP and UDP in the calling thread's namespace, by its names (`TcpExt.TCPDSACKRecv`).
pub fn counted() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for file in ["snmp", "netstat"] {
        let text =
            std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("the kernel's counters");
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.chunks_exact(2) {
            let mut both = pair[0].split_whitespace().zip(pair[1].split_whitespace());
            let group = both.next().map_or("", |(group, _)| group.trim_end_matches(':'));
            // Some are -1 where there is no limit.
            all.extend(
                both.filter_map(|(name, value)| Some((format!("{group}.{name}"), value.parse().ok()?))),
            );
        }
    }
    all
}

/// Segments that were sent again in `senders`, less those that the kernels of `receivers` have received twice: not more than these
/// were lost on the way. Senders do not learn of each that came twice, where the report is overtaken by another or is late itself.
pub fn lost_between<'a>(
    senders: impl IntoIterator<Item = &'a Namespace>,
    receivers: impl IntoIterator<Item = &'a Namespace>,
) -> u64 {
    let count = |namespace: &Namespace, names: &[&str]| {
        let counted = namespace.enter(counted);
        names.iter().map(|name| counted.get(*name).copied().unwrap_or(0)).sum::<u64>()
    };
    let sent: u64 = senders.into_iter().map(|namespace| count(namespace, &["Tcp.RetransSegs"])).sum();
    let twice = ["TcpExt.TCPDSACKOldSent", "TcpExt.TCPDSACKOfoSent"];
    let received: u64 = receivers.into_iter().map(|namespace| count(namespace, &twice)).sum();
    sent.saturating_sub(received)
}

/// Packets that the devices of the calling thread's namespace have dropped, as they came and as they were to leave.
fn dropped() -> Vec<(String, u64, u64)> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("the devices' counters");
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let devices = lines.filter_map(|(name, counts)| {
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        Some((name.trim().to_owned(), *counts.get(3)?, *counts.get(11)?))
    });
    devices.filter(|(_, received, sent)| received + sent != 0).collect()
}

/// Packets for which the processors' backlogs had no room, since the machine was started: not of one namespace.
pub fn backlog_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = text.lines().filter_map(|line| line.split_whitespace().nth(1));
    dropped.filter_map(|count| u64::from_str_radix(count, 16).ok()).sum()
}

/// What is amiss in `namespace` since it was made; empty if nothing is.
pub fn amiss(namespace: &Namespace) -> String {
    let (counted, dropped) = namespace.enter(|| (counted(), dropped()));
    let counts =
        counted.iter().filter(|(name, count)| **count != 0 && AMISS.iter().any(|word| name.contains(word)));
    let mut words: Vec<String> = counts.map(|(name, count)| format!("{name} {count}")).collect();
    words.extend(
        dropped.iter().map(|(name, received, sent)| format!("{name} dropped {received} in, {sent} out")),
    );
    words.join(", ")
}
