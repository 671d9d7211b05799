//! Exchanging the programs on the devices for their traced forms, and back.
//!
//! Each exchange is one step of the kernel's, as when an agent takes over from another; between two of them some devices
//! have the one form and some the other, which decide the same. The forms are loaded together with the programs that run
//! otherwise, over the same maps, those of held fragments and of half-made flows too: nothing is lost on the way.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Array, Map, PerCpuArray, PerCpuValues};
use aya::programs::TcAttachType;
use vpnat_common::layout::names;
use vpnat_common::layout::trace::{TraceCpu, TraceFilter};

use super::super::error::Error;
use super::super::object::{self, classifier, xdp};
use super::super::tc::{self, Place};
use super::{Hooks, Plan, XDP_POINT, point_name};
use crate::netlink::links::{self, Link};

/// A device, what it carries, and whether XDP is used on it.
pub type Carrier = (Link, Plan, bool);

/// What a tracer reads.
#[derive(Debug)]
pub struct Readable {
    /// The ring buffer of events.
    pub events: OwnedFd,
    /// The per-CPU counts of what is missing there.
    pub counts: OwnedFd,
    /// What the events are marked with.
    pub session: u32,
}

fn programs((_, plan, with_xdp): &Carrier) -> impl Iterator<Item = &'static str> {
    [Some(plan.egress), plan.ingress, plan.xdp.filter(|_| *with_xdp)].into_iter().flatten()
}

impl Hooks {
    /// Whether traced forms are attached.
    pub fn trace(&self) -> bool {
        !self.traced.is_empty()
    }

    /// Puts the traced forms on `carriers` for what `filter` wants: all of them or, on an error, none.
    pub fn begin_trace(&mut self, carriers: &[Carrier], filter: TraceFilter) -> Result<Readable, Error> {
        let begun = self.load_traced(carriers).and_then(|()| {
            let readable = self.readable(filter.session)?;
            self.clear_counts()?;
            self.set_filter(filter)?;
            carriers.iter().try_for_each(|carrier| self.exchange(carrier))?;
            Ok(readable)
        });
        if begun.is_err()
            && let Err(error) = self.end_trace(carriers)
        {
            log::warn!("a trace that did not begin: {error}");
        }
        begun
    }

    /// Puts the programs that run otherwise back. What fails is left to whoever looks whether all hooks are there, and said.
    pub fn end_trace(&mut self, carriers: &[Carrier]) -> Result<(), Error> {
        let traced = std::mem::take(&mut self.traced);
        let mut failed = None;
        for carrier in carriers {
            if let Err(error) = self.exchange(carrier) {
                failed.get_or_insert(error);
            }
        }
        for (name, _) in traced {
            object::unload_traced(&mut self.object, name);
        }
        failed.map_or(Ok(()), Err)
    }

    fn load_traced(&mut self, carriers: &[Carrier]) -> Result<(), Error> {
        for name in carriers.iter().flat_map(programs) {
            if !self.traced.iter().any(|(known, _)| *known == name) {
                let id = object::load_traced(&mut self.object, name)?;
                self.traced.push((name, id));
            }
        }
        Ok(())
    }

    fn set_filter(&mut self, filter: TraceFilter) -> Result<(), Error> {
        let map = self.object.map_mut(names::TRACE_FILTER).ok_or_else(|| lacks(names::TRACE_FILTER))?;
        let mut filters =
            Array::<_, TraceFilter>::try_from(map).map_err(Error::map("opening", names::TRACE_FILTER))?;
        filters.set(0, filter, 0).map_err(Error::map("writing", names::TRACE_FILTER))
    }

    fn clear_counts(&mut self) -> Result<(), Error> {
        const NAME: &str = names::TRACE_CPU;
        let map = self.object.map_mut(NAME).ok_or_else(|| lacks(NAME))?;
        let mut counts = PerCpuArray::<_, TraceCpu>::try_from(map).map_err(Error::map("opening", NAME))?;
        let cpus = counts.get(&0, 0).map_err(Error::map("reading", NAME))?.len();
        let none = PerCpuValues::try_from(vec![TraceCpu::default(); cpus])
            .map_err(|error| Error::map("clearing", NAME)(error.into()))?;
        counts.set(0, none, 0).map_err(Error::map("clearing", NAME))
    }

    fn readable(&self, session: u32) -> Result<Readable, Error> {
        let copy = |name: &'static str| {
            let data = match self.object.map(name) {
                Some(Map::RingBuf(data) | Map::PerCpuArray(data)) => data,
                _ => return Err(lacks(name)),
            };
            data.fd()
                .as_fd()
                .try_clone_to_owned()
                .map_err(Error::file("copying the descriptor of a map", name))
        };
        Ok(Readable { events: copy(names::TRACE_EVENTS)?, counts: copy(names::TRACE_CPU)?, session })
    }

    /// Puts what belongs on a device in place of the other form.
    fn exchange(&mut self, carrier: &Carrier) -> Result<(), Error> {
        let (link, plan, with_xdp) = carrier;
        self.exchange_tc(link, TcAttachType::Egress, plan.egress)?;
        if let Some(program) = plan.ingress {
            self.exchange_tc(link, TcAttachType::Ingress, program)?;
        }
        match plan.xdp {
            Some(program) if *with_xdp => self.exchange_xdp(link, program),
            _ => Ok(()),
        }
    }

    fn exchange_tc(
        &mut self,
        link: &Link,
        direction: TcAttachType,
        program: &'static str,
    ) -> Result<(), Error> {
        let point = point_name(direction);
        let pin = self.pins.link(&link.name, point);
        let place = Place { link, direction, pin: &pin, point };
        let (id, form) = (self.id(program), self.form(program));
        tc::exchange(self.method, classifier(&mut self.object, &form)?, program, id, &place)
    }

    fn exchange_xdp(&mut self, link: &Link, program: &'static str) -> Result<(), Error> {
        let id = self.id(program);
        let form = self.form(program);
        let pin = self.pins.link(&link.name, XDP_POINT);
        super::update_xdp(xdp(&mut self.object, &form)?, &pin)
            .map_err(Error::program("exchanging", &form))?;
        let seen = links::dump().map_err(|error| Error::Netlink { action: "listing devices", error })?;
        let seen = seen.into_iter().find(|seen| seen.index == link.index).and_then(|seen| seen.xdp);
        if seen.is_some_and(|(_, found)| found == id) {
            Ok(())
        } else {
            Err(Error::Vanished { device: link.name.clone(), point: XDP_POINT })
        }
    }
}

fn lacks(name: &str) -> Error {
    Error::ObjectLacks { what: "map", name: name.into() }
}
