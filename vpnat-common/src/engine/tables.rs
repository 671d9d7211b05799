//! What the engine asks of the world: maps, clock, routes. The BPF programs answer from the kernel, the
//! host's tests from collections of their own.

use crate::addr::Ip4;
use crate::flow_ref::FlowRef;
use crate::layout::clock::{Moment, Settings};
use crate::layout::device::{Device, XdpPort};
use crate::layout::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use crate::layout::outcome::{Hook, Outcome};
use crate::layout::vendor::{EgressAddress, PrefixTarget, VendorPolicy};

/// Why an entry could not be inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The key is taken.
    Exists,
    /// There is no room left.
    Full,
}

/// What the routing table says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// It leaves through this device; the neighbour is known.
    Ready {
        /// Interface index.
        ifindex: u32,
        /// The next hop's Ethernet address.
        mac: [u8; 6],
        /// Largest packet that the route takes, bytes.
        mtu: u16,
    },
    /// It leaves through this device, but XDP cannot send it: no neighbour yet, or too large.
    Slow {
        /// Interface index.
        ifindex: u32,
    },
    /// The stack will not forward it: unreachable, prohibited, local, forwarding off.
    NotForwarded,
    /// The kernel cannot tell.
    Unknown,
}

/// A packet to be routed, as it arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteQuery {
    /// Source address, which rules may match.
    pub src: Ip4,
    /// Destination address.
    pub dst: Ip4,
    /// IP protocol number.
    pub protocol: u8,
}

/// Maps and calls into the kernel.
pub trait Tables {
    /// What the agent has set.
    fn settings(&self) -> Settings;
    /// The clock, without the settings' offset.
    fn now(&self) -> Moment;
    /// A random number that an observer cannot guess.
    fn random(&self) -> u32;
    /// The entry of `key`.
    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>>;
    /// Inserts a new entry; never replaces one.
    ///
    /// # Errors
    /// [`Refused`].
    fn insert_flow(&self, key: &FlowKey, entry: &FlowEntry) -> Result<(), Refused>;
    /// Removes the entry of `key`, if there is one.
    fn remove_flow(&self, key: &FlowKey);
    /// The decision of a datagram's first fragment.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry>;
    /// Keeps the decision of a first fragment; false if there is no room.
    #[must_use]
    fn insert_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) -> bool;
    /// Longest-prefix match of a destination.
    fn vendor_of(&self, dst: Ip4) -> Option<PrefixTarget>;
    /// Whether the vendor in `slot` accepts packets from `src`.
    fn source_allowed(&self, slot: u8, src: Ip4) -> bool;
    /// The policy of the vendor in `slot`.
    fn policy(&self, slot: u8) -> Option<&VendorPolicy>;
    /// What `address` is used for, if it is an egress address.
    fn egress(&self, address: Ip4) -> Option<EgressAddress>;
    /// The part that a device plays.
    fn device(&self, ifindex: u32) -> Option<Device>;
    /// The device in an XDP slot.
    fn xdp_port(&self, slot: u8) -> Option<XdpPort>;
    /// Asks the routing table.
    fn route(&self, query: &RouteQuery) -> Route;
    /// Counts a packet of `bytes` of the vendor in slot `vendor` (0: nobody's).
    fn count(&self, vendor: u8, hook: Hook, outcome: Outcome, bytes: u32);
}
