//! What changes from one configuration to the next, in words, and what cannot change while the agent runs.

use std::fmt::{Debug, Display};

use super::{Config, Vendor};

/// A setting that only a new start can change.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{key} cannot change while vpnat runs ({from} to {to}): the configuration: {remedy}")]
pub struct Fixed {
    /// The key.
    pub key: &'static str,
    /// As it is.
    pub from: String,
    /// As it shall be.
    pub to: String,
    /// What to do.
    pub remedy: &'static str,
}

/// A new process takes over without losing a packet.
const RESTART: &str =
    "restart the agent (`systemctl restart vpnat`), which keeps every flow, or put the old value back";

/// Another pin directory is another datapath.
const DETACH: &str =
    "put the old value back, or stop the agent, run `vpnat detach` (which ends all flows) and start it again";

/// What `new` asks for that a running agent cannot do.
pub fn fixed(old: &Config, new: &Config) -> Vec<Fixed> {
    let mut all = Vec::new();
    let mut compare = |key, from: String, to: String, remedy| {
        if from != to {
            all.push(Fixed { key, from, to, remedy });
        }
    };
    let path = |path: &std::path::Path| path.display().to_string();
    compare("[agent] bpffs", path(&old.pin_root), path(&new.pin_root), DETACH);
    compare("[agent] run_dir", path(&old.run_dir), path(&new.run_dir), RESTART);
    compare("[agent] metrics", old.metrics.to_string(), new.metrics.to_string(), RESTART);
    let buffer = |config: &Config| (config.event_buffer() / 1024).to_string();
    compare("[flow_log] buffer_kib", buffer(old), buffer(new), RESTART);
    compare("[datapath] max_flows", old.max_flows.to_string(), new.max_flows.to_string(), RESTART);
    all
}

/// What changes, one line each, nothing left out.
pub fn diff(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    value(&mut lines, "[agent] enable_forwarding", &old.enable_forwarding, &new.enable_forwarding);
    value(&mut lines, "[agent] on_removal", &old.on_removal, &new.on_removal);
    list(&mut lines, "[datapath] inside", &old.inside, &new.inside);
    list(&mut lines, "[datapath] outside", &old.outside, &new.outside);
    value(&mut lines, "[datapath] xdp", &old.xdp, &new.xdp);
    value(&mut lines, "[datapath] redirect", &old.redirect, &new.redirect);
    value(&mut lines, "[datapath] refusal_answers", &old.refusal_answers, &new.refusal_answers);
    if old.flow_log != new.flow_log {
        let words = |config: &Config| config.flow_log.as_ref().map_or("none".into(), ToString::to_string);
        lines.push(format!("~ [flow_log]: {} becomes {}", words(old), words(new)));
    }
    for vendor in &old.vendors {
        if !new.vendors.iter().any(|other| other.name == vendor.name) {
            lines.push(format!("- vendor {}: {}", vendor.name, join(&vendor.cidrs)));
        }
    }
    for vendor in &new.vendors {
        match old.vendors.iter().find(|other| other.name == vendor.name) {
            Some(before) => of_vendor(&mut lines, before, vendor),
            None => lines.push(format!(
                "+ vendor {}: {} as {} from {}",
                vendor.name,
                join(&vendor.cidrs),
                join(&vendor.egress_ips),
                join(&vendor.allow_from)
            )),
        }
    }
    // A setting that is not named above must not change unseen.
    if lines.is_empty() && old != new {
        lines.push("~ settings without effect on packets".into());
    }
    lines
}

fn of_vendor(lines: &mut Vec<String>, old: &Vendor, new: &Vendor) {
    let key = |name: &str| format!("vendor {} {name}", new.name);
    let before = lines.len();
    list(lines, &key("cidrs"), &old.cidrs, &new.cidrs);
    list(lines, &key("exempt"), &old.exempt, &new.exempt);
    list(lines, &key("egress_ips"), &old.egress_ips, &new.egress_ips);
    list(lines, &key("allow_from"), &old.allow_from, &new.allow_from);
    value(lines, &key("ports"), &old.ports, &new.ports);
    value(lines, &key("tcp_pick_up"), &old.tcp_pick_up, &new.tcp_pick_up);
    value(lines, &key("mapping"), &old.mapping, &new.mapping);
    value(lines, &key("max_flows_per_source"), &old.max_flows_per_source, &new.max_flows_per_source);
    value(lines, &key("new_flows_per_source"), &old.new_flows_per_source, &new.new_flows_per_source);
    value(lines, &key("port_hold"), &old.port_hold, &new.port_hold);
    value(lines, &key("max_held_ports"), &old.max_held_ports, &new.max_held_ports);
    value(lines, &key("tcp_mss"), &old.mss, &new.mss);
    value(lines, &key("refuse"), &old.refuse, &new.refuse);
    value(lines, &key("timeouts"), &old.timeouts, &new.timeouts);
    if lines.len() == before && old != new {
        lines.push(format!("~ {}", key("settings")));
    }
}

fn value<T: PartialEq + Debug>(lines: &mut Vec<String>, key: &str, old: &T, new: &T) {
    if old != new {
        lines.push(format!("~ {key}: {old:?} becomes {new:?}"));
    }
}

fn list<T: PartialEq + Display>(lines: &mut Vec<String>, key: &str, old: &[T], new: &[T]) {
    let before = lines.len();
    for entry in old.iter().filter(|entry| !new.contains(entry)) {
        lines.push(format!("- {key}: {entry}"));
    }
    for entry in new.iter().filter(|entry| !old.contains(entry)) {
        lines.push(format!("+ {key}: {entry}"));
    }
    if lines.len() == before && old != new {
        lines.push(format!("~ {key}: another order, {}", join(new)));
    }
}

fn join<T: Display>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FlowLog, FlowLogTarget};

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let example = include_str!("../../vpnat.example.toml");
        let mut config = Config::parse(example, "x".as_ref()).unwrap();
        change(&mut config);
        config
    }

    #[test]
    fn nothing_changes_nothing_is_said() {
        assert_eq!(diff(&config(|_| {}), &config(|_| {})), Vec::<String>::new());
        assert!(fixed(&config(|_| {}), &config(|_| {})).is_empty());
    }

    #[test]
    fn every_change_has_a_line() {
        let old = config(|_| {});
        let new = config(|config| {
            config.outside.push("eth9".into());
            config.redirect = false;
            config.flow_log = Some(FlowLog {
                json: Some(FlowLogTarget::File("/var/log/flows".into())),
                max_bytes: 100_000_000,
                keep: 10,
                ipfix: Some("10.0.9.9:4739".parse().unwrap()),
                ipfix_domain: 7,
                buffer: 4 << 20,
            });
            config.vendors[0].allow_from = vec!["10.0.9.0/24".parse().unwrap()];
            config.vendors[0].tcp_pick_up = false;
            let mut other = config.vendors[0].clone();
            other.name = "vendor-z".into();
            config.vendors.push(other);
        });
        assert_eq!(
            diff(&old, &new),
            [
                "+ [datapath] outside: eth9",
                "~ [datapath] redirect: true becomes false",
                "~ [flow_log]: none becomes JSON to /var/log/flows (100 MB, 10 kept), IPFIX to 10.0.9.9:4739 (domain 7)",
                "- vendor vendor-a allow_from: 10.0.2.0/24",
                "+ vendor vendor-a allow_from: 10.0.9.0/24",
                "~ vendor vendor-a tcp_pick_up: true becomes false",
                "+ vendor vendor-z: 192.0.2.0/24 as 10.0.1.10 from 10.0.9.0/24",
            ]
        );
        assert_eq!(diff(&new, &old).last().unwrap(), "~ vendor vendor-a tcp_pick_up: false becomes true");
        assert!(diff(&new, &old).contains(&"- vendor vendor-z: 192.0.2.0/24".into()));
    }

    #[test]
    fn what_needs_a_new_start_says_so() {
        let found = fixed(&config(|_| {}), &config(|config| config.max_flows = 4096));
        assert_eq!(found.len(), 1);
        let text = found[0].to_string();
        assert!(
            text.starts_with("[datapath] max_flows cannot change while vpnat runs (262144 to 4096): "),
            "{text}"
        );
        assert!(text.contains("systemctl restart vpnat"), "{text}");
    }
}
