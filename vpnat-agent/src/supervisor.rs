//! Keeps every device of the namespace as the configuration wants it, from the first start on and
//! whenever a device comes, goes or changes.

use std::collections::{BTreeMap, HashMap, HashSet};

use aya::programs::TcAttachType;
use vpnat_common::addr::Ip4;
use vpnat_common::layout::device::{Device, role};
use vpnat_common::layout::names;
use vpnat_common::layout::trace::TraceFilter;
use vpnat_common::layout::vendor::flag;

use crate::config::{Config, XdpChoice};
use crate::datapath::hooks::tracing::{Carrier, Readable};
use crate::datapath::hooks::{Hooks, Plan, TC_POINTS, XDP_POINT};
use crate::datapath::maps::{ConfigMaps, Table, VendorSlot, read_vendors};
use crate::datapath::path;
use crate::datapath::pins::{Pins, unpin};
use crate::datapath::slots;
use crate::datapath::sweep::{self, SharedReport};
use crate::datapath::xdp::{self, Facts, Mode};
use crate::datapath::{Error, fill};
use crate::netlink::links::{self, Layer, Link};
use crate::netlink::routes;

/// A device with what was put on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The device as it was then.
    pub link: Link,
    /// What it carries.
    pub plan: Plan,
    /// XDP mode.
    pub xdp: Mode,
}

/// What is attached, by interface index.
pub type Devices = BTreeMap<u32, Attached>;

/// The agent's hold on the kernel.
pub struct Supervisor {
    config: Config,
    pins: Pins,
    maps: ConfigMaps,
    hooks: Hooks,
    devices: Devices,
    /// Each device's first address.
    addresses: HashMap<u32, Ip4>,
    /// What was last said about XDP, so that it is said once.
    xdp_reason: String,
}

impl Supervisor {
    /// Nothing is attached yet.
    pub fn new(config: Config, pins: Pins, maps: ConfigMaps, hooks: Hooks) -> Self {
        let (devices, addresses) = (Devices::new(), HashMap::new());
        Self { config, pins, maps, hooks, devices, addresses, xdp_reason: String::new() }
    }

    /// What is attached.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// What it works by.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Works by `config` from the next [`Supervisor::reconcile`] on.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// Where everything is pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The loaded programs.
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// Uses other programs from the next [`Supervisor::reconcile`] on; the ones before.
    pub fn replace_hooks(&mut self, hooks: Hooks) -> Hooks {
        std::mem::replace(&mut self.hooks, hooks)
    }

    /// Puts the traced forms of the programs on every device, for what `filter` wants, or says why not.
    pub fn begin_trace(&mut self, filter: TraceFilter) -> Result<Readable, Error> {
        let carriers = self.carriers_of_programs();
        self.hooks.begin_trace(&carriers, filter)
    }

    /// Puts the programs that run otherwise back.
    pub fn end_trace(&mut self) -> Result<(), Error> {
        if !self.hooks.trace() {
            return Ok(());
        }
        let carriers = self.carriers_of_programs();
        self.hooks.end_trace(&carriers).or_else(|error| {
            log::warn!("{error}");
            self.reconcile()
        })
    }

    fn carriers_of_programs(&self) -> Vec<Carrier> {
        let devices = self.devices.values();
        devices.map(|device| (device.link.clone(), device.plan, device.xdp != Mode::Off)).collect()
    }

    /// Lets TC ingress redirect, or not, and refusals be answered so often, as the configuration says.
    pub fn set_mark(&mut self) -> Result<(), Error> {
        let mark = if self.config.redirect { new_mark() } else { 0 };
        self.maps.change_settings(|settings| {
            // Kept while it is wanted: packets on their way bear it.
            if mark == 0 || settings.redirect_mark == 0 {
                settings.redirect_mark = mark;
            }
            settings.answers_per_s = self.config.refusal_answers;
        })
    }

    /// Forgets removed vendors whose flows have all ended: the last sweep saw none, and a look at the table finds none
    /// that is newer.
    pub fn retire(&mut self, swept: &SharedReport) -> Result<(), Error> {
        let draining = |vendor: &VendorSlot| vendor.policy.flags & flag::DRAINING != 0;
        let mut vendors = read_vendors(&self.maps.vendors)?;
        vendors.retain(draining);
        {
            let report = sweep::lock(swept);
            vendors.retain(|vendor| report.cycles > 0 && !report.slots.contains(&vendor.slot));
        }
        if vendors.is_empty() {
            return Ok(());
        }
        let in_use = sweep::vendors_in_use(&Table::flows(&self.pins)?)?;
        for name in fill::retire(&mut self.maps, |slot| in_use.contains(&slot))? {
            log::info!("vendor {name}: its last flow has ended, and it is forgotten");
        }
        Ok(())
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut ConfigMaps {
        &mut self.maps
    }

    /// Brings every device to what the configuration wants: all egress hooks first, then ingress, then
    /// XDP, and a device's role only after that. Returns the first error, after everything was tried.
    pub fn reconcile(&mut self) -> Result<(), Error> {
        let links = dump()?;
        let mut failed = None;
        let mut keep = |result: Result<(), Error>, link: &Link| match result {
            Ok(()) => true,
            // A device that went away meanwhile is no error, and asking again tells.
            Err(_) if !still_there(link) => false,
            Err(error) => {
                log::error!("{error}");
                failed.get_or_insert(error);
                false
            }
        };

        let carriers = self.carriers(&links);
        let mut wanted: Vec<(Link, Plan)> = Vec::new();
        for link in links {
            let plan = self.plan(&link, &carriers);
            wanted.push((link, plan));
        }
        self.forget_gone(&wanted)?;

        // Outside devices first: guards elsewhere only catch what does not go there.
        wanted.sort_by_key(|(_, plan)| plan.roles & role::OUTSIDE == 0);
        let mut ready = Vec::new();
        for (link, plan) in wanted {
            let result = self.ensure_tc(&link, TcAttachType::Egress, Some(plan.egress));
            if keep(result, &link) {
                ready.push((link, plan));
            } else {
                self.close(&link)?;
            }
        }
        let mut attached = Vec::new();
        for (link, plan) in ready {
            let result = self.ensure_tc(&link, TcAttachType::Ingress, plan.ingress);
            if keep(result, &link) {
                attached.push((link, plan));
            } else {
                self.close(&link)?;
            }
        }
        let mode = self.xdp_mode(&attached);
        for (link, plan) in attached {
            let mode = match plan.xdp {
                Some(program) if mode != Mode::Off => {
                    let result = self.ensure_xdp(&link, program, mode);
                    let native_by_default = self.config.xdp == XdpChoice::Auto;
                    match result {
                        Ok(()) => mode,
                        Err(error) if native_by_default => {
                            log::warn!("XDP is not used on {}, TC serves it alone: {error}", link.name);
                            Mode::Off
                        }
                        Err(error) => {
                            keep(Err(error), &link);
                            Mode::Off
                        }
                    }
                }
                _ => {
                    self.hooks.detach_xdp(&link)?;
                    Mode::Off
                }
            };
            self.open(Attached { link, plan, xdp: mode })?;
        }
        self.follow_routes()?;
        failed.map_or(Ok(()), Err)
    }

    /// Tells the datapath which addresses the devices have.
    fn follow_addresses(&mut self) -> Result<(), Error> {
        let listed = links::device_addresses()
            .map_err(|error| Error::Netlink { action: "listing addresses", error })?;
        self.addresses.clear();
        for (index, address) in listed {
            self.addresses.entry(index).or_insert(address.into());
        }
        let known: Vec<(u32, Device)> = self.maps.devices.iter().flatten().collect();
        for (index, mut device) in known {
            let address = self.addresses.get(&index).copied().unwrap_or_default();
            if device.address != address {
                device.address = address;
                self.maps.devices.insert(index, device, 0).map_err(Error::map("writing", names::DEVICES))?;
            }
        }
        Ok(())
    }

    /// Tells the datapath what the routes to the vendors take, and that cached next hops may be wrong.
    pub fn follow_routes(&mut self) -> Result<(), Error> {
        self.follow_addresses()?;
        let links = dump()?;
        let routes = routes::dump().map_err(|error| Error::Netlink { action: "listing routes", error })?;
        for known in read_vendors(&self.maps.vendors)? {
            let Some(vendor) = self.config.vendors.iter().find(|vendor| vendor.name == known.name) else {
                continue;
            };
            let sides = |link: &Link| self.config.sides_of(&link.name);
            let limits = path::limits(vendor, &routes, &links, sides);
            let mut policy = known.policy;
            let before = policy.mss;
            (policy.path_mtu, policy.inside_mtu, policy.mss) =
                (limits.path_mtu, limits.inside_mtu, limits.mss);
            if policy == known.policy {
                continue;
            }
            let slot = known.slot.into();
            self.maps.vendors.set(slot, policy, 0).map_err(Error::map("writing", names::VENDORS))?;
            match limits.mss {
                mss if mss == before => {}
                0 => log::info!("{}: the MSS of SYNs is left alone", vendor.name),
                mss => log::info!("{}: the MSS of SYNs is lowered to {mss}", vendor.name),
            }
        }
        self.maps.raise_route_generation()
    }

    /// Whether every configured device is there and every hook is attached now, asked from the kernel.
    pub fn verify(&self) -> Result<(), String> {
        let links = dump().map_err(|error| error.to_string())?;
        for name in self.config.devices() {
            if !links.iter().any(|link| link.name == name) {
                return Err(format!("device {name} is missing"));
            }
        }
        self.verify_hooks_of(&links)
    }

    /// Whether every hook of the devices that there are is attached now, asked from the kernel.
    pub fn verify_hooks(&self) -> Result<(), String> {
        self.verify_hooks_of(&dump().map_err(|error| error.to_string())?)
    }

    fn verify_hooks_of(&self, links: &[Link]) -> Result<(), String> {
        let carriers = self.carriers(links);
        for link in links {
            let plan = self.plan(link, &carriers);
            let missing = |point: &str| format!("the {point} hook of {} is missing", link.name);
            for (direction, point) in TC_POINTS {
                let program = match direction {
                    TcAttachType::Egress => Some(plan.egress),
                    _ => plan.ingress,
                };
                let Some(program) = program else { continue };
                if !self.hooks.has_tc(link, direction, program).map_err(|error| error.to_string())? {
                    return Err(missing(point));
                }
            }
            let with_xdp = self.devices.get(&link.index).is_some_and(|device| device.xdp != Mode::Off);
            if let Some(program) = plan.xdp.filter(|_| with_xdp)
                && !self.hooks.has_xdp(link, program)
            {
                return Err(missing(XDP_POINT));
            }
        }
        Ok(())
    }

    fn carriers(&self, links: &[Link]) -> HashSet<u32> {
        links::carriers(links, |link| self.config.sides_of(&link.name).1)
    }

    fn plan(&self, link: &Link, carriers: &HashSet<u32>) -> Plan {
        let plan = Plan::of(link, self.config.sides_of(&link.name));
        if carriers.contains(&link.index) { plan.carrying() } else { plan }
    }

    fn ensure_tc(
        &mut self,
        link: &Link,
        direction: TcAttachType,
        program: Option<&'static str>,
    ) -> Result<(), Error> {
        let Some(program) = program else {
            self.hooks.detach_tc(link, direction)?;
            return Ok(());
        };
        if self.hooks.has_tc(link, direction, program)? {
            return Ok(());
        }
        self.hooks.attach_tc(link, direction, program)?;
        if self.devices.contains_key(&link.index) {
            log::warn!("{}: {program} was missing and is attached again; another tool removed it", link.name);
        }
        Ok(())
    }

    fn ensure_xdp(&mut self, link: &Link, program: &'static str, mode: Mode) -> Result<(), Error> {
        let same_mode = link.xdp.map(|(attached, _)| attached) == mode.as_attached();
        if same_mode && self.hooks.has_xdp(link, program) {
            return Ok(());
        }
        self.hooks.attach_xdp(link, program, mode)
    }

    /// Decides about XDP for the inside and outside devices, and says why when the answer is new.
    fn xdp_mode(&mut self, devices: &[(Link, Plan)]) -> Mode {
        let facts: Vec<Facts> =
            devices.iter().filter(|(_, plan)| plan.roles != 0).map(|(link, _)| Facts::of(link)).collect();
        if facts.is_empty() {
            return Mode::Off;
        }
        // Checked before the start; later it only means that no Ethernet device is left just now.
        let Ok(decision) = xdp::decide(self.config.xdp, &facts) else { return Mode::Off };
        if decision.reason != self.xdp_reason {
            match decision.mode {
                Mode::Off => log::info!("XDP is not used, TC serves every device: {}", decision.reason),
                mode => {
                    log::info!("XDP is used in {} mode: {}", mode.name(), decision.reason);
                    for device in facts.iter().filter(|device| !device.plain) {
                        log::info!("{} is a tunnel: TC serves it", device.name);
                    }
                    if mode == Mode::Native && facts.iter().any(|device| device.driver == "veth") {
                        log::warn!(
                            "a veth device loses XDP frames unless its peer runs NAPI (`ethtool -K PEER gro on`)"
                        );
                    }
                }
            }
            self.xdp_reason = decision.reason;
        }
        decision.mode
    }

    /// Writes a device's role, now that its hooks are attached.
    fn open(&mut self, attached: Attached) -> Result<(), Error> {
        let (index, roles) = (attached.link.index, attached.plan.roles);
        let with_xdp = attached.xdp != Mode::Off;
        let redirected = self.config.redirect && roles != 0 && attached.link.is_plain();
        let slot = if with_xdp || redirected {
            slots::assign(&mut self.maps, &attached.link, roles, with_xdp)?
        } else {
            slots::release(&mut self.maps, |kept| kept != index)?;
            0
        };
        if roles == 0 {
            self.remove_role(index)?;
        } else {
            let address = self.addresses.get(&index).copied().unwrap_or_default();
            let device = Device { roles, xdp_slot: slot, _pad: [0; 2], address };
            self.maps.devices.insert(index, device, 0).map_err(Error::map("writing", names::DEVICES))?;
        }
        if self.devices.get(&index).map(|old| (old.plan, old.xdp)) != Some((attached.plan, attached.xdp)) {
            let sides = match (roles & role::INSIDE != 0, roles & role::OUTSIDE != 0) {
                (true, true) => "inside and outside",
                (true, false) => "inside",
                (false, true) => "outside",
                (false, false) if attached.plan.egress.starts_with("egress_carrier") => {
                    "below an outside device"
                }
                (false, false) if attached.link.layer == Layer::Loopback => "the instance's own errors",
                (false, false) => "closed to vendors",
            };
            let xdp = match attached.xdp {
                Mode::Off => String::new(),
                mode => format!(" and XDP ({})", mode.name()),
            };
            log::info!("{}: {sides}, by {}{xdp}", attached.link.name, self.hooks.method().name());
        }
        self.devices.insert(index, attached);
        Ok(())
    }

    /// Takes away the role of a device whose hooks could not be attached: nothing may leave through it.
    fn close(&mut self, link: &Link) -> Result<(), Error> {
        self.remove_role(link.index)?;
        slots::release(&mut self.maps, |kept| kept != link.index)?;
        self.devices.remove(&link.index);
        Ok(())
    }

    fn remove_role(&mut self, index: u32) -> Result<(), Error> {
        if self.maps.devices.get(&index, 0).is_ok() {
            self.maps.devices.remove(&index).map_err(Error::map("clearing", names::DEVICES))?;
        }
        Ok(())
    }

    /// Clears what belongs to devices that went away or were renamed: roles, XDP slots, pins.
    fn forget_gone(&mut self, wanted: &[(Link, Plan)]) -> Result<(), Error> {
        let present: HashSet<u32> = wanted.iter().map(|(link, _)| link.index).collect();
        let known: Vec<u32> = self.maps.devices.keys().flatten().collect();
        for index in known.into_iter().filter(|index| !present.contains(index)) {
            self.remove_role(index)?;
        }
        slots::release(&mut self.maps, |index| present.contains(&index))?;
        self.devices.retain(|index, device| {
            let stays = present.contains(index);
            if !stays {
                log::info!("{}: gone", device.link.name);
            }
            stays
        });
        for (link, _) in wanted {
            self.follow_rename(link);
        }
        for (device, point) in self.pins.pinned_links() {
            if !wanted.iter().any(|(link, _)| link.name == device) {
                unpin(&self.pins.link(&device, &point))?;
            }
        }
        Ok(())
    }

    /// Link pins bear the device's name, so they go with it.
    fn follow_rename(&self, link: &Link) {
        let Some(known) = self.devices.get(&link.index).filter(|known| known.link.name != link.name) else {
            return;
        };
        log::info!("{}: renamed to {}", known.link.name, link.name);
        for point in TC_POINTS.map(|(_, point)| point).into_iter().chain([XDP_POINT]) {
            let (old, new) = (self.pins.link(&known.link.name, point), self.pins.link(&link.name, point));
            if old.exists()
                && let Err(error) = std::fs::rename(&old, &new)
            {
                log::warn!("the {point} link of {} keeps its old name: {error}", link.name);
            }
        }
    }
}

/// A packet mark that nobody sets by accident. Without random numbers there is none, and nothing is redirected.
fn new_mark() -> u32 {
    getrandom::u32().map_or_else(
        |error| {
            log::warn!("no random number for the mark of redirected packets ({error}): TC does not redirect");
            0
        },
        |mark| mark.max(1),
    )
}

fn dump() -> Result<Vec<Link>, Error> {
    links::dump().map_err(|error| Error::Netlink { action: "listing devices", error })
}

fn still_there(link: &Link) -> bool {
    dump().is_ok_and(|links| links.iter().any(|now| now.index == link.index && now.name == link.name))
}
