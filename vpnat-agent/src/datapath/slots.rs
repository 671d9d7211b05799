//! Devices that the fast path may send through, each with a slot that flows remember.

use std::os::fd::AsFd as _;

use vpnat_common::layout::device::XdpPort;
use vpnat_common::layout::{MAX_DEVICES, names};

use super::Error;
use super::maps::ConfigMaps;
use crate::netlink::links::Link;

/// Gives `link` a slot, the one it had if it had one, and fills it; XDP may send through it only `with_xdp`.
/// 0 if all are taken.
pub fn assign(maps: &mut ConfigMaps, link: &Link, roles: u8, with_xdp: bool) -> Result<u8, Error> {
    let mut free = None;
    let mut slot = None;
    for candidate in 1..MAX_DEVICES {
        let port = maps.xdp_ports.get(&candidate, 0).map_err(Error::map("reading", names::XDP_PORTS))?;
        if port.ifindex == link.index {
            slot = Some(candidate);
            break;
        }
        if port.ifindex == 0 && free.is_none() {
            free = Some(candidate);
        }
    }
    let Some(slot) = slot.or(free) else {
        log::warn!("{}: no slot is free, so the fast path does not send through it", link.name);
        return Ok(0);
    };
    if with_xdp {
        maps.xdp_devices
            .set(slot, link.index, None, 0)
            .map_err(|error| Error::map("writing", names::XDP_DEVICES)(map_error(error)))?;
    } else {
        clear_xdp(maps, slot);
    }
    let port = XdpPort { ifindex: link.index, mac: link.mac, roles, _pad: 0 };
    maps.xdp_ports.set(slot, port, 0).map_err(Error::map("writing", names::XDP_PORTS))?;
    Ok(slot as u8)
}

/// Frees every slot whose device `keep` does not want; whether there was one.
pub fn release(maps: &mut ConfigMaps, keep: impl Fn(u32) -> bool) -> Result<bool, Error> {
    let mut released = false;
    for slot in 1..MAX_DEVICES {
        let port = maps.xdp_ports.get(&slot, 0).map_err(Error::map("reading", names::XDP_PORTS))?;
        if port.ifindex != 0 && !keep(port.ifindex) {
            maps.xdp_ports
                .set(slot, XdpPort::default(), 0)
                .map_err(Error::map("writing", names::XDP_PORTS))?;
            clear_xdp(maps, slot);
            released = true;
        }
    }
    Ok(released)
}

fn clear_xdp(maps: &ConfigMaps, slot: u32) {
    // The kernel has cleared it already if the device is gone.
    if let Err(error) = super::batch::delete(maps.xdp_devices_data.fd().as_fd(), &slot) {
        log::debug!("clearing XDP slot {slot}: {error}");
    }
}

fn map_error(error: aya::maps::xdp::XdpMapError) -> aya::maps::MapError {
    match error {
        aya::maps::xdp::XdpMapError::MapError(error) => error,
        other => aya::maps::MapError::IoError(std::io::Error::other(other)),
    }
}
