//! Attaching TC programs so that they outlive the agent and are replaced without a gap.

use std::fs;
use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, TcError};

use super::Error;
use super::error::chain;
use super::kernel::TcMethod;
use super::object::tc_program;
use super::pins::unpin_link;
use super::sys;
use crate::netlink::{filters, links::Link};

/// Priority and handle of our clsact filters, so that a new agent finds the old one's.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x7670);

/// What one attachment needs to know.
#[derive(Debug)]
pub struct Place<'a> {
    /// The device.
    pub link: &'a Link,
    /// The direction.
    pub direction: TcAttachType,
    /// Where the link is pinned (TCX).
    pub pin: &'a Path,
    /// For messages.
    pub point: &'static str,
}

impl Place<'_> {
    fn error(&self, program: &str, error: &dyn std::error::Error, remedy: impl Into<String>) -> Error {
        Error::Attach {
            program: program.into(),
            device: self.link.name.clone(),
            point: self.point,
            reason: chain(error),
            remedy: remedy.into(),
        }
    }
}

/// Puts `program` at `place`, in place of whatever vpnat had there.
pub fn attach(
    method: TcMethod,
    program: &mut SchedClassifier,
    name: &'static str,
    id: u32,
    place: &Place<'_>,
) -> Result<(), Error> {
    match method {
        TcMethod::Tcx => {
            attach_tcx(program, name, id, place)?;
            // Of an agent that ran with clsact: only now, so that the device is never open.
            remove_filters(place.link.index, place.direction)?;
        }
        TcMethod::Clsact => {
            attach_clsact(program, name, place)?;
            unpin_link(place.pin)?;
        }
    }
    if is_attached(method, id, place.link, place.direction)? {
        Ok(())
    } else {
        Err(Error::Vanished { device: place.link.name.clone(), point: place.point })
    }
}

/// Puts `program` at `place` in place of vpnat's program there, in one step. Where there is none, nothing is attached.
pub fn exchange(
    method: TcMethod,
    program: &mut SchedClassifier,
    name: &'static str,
    id: u32,
    place: &Place<'_>,
) -> Result<(), Error> {
    let vanished = || Error::Vanished { device: place.link.name.clone(), point: place.point };
    match method {
        TcMethod::Tcx => {
            const REMEDY: &str = "look whether another tool removes links, then try again";
            if !replace_link(program, place.pin).map_err(|error| place.error(name, &error, REMEDY))? {
                return Err(vanished());
            }
        }
        TcMethod::Clsact => {
            if our_filters(place.link.index, place.direction)?.is_empty() {
                return Err(vanished());
            }
            attach_clsact(program, name, place)?;
        }
    }
    if is_attached(method, id, place.link, place.direction)? { Ok(()) } else { Err(vanished()) }
}

fn attach_tcx(
    program: &mut SchedClassifier,
    name: &'static str,
    id: u32,
    place: &Place<'_>,
) -> Result<(), Error> {
    const REMEDY: &str = "remove programs that `bpftool net` shows there and nobody needs, or start with \
                          VPNAT_FORCE_CLSACT=1, which uses clsact filters instead";
    let replaced = replace_link(program, place.pin);
    let stale = match replaced {
        // A pin whose link is on a device that has been renamed since answers as well: look.
        Ok(true) if is_attached(TcMethod::Tcx, id, place.link, place.direction)? => return Ok(()),
        Ok(found) => found,
        Err(error) => {
            log::info!(
                "the link of {} {} cannot be taken over ({}); attaching afresh",
                place.link.name,
                place.point,
                chain(&error)
            );
            true
        }
    };
    // In front of everything: a program that ends the chain before ours would let packets out untranslated.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&place.link.name, place.direction, options)
        .map_err(|error| place.error(name, &error, REMEDY))?;
    let link = program.take_link(id).map_err(|error| place.error(name, &error, REMEDY))?;
    let link: FdLink = link.try_into().map_err(|error: LinkError| place.error(name, &error, REMEDY))?;
    if stale {
        unpin_link(place.pin)?;
    }
    link.pin(place.pin)
        .map_err(|error| place.error(name, &error, "make sure the pin directory can be written"))?;
    Ok(())
}

/// Replaces the program under a pinned link; whether there was one.
fn replace_link(program: &mut SchedClassifier, pin: &Path) -> Result<bool, ProgramError> {
    if fs::symlink_metadata(pin).is_err() {
        return Ok(false);
    }
    let other = |error: LinkError| ProgramError::IOError(io::Error::other(chain(&error)));
    let link = FdLink::from(PinnedLink::from_pin(pin).map_err(other)?);
    let link: SchedClassifierLink = link.try_into().map_err(other)?;
    let id = program.attach_to_link(link)?;
    // Dropping closes our descriptor; the pin keeps the link.
    program.take_link(id)?;
    Ok(true)
}

fn attach_clsact(program: &mut SchedClassifier, name: &'static str, place: &Place<'_>) -> Result<(), Error> {
    let device = &place.link.name;
    let remedy = || {
        let point = place.point;
        format!(
            "remove what `tc filter show dev {device} {point}` lists at pref {PRIORITY} and is not vpnat's"
        )
    };
    match qdisc_add_clsact(device) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(place.error(name, &error, "use a kernel with CONFIG_NET_SCH_INGRESS")),
    }
    let mut ours = our_filters(place.link.index, place.direction)?.into_iter();
    let id = match ours.next() {
        Some(old) => {
            let handle = TcHandle::from(old.handle);
            SchedClassifierLink::attached(device, place.direction, old.priority, handle, None)
                .map_err(ProgramError::from)
                .and_then(|link| program.attach_to_link(link))
        }
        None => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            program.attach_with_options(device, place.direction, TcAttachOptions::Netlink(options))
        }
    }
    .map_err(|error| place.error(name, &error, remedy()))?;
    // Dropping this kind of link would remove the filter, which is to outlive us.
    std::mem::forget(program.take_link(id).map_err(|error| place.error(name, &error, remedy()))?);
    for duplicate in ours {
        remove_filter(place.link.index, place.direction, &duplicate)?;
    }
    Ok(())
}

/// Whether the program `id` is attached there now, and with TCX in front of all others, asked from the kernel.
pub fn is_attached(method: TcMethod, id: u32, link: &Link, direction: TcAttachType) -> Result<bool, Error> {
    match method {
        TcMethod::Tcx => {
            let ingress = matches!(direction, TcAttachType::Ingress);
            match sys::tcx_programs(link.index, ingress) {
                Ok(programs) => Ok(programs.first() == Some(&id)),
                // The device went away meanwhile.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => Ok(false),
                Err(error) => Err(Error::Netlink { action: "asking what is attached by TCX", error }),
            }
        }
        TcMethod::Clsact => {
            let filters = our_filters(link.index, direction)?;
            Ok(filters.iter().any(|filter| filter.program_id == id && filter.direct_action))
        }
    }
}

/// The clsact filters of vpnat on a device, known by their names.
pub fn our_filters(device: u32, direction: TcAttachType) -> Result<Vec<filters::Filter>, Error> {
    let mut found = filters::dump(device, direction)
        .map_err(|error| Error::Netlink { action: "listing TC filters", error })?;
    found.retain(|filter| tc_program(&filter.name).is_some());
    Ok(found)
}

/// Removes vpnat's clsact filters from a device; how many there were.
pub fn remove_filters(device: u32, direction: TcAttachType) -> Result<usize, Error> {
    let filters = our_filters(device, direction)?;
    for filter in &filters {
        remove_filter(device, direction, filter)?;
    }
    Ok(filters.len())
}

fn remove_filter(device: u32, direction: TcAttachType, filter: &filters::Filter) -> Result<(), Error> {
    filters::remove(device, direction, filter)
        .map_err(|error| Error::Netlink { action: "removing a TC filter", error })
}
