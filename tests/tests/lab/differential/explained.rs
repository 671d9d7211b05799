//! Why a case may end otherwise than with nftables: case, row of COMPLIANCE.md, reason.

const UNTRANSLATED: &str =
    "conntrack finds it invalid, and what it does not track leaves with the pod's own source";
const LOCAL: &str = "the egress address is the instance's own, and its stack answers what nobody asked for";

/// Every difference that is meant.
pub const EXPLAINED: &[(&str, &str, &str)] = &[
    ("UDP: from another port of the server", "5382-REQ-4a", LOCAL),
    ("UDP: unsolicited", "5382-REQ-4a", LOCAL),
    ("TCP: an unsolicited SYN", "5382-REQ-4a", LOCAL),
    ("echo: from the vendor to the egress address", "5382-REQ-4a", LOCAL),
    (
        "UDP: from a low port",
        "4787-REQ-3a",
        "ports below 1024 are the instance's own; netfilter keeps them low",
    ),
    ("UDP: from port 0", "10.5-3", "mapped as any other port; netfilter keeps 0 or a low one"),
    ("UDP: to port 0", "10.5-3", "nothing can listen there: dropped"),
    ("parts in reverse", "4787-REQ-14", "parts go on as they are, not put together"),
    ("parts of the answer in another order", "4787-REQ-14", "as above"),
    (
        "TCP: 6 a reset out of window",
        "7857-2.2",
        "every reset that matches is forwarded; conntrack drops or ignores it",
    ),
    ("TCP: FIN without a connection", "5382 sec. 5", UNTRANSLATED),
    ("TCP: RST without a connection", "5382 sec. 5", UNTRANSLATED),
    ("TCP: SYN-ACK without a connection", "5382 sec. 5", UNTRANSLATED),
    (
        "TCP: no flags at all",
        "5382 sec. 5",
        "picked up like data; conntrack lets it go with the pod's own source",
    ),
    ("TCP: a wrong checksum", "10.1-1", "translated by difference, and as wrong as before"),
    ("ICMP: information request", "5508-REQ-10c", "obsolete (RFC 6918): dropped"),
    ("ICMP: address mask request", "5508-REQ-10b", "dropped"),
    ("ICMP: router solicitation", "5508-REQ-10b", UNTRANSLATED),
    ("ICMP: type 40", "5508-REQ-11", UNTRANSLATED),
    ("ICMP: an echo reply to nobody", "5508-REQ-1", UNTRANSLATED),
    ("error: source quench", "5508-REQ-10c", "deprecated (RFC 6633): dropped; conntrack translates it"),
    ("error: from the pod about no flow", "5508-REQ-5", UNTRANSLATED),
    ("options: record route", "10.5-2", "it would carry inside addresses out: dropped"),
    ("options: timestamp", "10.5-2", "as above"),
    ("a UDP length beyond the packet", "1812-5.2.2", UNTRANSLATED),
    ("TCP cut short", "1812-5.2.2", UNTRANSLATED),
    ("UDP cut short", "1812-5.2.2", UNTRANSLATED),
    ("protocol: SCTP", "6888-REQ-1", "only TCP, UDP and ICMP queries leave (RFC 3022 section 2.2)"),
    ("protocol: ESP", "6888-REQ-1", "as above"),
    ("protocol: 253", "6888-REQ-1", "as above"),
    ("timer: UDP, not answered", "4787-REQ-5", "never under 120 s, answered or not"),
    ("timer: UDP, answered", "4787-REQ-5c", "300 s by default"),
    ("timer: ICMP query", "5508-REQ-2, 2a", "60 s or more"),
    ("timer: TCP, SYN sent", "5382-REQ-5 (transitory)", "240 s"),
    ("timer: TCP, SYN received", "5382-REQ-5 (transitory)", "240 s"),
    ("timer: TCP, established", "5382-REQ-5 (established)", "7440 s suffices; netfilter's five days do too"),
    ("timer: TCP, half closed by the pod", "11-13", "half-closed is open"),
    ("timer: TCP, half closed by the vendor", "11-13", "half-closed is open"),
    ("timer: TCP, last acknowledgement", "5382-REQ-5 (transitory)", "240 s"),
    ("timer: TCP, time-wait", "5382-REQ-5 (transitory)", "240 s"),
    ("timer: TCP, reset", "7857-2.2", "240 s"),
];
