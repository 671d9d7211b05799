//! Before the agent: nothing leaves to a vendor, through whatever device, until `vpnat run` is ready.
//!
//! Two lines. Routing rules close the vendors' prefixes for every packet that is routed, devices that are yet to come
//! included. Egress guards on every device that there is drop what is sent without asking the routes. `vpnat run` replaces
//! the guards in place and removes the rules once it is ready; if it never is, they stay.

use aya::programs::TcAttachType;
use ipnet::Ipv4Net;

use crate::config::Config;
use crate::datapath::hooks::{Hooks, Needed, Plan, point_name};
use crate::datapath::kernel::{self, TcMethod};
use crate::datapath::maps::{ConfigMaps, StateMaps, Table};
use crate::datapath::object::{self, Sizes};
use crate::datapath::pins::Pins;
use crate::datapath::sweep::vendors_in_use;
use crate::datapath::{Error, clock, fill, tc};
use crate::netlink::links::{self, Layer};
use crate::netlink::rules;
use crate::stop::Stop;

/// What the guard has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Guarded {
    /// The datapath works already, and guards by itself.
    Already,
    /// Closed: prefixes by rules, devices by programs.
    Closed {
        /// Prefixes.
        prefixes: Vec<Ipv4Net>,
        /// Devices.
        devices: Vec<String>,
    },
}

/// Closes the vendors' prefixes unless the datapath works. Rules come first: they cost nothing and cannot be refused.
pub fn guard(config: &Config, stop: &Stop) -> Result<Guarded, Error> {
    kernel::check_privileges()?;
    let pins = Pins::new(&config.pin_root);
    if works(&pins) {
        return Ok(Guarded::Already);
    }
    let prefixes: Vec<Ipv4Net> = config
        .vendors
        .iter()
        .flat_map(|vendor| vendor.cidrs.iter().flat_map(|cidr| rules::without(*cidr, &vendor.exempt)))
        .collect();
    rules::close(&prefixes)
        .map_err(|error| Error::Netlink { action: "closing the vendors' prefixes", error })?;

    kernel::check_features()?;
    kernel::check_bpffs(&config.pin_root)?.prepare()?;
    pins.create()?;
    let lock = match pins.lock() {
        // It guards by itself, or will in a moment; the rules go when it is ready.
        Err(Error::Locked { .. }) => return Ok(Guarded::Closed { prefixes, devices: Vec::new() }),
        lock => lock?,
    };
    let devices = attach(config, &pins, stop)?;
    drop(lock);
    Ok(Guarded::Closed { prefixes, devices })
}

/// Whether the maps hold a configuration that hooks work by.
fn works(pins: &Pins) -> bool {
    StateMaps::open(pins).and_then(|maps| maps.settings()).is_ok_and(|settings| settings.ready == 1)
}

/// Puts the guard on every device that has no hook of ours; which.
fn attach(config: &Config, pins: &Pins, stop: &Stop) -> Result<Vec<String>, Error> {
    let pinned = object::check_pinned(pins, Sizes::for_flows(config.max_flows))?;
    if pinned.renew || !crate::datapath::migrate::sources(pins).is_empty() {
        // Another build's datapath, which guards; `vpnat run` takes it over.
        return Ok(Vec::new());
    }
    let needed = Needed::guards();
    let object = object::load(pins, pinned.sizes, clock::tick_rate()?, &needed, stop)?;
    let mut maps = ConfigMaps::open(pins)?;
    fill::fill(&mut maps, config, || vendors_in_use(&Table::flows(pins)?))?;
    let mut hooks = Hooks::new(object, pins.clone(), TcMethod::of_this_kernel(), &needed)?;
    let mut guarded = Vec::new();
    for link in links::dump().map_err(|error| Error::Netlink { action: "listing devices", error })? {
        if link.layer == Layer::Loopback {
            continue;
        }
        let plan = Plan::of(&link, (false, false));
        let egress = TcAttachType::Egress;
        let has_ours = pins.link(&link.name, point_name(egress)).exists()
            || !tc::our_filters(link.index, egress)?.is_empty();
        if !has_ours {
            hooks.attach_tc(&link, egress, plan.egress)?;
        }
        guarded.push(link.name);
    }
    Ok(guarded)
}
