//! Taking everything away again: hooks first, so that nothing translates with half a table.

use crate::datapath::Error;
use crate::datapath::hooks::TC_POINTS;
use crate::datapath::migrate;
use crate::datapath::pins::{Pins, unpin_link};
use crate::datapath::tc;
use crate::netlink::links;

/// Removes every link, filter and pin of vpnat under `pins` and in this network namespace; what was removed.
pub fn detach(pins: &Pins) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    // Ingress and XDP before egress: until the last moment nothing leaves untranslated.
    let mut pinned = pins.pinned_links();
    pinned.sort_by_key(|(device, point)| (point == "egress", device.clone()));
    let links = links::dump().map_err(|error| Error::Netlink { action: "listing devices", error })?;
    for egress in [false, true] {
        for (device, point) in pinned.iter().filter(|(_, point)| (point == "egress") == egress) {
            if unpin_link(&pins.link(device, point))? {
                removed.push(format!("link {device} {point}"));
            }
        }
        for (direction, point) in TC_POINTS.into_iter().filter(|(_, point)| (*point == "egress") == egress) {
            for link in &links {
                for _ in 0..tc::remove_filters(link.index, direction)? {
                    removed.push(format!("filter {} {point}", link.name));
                }
            }
        }
    }
    removed.extend(remove_maps(pins));
    pins.remove_empty_directories();
    Ok(removed)
}

/// Removes the pins of programs and maps, of every layout; what was removed.
pub fn remove_maps(pins: &Pins) -> Vec<String> {
    let mut removed = Vec::new();
    for directory in pins.layouts() {
        let count = migrate::remove(&directory);
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        removed.push(format!("{count} maps and programs of {name}"));
    }
    removed
}
