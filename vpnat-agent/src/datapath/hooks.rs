//! Which program belongs where, and putting it there.

pub mod tracing;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, TcAttachType, Xdp, XdpMode};
use vpnat_common::layout::device::role;

use super::Error;
use super::error::chain;
use super::kernel::TcMethod;
use super::object::{classifier, traced, xdp};
use super::pins::{Pins, unpin_link};
use super::tc::{self, Place};
use super::xdp::{Facts, Mode, refusal};
use crate::config::{Config, XdpChoice};
use crate::netlink::links::{self, Layer, Link};

/// Name of the XDP hook in pins and messages.
pub const XDP_POINT: &str = "xdp";

/// A TC direction and its name in pins and messages.
pub const TC_POINTS: [(TcAttachType, &str); 2] =
    [(TcAttachType::Egress, "egress"), (TcAttachType::Ingress, "ingress")];

/// The program at TC egress of a device below an outside one. All such devices are Ethernet: bridge ports, members of a
/// bond, and what VLANs are made on.
const CARRIER: &str = "egress_carrier_l2";

/// The program at TC egress of the loopback device: errors that the instance makes about what it has translated go that
/// way to its own egress address, and have to reach the pod.
const LOOPBACK: &str = "egress_loopback_l2";

/// What a device is to have attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// At TC egress.
    pub egress: &'static str,
    /// At TC ingress.
    pub ingress: Option<&'static str>,
    /// At XDP, if XDP is used on it.
    pub xdp: Option<&'static str>,
    /// Bits of [`role`], once everything is attached.
    pub roles: u8,
}

impl Plan {
    /// For a device of the namespace.
    pub fn of(link: &Link, sides: (bool, bool)) -> Self {
        let plan = Self::of_layer(link.layer, sides);
        Self { xdp: plan.xdp.filter(|_| link.is_plain()), ..plan }
    }

    /// The same for a device that an outside one is stacked on: what that one has translated may pass.
    #[must_use]
    pub fn carrying(self) -> Self {
        let egress = if self.egress == "egress_guard_l2" { CARRIER } else { self.egress };
        Self { egress, ..self }
    }

    fn of_layer(layer: Layer, (inside, outside): (bool, bool)) -> Self {
        if layer == Layer::Loopback {
            return Self { egress: LOOPBACK, ingress: None, xdp: None, roles: 0 };
        }
        let ethernet = layer == Layer::Ethernet;
        let framed = |l2: &'static str, l3: &'static str| if ethernet { l2 } else { l3 };
        let egress = if outside {
            framed("egress_outside_l2", "egress_outside_l3")
        } else {
            framed("egress_guard_l2", "egress_guard_l3")
        };
        let arriving = |names: [&'static str; 3]| match layer {
            Layer::Ethernet => Some(names[0]),
            Layer::Xfrm => Some(names[2]),
            _ => Some(names[1]),
        };
        let (ingress, fast, sides) = match (inside, outside) {
            (true, true) => (
                arriving(["ingress_both_l2", "ingress_both_l3", "ingress_both_xfrm"]),
                Some("xdp_both"),
                role::INSIDE | role::OUTSIDE,
            ),
            (true, false) => (
                arriving(["ingress_inside_l2", "ingress_inside_l3", "ingress_inside_xfrm"]),
                Some("xdp_inside"),
                role::INSIDE,
            ),
            (false, true) => (
                arriving(["ingress_outside_l2", "ingress_outside_l3", "ingress_outside_xfrm"]),
                Some("xdp_outside"),
                role::OUTSIDE,
            ),
            (false, false) => (None, None, 0),
        };
        let guarded = if outside { role::GUARDED } else { 0 };
        Self { egress, ingress, xdp: fast.filter(|_| ethernet), roles: sides | guarded }
    }
}

/// The programs that a configuration can need, however its devices come and go. Verifying one takes the
/// kernel up to a second, so that the others are not loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Needed {
    /// TC programs for every kind of link layer: a device may come back as another kind.
    pub tc: BTreeSet<&'static str>,
    /// XDP programs.
    pub xdp: BTreeSet<&'static str>,
}

impl Needed {
    /// Only what closes devices.
    pub fn guards() -> Self {
        Self { tc: BTreeSet::from(["egress_guard_l2", "egress_guard_l3"]), xdp: BTreeSet::new() }
    }

    /// For `config`.
    pub fn by(config: &Config) -> Self {
        // A device may come to carry an outside one at any time.
        let mut needed = Self { tc: BTreeSet::from([CARRIER, LOOPBACK]), xdp: BTreeSet::new() };
        let configured = config.devices().into_iter().map(|name| config.sides_of(name));
        for sides in configured.chain([(false, false)]) {
            for layer in [Layer::Ethernet, Layer::Ip, Layer::Xfrm] {
                let plan = Plan::of_layer(layer, sides);
                needed.tc.insert(plan.egress);
                needed.tc.extend(plan.ingress);
                needed.xdp.extend(plan.xdp.filter(|_| config.xdp != XdpChoice::Off));
            }
        }
        needed
    }
}

/// The loaded programs and how they are attached.
#[derive(Debug)]
pub struct Hooks {
    object: Ebpf,
    pins: Pins,
    method: TcMethod,
    ids: Vec<(&'static str, u32)>,
    /// Those that are loaded in their traced form, with its identifier. While there are any, they are what belongs on the
    /// devices.
    traced: Vec<(&'static str, u32)>,
}

impl Hooks {
    /// Takes over loaded programs.
    pub fn new(mut object: Ebpf, pins: Pins, method: TcMethod, needed: &Needed) -> Result<Self, Error> {
        let mut ids = Vec::new();
        for name in &needed.tc {
            let info = classifier(&mut object, name)?.info().map_err(Error::program("looking at", name))?;
            ids.push((*name, info.id()));
        }
        for name in &needed.xdp {
            let info = xdp(&mut object, name)?.info().map_err(Error::program("looking at", name))?;
            ids.push((*name, info.id()));
        }
        Ok(Self { object, pins, method, ids, traced: Vec::new() })
    }

    /// Whether these programs are all that `needed` wants.
    pub fn serve(&self, needed: &Needed) -> bool {
        needed.tc.iter().chain(&needed.xdp).all(|name| self.id(name) != 0)
    }

    /// The identifier of what belongs where `name` is planned; 0 if it is not loaded.
    fn id(&self, name: &str) -> u32 {
        let mut loaded = self.traced.iter().chain(&self.ids);
        loaded.find(|(known, _)| *known == name).map_or(0, |(_, id)| *id)
    }

    /// The name of what belongs where `name` is planned.
    fn form(&self, name: &str) -> String {
        if self.traced.iter().any(|(known, _)| *known == name) { traced(name) } else { name.into() }
    }

    /// Attaches at TC, in place of what vpnat had there, and sees it attached.
    pub fn attach_tc(
        &mut self,
        link: &Link,
        direction: TcAttachType,
        program: &'static str,
    ) -> Result<(), Error> {
        let point = point_name(direction);
        let pin = self.pins.link(&link.name, point);
        let place = Place { link, direction, pin: &pin, point };
        let id = self.id(program);
        let form = self.form(program);
        tc::attach(self.method, classifier(&mut self.object, &form)?, program, id, &place)
    }

    /// Takes away what vpnat has at TC there; whether there was anything.
    pub fn detach_tc(&self, link: &Link, direction: TcAttachType) -> Result<bool, Error> {
        let pinned = unpin_link(&self.pins.link(&link.name, point_name(direction)))?;
        Ok(tc::remove_filters(link.index, direction)? > 0 || pinned)
    }

    /// Whether `program` is attached there now.
    pub fn has_tc(&self, link: &Link, direction: TcAttachType, program: &str) -> Result<bool, Error> {
        tc::is_attached(self.method, self.id(program), link, direction)
    }

    /// Whether `program` is attached to `link` at XDP, by what the kernel said with `link`.
    pub fn has_xdp(&self, link: &Link, program: &str) -> bool {
        link.xdp.is_some_and(|(_, id)| id == self.id(program))
    }

    /// Attaches at XDP, in place of what vpnat had there, and sees it attached.
    pub fn attach_xdp(&mut self, link: &Link, program: &'static str, mode: Mode) -> Result<(), Error> {
        let pin = self.pins.link(&link.name, XDP_POINT);
        let attached = link.xdp.map(|(attached, _)| attached);
        let ours = fs::symlink_metadata(&pin).is_ok();
        match link.xdp {
            Some((_, id)) if !ours => {
                return Err(Error::ForeignXdp { device: link.name.clone(), program: id });
            }
            // Another mode cannot be had by replacing.
            _ if ours && attached != mode.as_attached() => {
                unpin_link(&pin)?;
            }
            _ => {}
        }
        let id = self.id(program);
        let replaced = self.replace_xdp(link, program)?;
        if !replaced {
            self.attach_fresh_xdp(link, program, mode)?;
        }
        let seen = links::dump().map_err(|error| Error::Netlink { action: "listing devices", error })?;
        let seen = seen.into_iter().find(|seen| seen.index == link.index).and_then(|seen| seen.xdp);
        if seen.is_some_and(|(attached, found)| found == id && Some(attached) == mode.as_attached()) {
            Ok(())
        } else {
            Err(Error::Vanished { device: link.name.clone(), point: XDP_POINT })
        }
    }

    /// Replaces the program under the pinned link; whether that worked.
    fn replace_xdp(&mut self, link: &Link, name: &'static str) -> Result<bool, Error> {
        let pin = self.pins.link(&link.name, XDP_POINT);
        if fs::symlink_metadata(&pin).is_err() {
            return Ok(false);
        }
        let form = self.form(name);
        let program = xdp(&mut self.object, &form)?;
        match update_xdp(program, &pin) {
            Ok(()) => Ok(true),
            Err(error) => {
                log::info!(
                    "the XDP link of {} cannot be taken over ({}); attaching afresh",
                    link.name,
                    chain(&error)
                );
                unpin_link(&pin)?;
                Ok(false)
            }
        }
    }

    fn attach_fresh_xdp(&mut self, link: &Link, name: &'static str, mode: Mode) -> Result<(), Error> {
        let pin = self.pins.link(&link.name, XDP_POINT);
        let flags = if mode == Mode::Generic { XdpMode::Skb } else { XdpMode::Driver };
        let refuse = |error: &(dyn std::error::Error + 'static)| refusal(&Facts::of(link), mode, error);
        let form = self.form(name);
        let program = xdp(&mut self.object, &form)?;
        let id = program.attach_to_if_index(link.index, flags).map_err(|error| refuse(&error))?;
        let attached = program.take_link(id).map_err(|error| refuse(&error))?;
        let attached: FdLink =
            attached.try_into().map_err(|error: aya::programs::links::LinkError| refuse(&error))?;
        attached.pin(&pin).map_err(|error| Error::file("pinning a link", &pin)(io::Error::other(error)))?;
        Ok(())
    }

    /// Takes vpnat's XDP program away; whether there was one.
    pub fn detach_xdp(&self, link: &Link) -> Result<bool, Error> {
        unpin_link(&self.pins.link(&link.name, XDP_POINT))
    }

    /// How TC programs are attached.
    pub fn method(&self) -> TcMethod {
        self.method
    }
}

/// Replaces the program under a pinned link.
fn update_xdp(program: &mut Xdp, pin: &Path) -> Result<(), ProgramError> {
    let other = |error| ProgramError::IOError(io::Error::other(chain(&error)));
    let old = FdLink::from(PinnedLink::from_pin(pin).map_err(other)?);
    let old: XdpLink = old.try_into().map_err(other)?;
    let id = program.attach_to_link(old)?;
    // Dropping closes our descriptor; the pin keeps the link.
    program.take_link(id)?;
    Ok(())
}

/// The name of a TC direction in pins and messages.
pub fn point_name(direction: TcAttachType) -> &'static str {
    TC_POINTS.iter().find(|(known, _)| *known == direction).map_or("custom", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::super::object::{TC_PROGRAMS, XDP_PROGRAMS};
    use super::*;

    fn link(layer: Layer) -> Link {
        Link { name: "x".into(), layer, ..Link::with_index(2) }
    }

    #[test]
    fn every_device_but_loopback_closes_its_egress() {
        for sides in [(false, false), (true, false), (false, true), (true, true)] {
            for (layer, suffix, arriving) in
                [(Layer::Ethernet, "_l2", "_l2"), (Layer::Ip, "_l3", "_l3"), (Layer::Xfrm, "_l3", "_xfrm")]
            {
                let plan = Plan::of(&link(layer), sides);
                let translates = plan.egress.starts_with("egress_outside");
                assert_eq!(translates, sides.1);
                assert_eq!(plan.roles & role::GUARDED != 0, sides.1, "only where packets may leave");
                assert!(plan.egress.ends_with(suffix));
                assert!(plan.ingress.is_none_or(|name| name.ends_with(arriving)));
                assert_eq!(plan.ingress.is_some(), sides.0 || sides.1);
                assert_eq!(plan.xdp.is_some(), layer == Layer::Ethernet && plan.ingress.is_some());
                for name in plan.ingress.into_iter().chain([plan.egress]) {
                    assert!(TC_PROGRAMS.contains(&name), "{name}");
                }
                assert!(plan.xdp.is_none_or(|name| XDP_PROGRAMS.contains(&name)));
            }
            let plan = Plan::of(&link(Layer::Loopback), sides);
            assert_eq!((plan.egress, plan.ingress, plan.xdp, plan.roles), (LOOPBACK, None, None, 0));
        }
    }

    #[test]
    fn only_what_can_be_needed_is_loaded() {
        let example = include_str!("../../vpnat.example.toml");
        let two_arms = Config::parse(example, "x".as_ref()).unwrap();
        let needed = Needed::by(&two_arms);
        assert!(needed.tc.contains("egress_guard_l3") && needed.tc.contains("ingress_inside_l3"));
        assert!(!needed.tc.contains("ingress_both_l2"));
        assert_eq!(needed.xdp.iter().copied().collect::<Vec<_>>(), ["xdp_inside", "xdp_outside"]);
        let one_arm = Config::parse(&example.replace("eth1", "eth0"), "x".as_ref()).unwrap();
        let needed = Needed::by(&one_arm);
        assert!(needed.tc.contains("ingress_both_l2") && !needed.tc.contains("ingress_inside_l2"));
        let off = Config { xdp: XdpChoice::Off, ..one_arm };
        assert!(Needed::by(&off).xdp.is_empty());
    }
}
