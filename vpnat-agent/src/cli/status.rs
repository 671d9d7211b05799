//! `vpnat status`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vpnat_common::layout::LAYOUT_VERSION;
use vpnat_common::layout::event::Tally;
use vpnat_common::layout::outcome::{Count, Fate, Hook, Outcome};

use super::flows::ports::{Pool, pools};
use super::{PinOptions, say, say_json};
use crate::config::Mapping;
use crate::datapath::flows::census;
use crate::datapath::hooks::TC_POINTS;
use crate::datapath::maps::{StateMaps, Table};
use crate::datapath::object::is_traced;
use crate::datapath::pins::Pins;
use crate::datapath::program_names::ProgramNames;
use crate::datapath::tc::our_filters;
use crate::netlink::links;
use crate::waiting::Waiting;

/// `status` when vpnat is pinned but not in order.
const NOT_IN_ORDER: u8 = 3;

/// The shape of the JSON. A test compares it with what is printed.
pub(super) const JSON_HELP: &str =
    "Print JSON. Fields are added over time; `version` is raised when one is renamed or removed.

{ version, layout, agent_running, configured, flows, flow_entries, flow_entries_capacity, table_pressure,
  hooks:   [{ device, hook: egress|ingress|xdp, by: link|filter, traced: true|false or null }],
  vendors: [{ name, egress_ips, mapping: endpoint-dependent|endpoint-independent,
              outbound: { packets, bytes }, inbound: { packets, bytes } }],
  ports:   [{ vendor, egress, protocol, configured, used, owned, busiest: { remote: { address, port }, used }, ratio }],
  drops:   [{ vendor, hook, outcome, packets }],
  closed: [prefix], flow_events_lost }

`configured`: the datapath translates; of `ports`, how many the vendor's range has. `flow_entries`: two are one flow.
`traced`: its program tells a `vpnat trace` what it decides, which costs every packet there; null where the kernel
does not let the caller know (CAP_SYS_ADMIN does). `table_pressure`: of `flow_entries` to `flow_entries_capacity`, 0 to 1. `ports`: as of `flows ports`. `drops`: zeros left
out; vendor \"none\" for packets that no vendor claims. `closed`: prefixes that were a vendor's and that nothing leaves to since
it was removed (`vpnat reload --open-removed` opens them). `flow_events_lost`: since the pins were made.";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print JSON; its shape is in --help.
    #[arg(long, long_help = JSON_HELP)]
    json: bool,
    #[command(flatten)]
    pins: PinOptions,
}

#[derive(Debug, Serialize)]
struct Document {
    /// Raised when a field is renamed or removed.
    version: u32,
    layout: u32,
    agent_running: bool,
    /// The maps hold a configuration, so the datapath translates.
    configured: bool,
    flows: u64,
    flow_entries: u64,
    flow_entries_capacity: u32,
    /// Share of the table in use.
    table_pressure: f64,
    hooks: Vec<AttachedHook>,
    vendors: Vec<Vendor>,
    ports: Vec<Pool>,
    /// Packets that were dropped, by vendor ("none": nobody's), hook and outcome; zeros left out.
    drops: Vec<Drop>,
    /// Prefixes of removed vendors, to which nothing leaves.
    closed: Vec<String>,
    flow_events_lost: u64,
}

#[derive(Debug, Serialize)]
struct AttachedHook {
    device: String,
    hook: String,
    /// `link` (pinned) or `filter` (clsact).
    by: &'static str,
    /// Whether its program is one that tells a tracer what it decides, if that can be known.
    traced: Option<bool>,
}

/// Every hook that has a program of vpnat's.
fn attached(pins: &Pins) -> anyhow::Result<Vec<AttachedHook>> {
    let links = links::dump()?;
    let names = ProgramNames::read();
    let hook = |device: &str, hook: &str, by, traced| AttachedHook {
        device: device.into(),
        hook: hook.into(),
        by,
        traced,
    };
    let mut hooks = Vec::new();
    for (device, point) in pins.pinned_links() {
        let link = links.iter().find(|link| link.name == device);
        let traced = link.and_then(|link| names.traced_at(link, &point));
        hooks.push(hook(&device, &point, "link", traced));
    }
    for link in &links {
        for (direction, point) in TC_POINTS {
            let filters = our_filters(link.index, direction)?;
            if !filters.is_empty() {
                let traced = filters.iter().any(|filter| is_traced(&filter.name));
                hooks.push(hook(&link.name, point, "filter", Some(traced)));
            }
        }
    }
    Ok(hooks)
}

#[derive(Debug, Serialize)]
struct Vendor {
    name: String,
    egress_ips: Vec<String>,
    mapping: &'static str,
    outbound: Traffic,
    inbound: Traffic,
}

#[derive(Debug, Default, Serialize)]
struct Traffic {
    packets: u64,
    bytes: u64,
}

impl From<Count> for Traffic {
    fn from(count: Count) -> Self {
        Self { packets: count.packets, bytes: count.bytes }
    }
}

#[derive(Debug, Serialize)]
struct Drop {
    vendor: String,
    hook: &'static str,
    outcome: &'static str,
    packets: u64,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let pins = options.pins.pins()?;
    let maps = StateMaps::open(&pins)?;
    let table = Table::flows(&pins)?;

    let found = maps.vendors()?;
    let mut slots = vec![(0, "none".to_owned())];
    slots.extend(found.iter().map(|vendor| (vendor.slot, vendor.name.clone())));
    let mut drops = Vec::new();
    for (slot, name) in &slots {
        for hook in Hook::ALL {
            for outcome in Outcome::ALL.iter().filter(|outcome| outcome.fate() == Fate::Dropped) {
                let Count { packets, .. } = maps.count(*slot, hook, *outcome)?;
                if packets > 0 {
                    drops.push(Drop {
                        vendor: name.clone(),
                        hook: hook.name(),
                        outcome: outcome.name(),
                        packets,
                    });
                }
            }
        }
    }
    let mut vendors = Vec::new();
    for vendor in &found {
        let policy = &vendor.policy;
        let count = (policy.egress_count as usize).min(policy.egress.len());
        vendors.push(Vendor {
            name: vendor.name.clone(),
            egress_ips: policy.egress[..count].iter().map(ToString::to_string).collect(),
            mapping: Mapping::of(policy).name(),
            outbound: maps.count_everywhere(vendor.slot, Outcome::Outbound)?.into(),
            inbound: maps.count_everywhere(vendor.slot, Outcome::Inbound)?.into(),
        });
    }
    let waiting = Waiting::of("counting the flow table");
    let (census, entries) = census(&table)?;
    drop(waiting);
    let document = Document {
        version: 1,
        layout: LAYOUT_VERSION,
        agent_running: pins.locked(),
        configured: maps.settings()?.ready == 1,
        flows: census.total(),
        flow_entries: entries,
        flow_entries_capacity: table.capacity,
        table_pressure: entries as f64 / f64::from(table.capacity.max(1)),
        hooks: attached(&pins)?,
        vendors,
        ports: pools(&census, &found),
        drops,
        closed: maps.closed_prefixes()?.iter().map(ToString::to_string).collect(),
        flow_events_lost: maps.tally(0, Tally::EventsLost)?,
    };
    if options.json {
        say_json(&document)?;
    } else {
        print(&document)?;
    }
    let in_order = document.agent_running && document.configured && !document.hooks.is_empty();
    Ok(if in_order { ExitCode::SUCCESS } else { ExitCode::from(NOT_IN_ORDER) })
}

fn print(document: &Document) -> std::io::Result<()> {
    let agent =
        if document.agent_running { "running" } else { "not running; the datapath works on without it" };
    say(format_args!("agent      {agent}"))?;
    let configured =
        if document.configured { "translating" } else { "not configured: nothing leaves to any vendor" };
    say(format_args!("datapath   {configured}, layout {}", document.layout))?;
    say(format_args!(
        "flows      {} of {} ({:.1} % of the table)",
        document.flows,
        document.flow_entries_capacity / 2,
        document.table_pressure * 100.0
    ))?;
    if document.flow_events_lost > 0 {
        say(format_args!("flow log   {} events were lost", document.flow_events_lost))?;
    }
    let traced = document.hooks.iter().filter(|hook| hook.traced == Some(true)).count();
    if traced > 0 {
        let end = if document.agent_running {
            "ends with `vpnat trace`, and after its --seconds"
        } else {
            "the agent ended meanwhile: start it, which puts the others back"
        };
        say(format_args!("trace      at {traced} hooks, where every packet costs somewhat more; {end}"))?;
    }
    for hook in &document.hooks {
        let traced = if hook.traced == Some(true) { ", traced" } else { "" };
        say(format_args!("hook       {} {} ({}){traced}", hook.device, hook.hook, hook.by))?;
    }
    for vendor in &document.vendors {
        say(format_args!(
            "vendor     {} as {}, {}: out {} packets, {} bytes; in {} packets, {} bytes",
            vendor.name,
            vendor.egress_ips.join(", "),
            vendor.mapping,
            vendor.outbound.packets,
            vendor.outbound.bytes,
            vendor.inbound.packets,
            vendor.inbound.bytes
        ))?;
    }
    for prefix in &document.closed {
        say(format_args!(
            "closed     {prefix}, since its vendor was removed (`vpnat reload --open-removed` opens it)"
        ))?;
    }
    for pool in &document.ports {
        let remote = &pool.busiest.remote;
        let fullest = if pool.owned > pool.busiest.used {
            "owned towards everybody".to_owned()
        } else {
            format!("towards {}:{}", remote.address, remote.port)
        };
        say(format_args!(
            "ports      {} {} {}: {} in use; {} {fullest}",
            pool.vendor,
            pool.egress,
            pool.protocol,
            pool.used,
            pool.share()
        ))?;
    }
    for drop in &document.drops {
        say(format_args!(
            "dropped    {} at {}: {} ({})",
            drop.packets, drop.hook, drop.outcome, drop.vendor
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flows::Place;
    use crate::cli::flows::ports::Busiest;
    use crate::cli::tests::assert_help_names;

    #[test]
    fn help_names_every_field() {
        let document = Document {
            version: 1,
            layout: LAYOUT_VERSION,
            agent_running: true,
            configured: true,
            flows: 1,
            flow_entries: 2,
            flow_entries_capacity: 2,
            table_pressure: 1.0,
            hooks: vec![AttachedHook {
                device: "eth0".into(),
                hook: "egress".into(),
                by: "link",
                traced: None,
            }],
            vendors: vec![Vendor {
                name: "vendor-a".into(),
                egress_ips: vec!["10.0.1.10".into()],
                mapping: "endpoint-dependent",
                outbound: Traffic::default(),
                inbound: Traffic::default(),
            }],
            ports: vec![Pool {
                vendor: "vendor-a".into(),
                egress: "10.0.1.10".into(),
                protocol: "tcp".into(),
                configured: 1,
                used: 1,
                owned: 0,
                busiest: Busiest { remote: Place { address: "192.0.2.10".into(), port: 1 }, used: 1 },
                ratio: 1.0,
            }],
            drops: vec![Drop { vendor: "none".into(), hook: "h", outcome: "o", packets: 1 }],
            closed: vec!["192.0.2.0/24".into()],
            flow_events_lost: 0,
        };
        assert_help_names(JSON_HELP, &document);
    }
}
