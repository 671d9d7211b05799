//! Which ports a pod uses again and again towards one remote endpoint.

use super::flow::FlowKey;
use crate::addr::{Ip4, Port};

/// Pairs of pod and endpoint that can have a set at a time; the one unused for longest makes room.
pub const WORKING_SETS: usize = 2048;

/// Whose set it is, and towards what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct SetKey {
    /// The pod.
    pub pod: Ip4,
    /// The vendor's address.
    pub remote: Ip4,
    /// The egress address.
    pub egress: Ip4,
    /// The vendor's port.
    pub remote_port: Port,
    /// Padding, 0.
    pub _pad: u16,
}

impl SetKey {
    /// The set for flows such as that with the `outbound` key, by way of `egress`.
    #[inline(always)]
    pub const fn of(outbound: &FlowKey, egress: Ip4) -> Self {
        Self { pod: outbound.src, remote: outbound.dst, egress, remote_port: outbound.dst_port, _pad: 0 }
    }
}

/// Ports that a set can hold (a power of two).
pub const SET_PORTS: usize = 2048;

/// A working set: a queue of ports, that which was given out longest ago in front.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct WorkingSet {
    /// Ports taken out of the queue so far; the next lies at this place, modulo [`SET_PORTS`].
    pub head: u32,
    /// Ports put into it so far.
    pub tail: u32,
    /// The ports.
    pub ports: [Port; SET_PORTS],
}

impl WorkingSet {
    /// A set without ports.
    pub const EMPTY: Self = Self { head: 0, tail: 0, ports: [Port::new(0); SET_PORTS] };
}

const _: () = assert!(size_of::<SetKey>() == 16);
