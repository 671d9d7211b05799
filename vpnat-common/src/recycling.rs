//! When the port of a closed TCP connection may serve another at once, and which one a pod uses again.
//!
//! A vendor's end that has closed first remembers the connection for a while (TIME-WAIT), and takes a new one from
//! the same port only if that is newer by its timestamp or, without timestamps, by its sequence number (RFC 1122
//! section 4.2.2.13, RFC 6191). Pods' timestamp clocks have nothing to do with each other, so a port that
//! one pod has used is good for that pod, and for another by luck. Hence each pod goes round in ports of its own: its
//! working set, as large as it opens connections in a second or two.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::addr::Port;
use crate::flow_ref::FlowRef;
use crate::layout::flow::{Phase, sent};
use crate::layout::recycling::{SET_PORTS, WorkingSet};

/// How long a connection must have been closed: for its last segments to be gone, or sent again if they were lost,
/// seconds.
pub const REST_S: i32 = 1;

/// Ports of the working set that are tried, at most.
pub const SET_TRIES: u32 = 12;

/// Tries that a port costs which the pod itself has used a moment ago: there are too few in the set, and looking on
/// finds more of the same.
pub const RECENT_COSTS: u32 = 4;

/// A port whose connection is open for longer is no good for short ones, seconds.
pub const SHORT_S: u32 = 5;

/// Closed connections that are looked at, at most, with no port left; one that is open counts for [`LIVE_COSTS`].
pub const LAST_TRIES: u32 = 14;

/// See [`LAST_TRIES`].
pub const LIVE_COSTS: u32 = 2;

/// What a new connection's first segment tells the far end of its age.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Syn {
    /// Sequence number, host byte order.
    pub seq: u32,
    /// Timestamp (RFC 7323), 0 if it has none.
    pub ts_val: u32,
}

/// Who wants the port of a closed connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claimant {
    /// The pod that had it.
    Same,
    /// Another pod, which has other ports to try.
    Other,
    /// Another pod, which has none.
    Last,
}

/// Whether the far end is sure to take a connection that begins with `syn` on the port of the closed one of
/// `outbound` and `inbound`.
#[inline(always)]
pub fn gives_way(outbound: &FlowRef<'_>, inbound: &FlowRef<'_>, syn: &Syn, claimant: Claimant) -> bool {
    let (pod, vendor) = (outbound.sent(), inbound.sent());
    match outbound.phase() {
        Some(Phase::TcpBothFin) if pod & vendor & sent::FIN_ACKED != 0 => {
            // Who closes second remembers nothing.
            vendor & sent::CLOSED_SECOND != 0
                || (claimant != Claimant::Other && is_newer(outbound, inbound, syn))
        }
        // RFC 7857 section 2.2 wants it kept, so it is the last resort.
        Some(Phase::TcpTrans) => claimant == Claimant::Last && (pod | vendor) & sent::RST_EXPECTED != 0,
        _ => false,
    }
}

/// Whether `syn` is newer than everything that the vendor's end has seen of the connection.
#[inline(always)]
fn is_newer(outbound: &FlowRef<'_>, inbound: &FlowRef<'_>, syn: &Syn) -> bool {
    let last = outbound.ts_val();
    if last != 0 && inbound.ts_val() != 0 && syn.ts_val != 0 {
        syn.ts_val.wrapping_sub(last) as i32 > 0
    } else {
        syn.seq.wrapping_sub(outbound.seq_end()) as i32 > 0
    }
}

/// A working set where it lies: in the map. Two CPUs that open connections of one pod at once may lose a port, or take
/// the same; the flow table tells them apart.
#[derive(Clone, Copy)]
pub struct SetRef<'a> {
    set: NonNull<WorkingSet>,
    map: PhantomData<&'a WorkingSet>,
}

impl SetRef<'_> {
    /// Wraps a pointer into the map of working sets.
    ///
    /// # Safety
    /// `set` points to a [`WorkingSet`] that stays readable and writable for `'a`.
    #[inline(always)]
    pub const unsafe fn new(set: NonNull<WorkingSet>) -> Self {
        Self { set, map: PhantomData }
    }

    #[inline(always)]
    fn head(&self) -> *mut u32 {
        // SAFETY: the field lies within the set.
        unsafe { &raw mut (*self.set.as_ptr()).head }
    }

    #[inline(always)]
    fn tail(&self) -> *mut u32 {
        // SAFETY: the field lies within the set.
        unsafe { &raw mut (*self.set.as_ptr()).tail }
    }

    #[inline(always)]
    fn place(&self, number: u32) -> *mut Port {
        // SAFETY: the field lies within the set, and the mask keeps the place inside it.
        unsafe { (&raw mut (*self.set.as_ptr()).ports).cast::<Port>().add(number as usize & (SET_PORTS - 1)) }
    }

    /// Takes out the port that was given out longest ago.
    #[inline(always)]
    pub fn pop(&self) -> Option<Port> {
        // SAFETY: `new` vouches for the memory; any bits are a value of these fields.
        unsafe {
            let head = self.head().read_volatile();
            if head == self.tail().read_volatile() {
                return None;
            }
            self.head().write_volatile(head.wrapping_add(1));
            Some(self.place(head).read_volatile())
        }
    }

    /// Puts a port in that is given out now. A set that is full forgets it.
    #[inline(always)]
    pub fn push(&self, port: Port) {
        // SAFETY: as above.
        unsafe {
            let tail = self.tail().read_volatile();
            if tail.wrapping_sub(self.head().read_volatile()) >= SET_PORTS as u32 {
                return;
            }
            self.place(tail).write_volatile(port);
            self.tail().write_volatile(tail.wrapping_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;

    #[test]
    fn a_set_is_a_queue_and_forgets_what_does_not_fit() {
        let mut set = Box::new(WorkingSet { head: u32::MAX - 3, tail: u32::MAX - 3, ..WorkingSet::EMPTY });
        // SAFETY: the box outlives the reference, and nobody else uses it.
        let set = unsafe { SetRef::new(NonNull::from(&mut *set)) };
        assert_eq!(set.pop(), None);
        for port in 0..SET_PORTS as u16 + 5 {
            set.push(Port::new(port));
        }
        for port in 0..SET_PORTS as u16 {
            assert_eq!(set.pop(), Some(Port::new(port)));
        }
        assert_eq!(set.pop(), None);
    }
}
