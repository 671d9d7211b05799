//! What the maps and the kernel say about addresses and devices, for the words around a rehearsal.

use std::net::Ipv4Addr;

use aya::maps::lpm_trie::Key;
use aya::programs::{SchedClassifier, TcAttachType};
use ipnet::Ipv4Net;
use vpnat_common::addr::Ip4;
use vpnat_common::layout::device::role;
use vpnat_common::layout::vendor::{PrefixTarget, SOURCE_KEY_VENDOR_BITS, SourceKey, VendorPolicy};

use crate::datapath::hooks::Plan;
use crate::datapath::maps::{ConfigMaps, VendorSlot, read_vendors};
use crate::datapath::object::traced;
use crate::datapath::pins::Pins;
use crate::datapath::{Error, tc};
use crate::netlink::links::{self, Layer, Link};

/// Bytes of a program's name that the kernel keeps.
const NAME_KEPT: usize = 15;

/// A rule that admits a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The prefix of `allow_from`.
    pub prefix: Ipv4Net,
    /// Its place in that list, from 0.
    pub index: u32,
}

/// The maps, the devices and the addresses of this host.
pub struct Known {
    /// The configuration's maps.
    pub maps: ConfigMaps,
    /// Vendors.
    pub vendors: Vec<VendorSlot>,
    /// Devices.
    pub links: Vec<Link>,
    local: Vec<Ipv4Addr>,
}

impl Known {
    /// Reads everything once.
    pub fn read(pins: &Pins) -> Result<Self, Error> {
        let error = |error| Error::Netlink { action: "listing devices", error };
        // The pins first: without them nothing else matters.
        let maps = ConfigMaps::open(pins)?;
        let vendors = read_vendors(&maps.vendors)?;
        Ok(Self {
            maps,
            vendors,
            links: links::dump().map_err(error)?,
            local: links::local_addresses().map_err(error)?,
        })
    }

    /// Whether `address` is one of this host.
    pub fn is_local(&self, address: Ipv4Addr) -> bool {
        self.local.contains(&address)
    }

    /// The vendor prefix that holds `address`.
    pub fn prefix(&self, address: Ipv4Addr) -> Option<(Ipv4Net, PrefixTarget)> {
        let target = self.maps.prefixes.get(&Key::new(32, Ip4::from(address)), 0).ok()?;
        let prefixes = self.maps.prefixes.keys().flatten();
        let prefixes = prefixes.filter_map(|key| {
            Ipv4Net::new(Ipv4Addr::from(key.data()), u8::try_from(key.prefix_len()).ok()?).ok()
        });
        let longest = prefixes.filter(|prefix| prefix.contains(&address)).max_by_key(Ipv4Net::prefix_len)?;
        Some((longest, target))
    }

    /// The rule by which the vendor in `slot` admits `address`.
    pub fn rule(&self, slot: u8, address: Ipv4Addr) -> Option<Rule> {
        let key = Key::new(SOURCE_KEY_VENDOR_BITS + 32, SourceKey::new(slot, address.into()));
        let index = self.maps.sources.get(&key, 0).ok()?.index;
        let keys = self.maps.sources.keys().flatten().filter(|key| key.data().vendor[3] == slot);
        let prefixes = keys.filter_map(|key| {
            let length = key.prefix_len().checked_sub(SOURCE_KEY_VENDOR_BITS)?;
            let address = key.data().address;
            Ipv4Net::new(address.into(), u8::try_from(length).ok()?).ok()
        });
        let longest = prefixes.filter(|prefix| prefix.contains(&address)).max_by_key(Ipv4Net::prefix_len)?;
        Some(Rule { prefix: longest, index })
    }

    /// The policy in `slot`.
    pub fn vendor(&self, slot: u8) -> Option<&VendorSlot> {
        self.vendors.iter().find(|vendor| vendor.slot == slot)
    }

    /// The policy in `slot`, also while no address is in it.
    pub fn policy(&self, slot: u8) -> Option<VendorPolicy> {
        self.maps.vendors.get(&slot.into(), 0).ok()
    }

    /// The device with this index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Whether a device is inside, and whether it is outside.
    pub fn sides(&self, index: u32) -> (bool, bool) {
        let roles = self.maps.devices.get(&index, 0).map_or(0, |device| device.roles);
        (roles & role::INSIDE != 0, roles & role::OUTSIDE != 0)
    }

    /// What belongs on a device; nothing that a forwarded packet meets on the loopback device.
    pub fn plan(&self, link: &Link) -> Option<Plan> {
        (link.layer != Layer::Loopback).then(|| Plan::of(link, self.sides(link.index)))
    }
}

/// Whether vpnat's `program` is attached to `link` at TC.
pub fn has_tc(link: &Link, direction: TcAttachType, program: &str) -> Result<bool, Error> {
    // Traced or not, it decides the same.
    let forms = [program.to_owned(), traced(program)];
    let kept = forms.each_ref().map(|name| &name[..name.len().min(NAME_KEPT)]);
    if let Ok((_, programs)) = SchedClassifier::query_tcx(&link.name, direction)
        && programs.iter().any(|found| found.name_as_str().is_some_and(|name| kept.contains(&name)))
    {
        return Ok(true);
    }
    Ok(tc::our_filters(link.index, direction)?.iter().any(|filter| forms.contains(&filter.name)))
}
