//! Everything that can be found wrong before anything is touched.

use std::net::Ipv4Addr;

use crate::config::{Config, XdpChoice};
use crate::datapath::kernel::{self, Bpffs};
use crate::datapath::object::{self, Pinned, Sizes};
use crate::datapath::pins::Pins;
use crate::datapath::xdp::{self, Decision, Facts};
use crate::datapath::{Error, clock, features};
use crate::netlink::links::{self, Layer, Link};

/// What the checks found out.
#[derive(Debug)]
pub struct Findings {
    /// The configured devices.
    pub devices: Vec<Link>,
    /// What the pin directory needs.
    pub bpffs: Bpffs,
    /// What is decided about XDP.
    pub xdp: Decision,
    /// With which table sizes to load, and whether what is pinned has to be made anew.
    pub pinned: Pinned,
    /// The kernel's tick rate, hertz.
    pub tick_rate: u32,
    /// Addresses of this machine.
    pub local: Vec<Ipv4Addr>,
}

/// Checks privileges, kernel, embedded programs, devices, the pin directory and what is pinned there.
pub fn check(config: &Config, pins: &Pins) -> Result<Findings, Error> {
    check_with(config, pins, |_| false)
}

/// The same for a running agent that works by `before`: devices may be away just now.
pub fn check_again(config: &Config, pins: &Pins, before: &Config) -> Result<Findings, Error> {
    check_with(config, pins, |name| before.devices().contains(&name))
}

fn check_with(config: &Config, pins: &Pins, may_be_away: impl Fn(&str) -> bool) -> Result<Findings, Error> {
    kernel::check_privileges()?;
    kernel::check_features()?;
    features::check(config.xdp != XdpChoice::Off)?;
    features::check_memory(Sizes::for_flows(config.max_flows).flows)?;
    object::check_embedded()?;
    let tick_rate = clock::tick_rate()?;
    let devices = check_devices(config, may_be_away)?;
    let facts: Vec<Facts> = devices.iter().map(Facts::of).collect();
    let xdp = xdp::decide(config.xdp, &facts)?;
    if xdp.mode != xdp::Mode::Off {
        check_foreign_xdp(&devices, pins)?;
    }
    let bpffs = kernel::check_bpffs(&config.pin_root)?;
    let wanted = Sizes { events: config.event_buffer(), ..Sizes::for_flows(config.max_flows) };
    let pinned = object::check_pinned(pins, wanted)?;
    let local =
        links::local_addresses().map_err(|error| Error::Netlink { action: "listing addresses", error })?;
    Ok(Findings { devices, bpffs, xdp, pinned, tick_rate, local })
}

fn check_devices(config: &Config, may_be_away: impl Fn(&str) -> bool) -> Result<Vec<Link>, Error> {
    let links = links::dump().map_err(|error| Error::Netlink { action: "listing devices", error })?;
    let mut devices = Vec::new();
    for name in config.devices() {
        let Some(link) = links.iter().find(|link| link.name == name) else {
            if may_be_away(name) {
                continue;
            }
            let list = if config.sides_of(name).0 { "inside" } else { "outside" };
            return Err(Error::NoDevice { name: name.into(), list });
        };
        match link.layer {
            Layer::Ethernet | Layer::Ip | Layer::Xfrm => devices.push(link.clone()),
            Layer::Loopback => return Err(Error::DeviceKind { name: name.into(), kind: 772 }),
            Layer::Other(kind) => return Err(Error::DeviceKind { name: name.into(), kind }),
        }
    }
    Ok(devices)
}

fn check_foreign_xdp(devices: &[Link], pins: &Pins) -> Result<(), Error> {
    for link in devices.iter().filter(|link| link.is_ethernet()) {
        if let Some((_, program)) = link.xdp
            && !pins.link(&link.name, "xdp").exists()
        {
            return Err(Error::ForeignXdp { device: link.name.clone(), program });
        }
    }
    Ok(())
}
