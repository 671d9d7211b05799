//! How packets and flows can end.

use vpnat_common::layout::event::Tally;
use vpnat_common::layout::outcome::{Fate, Hook, Outcome};

use crate::metrics::fate_name;

pub fn page() -> String {
    let mut text = super::heading(
        "How packets and flows end",
        "Every packet that a hook sees ends in exactly one of these ways, and is counted there: in `vpnat_hook_packets_total`, by `hook`,\n\
         `fate`, `outcome` and `vendor`; the drops also in `vpnat status`.",
    );
    text += "| hook | where |\n|---|---|\n";
    for hook in Hook::ALL {
        let place = match hook {
            Hook::Xdp => "XDP ingress, the fast path",
            Hook::TcIngress => "TC ingress: restores replies, checks where pods' packets are routed",
            Hook::TcEgress => "TC egress of an outside device: translates or drops",
            Hook::TcGuard => "TC egress of every other device: nothing to a vendor leaves here",
        };
        text += &format!("| `{}` | {place} |\n", hook.name());
    }
    for fate in [Fate::Translated, Fate::Passed, Fate::Dropped] {
        text += &format!("\n## {}\n\n| outcome | meaning |\n|---|---|\n", fate_name(fate));
        for outcome in Outcome::ALL.iter().filter(|outcome| outcome.fate() == fate) {
            text += &format!("| `{}` | {} |\n", outcome.name(), outcome.describe().trim());
        }
    }
    text += "\n## Why flows end\n\nIn `vpnat_flows_ended_total` by `reason`, and in the flow log.\n\n| reason | meaning |\n|---|---|\n";
    for tally in Tally::ALL {
        if let Some(reason) = tally.reason() {
            text += &format!("| `{reason}` | {} |\n", tally.describe().trim());
        }
    }
    text
}
