//! Everything that can be found wrong before anything is touched.

use std::net::Ipv4Addr;

use crate::config::Config;
use crate::datapath::Error;
use crate::datapath::kernel::{self, Bpffs};
use crate::datapath::object::{self, Sizes};
use crate::datapath::pins::Pins;
use crate::datapath::xdp::{self, Decision, Facts};
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
    /// With which table sizes to load.
    pub sizes: Sizes,
    /// Addresses of this machine.
    pub local: Vec<Ipv4Addr>,
}

/// Checks privileges, kernel, embedded programs, devices, the pin directory and what is pinned there.
pub fn check(config: &Config, pins: &Pins) -> Result<Findings, Error> {
    kernel::check_privileges()?;
    kernel::check_features()?;
    object::check_embedded()?;
    let devices = check_devices(config)?;
    let facts: Vec<Facts> = devices.iter().map(Facts::of).collect();
    let xdp = xdp::decide(config.xdp, &facts)?;
    if xdp.mode != xdp::Mode::Off {
        check_foreign_xdp(&devices, pins)?;
    }
    let bpffs = kernel::check_bpffs(&config.pin_root)?;
    let sizes = object::check_pinned(pins, Sizes::for_flows(config.max_flows))?;
    let local =
        links::local_addresses().map_err(|error| Error::Netlink { action: "listing addresses", error })?;
    Ok(Findings { devices, bpffs, xdp, sizes, local })
}

fn check_devices(config: &Config) -> Result<Vec<Link>, Error> {
    let links = links::dump().map_err(|error| Error::Netlink { action: "listing devices", error })?;
    let mut devices = Vec::new();
    for name in config.devices() {
        let Some(link) = links.iter().find(|link| link.name == name) else {
            let list = if config.sides_of(name).0 { "inside" } else { "outside" };
            return Err(Error::NoDevice { name: name.into(), list });
        };
        match link.layer {
            Layer::Ethernet | Layer::Ip => devices.push(link.clone()),
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
