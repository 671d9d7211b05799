//! What the engine asks of the world: maps, clock, routes. The BPF programs answer from the kernel, the
//! host's tests from collections of their own.

use super::Decision;
use crate::account_ref::AccountRef;
use crate::addr::{Ip4, Mac};
use crate::flow_ref::FlowRef;
use crate::held_ref::{HeldRef, ShareRef};
use crate::layout::account::AccountKey;
use crate::layout::clock::{Moment, Settings};
use crate::layout::device::Device;
use crate::layout::event::{Cause, Kind, Tally};
use crate::layout::flow::{Direction, FlowKey, FragmentEntry, FragmentKey};
use crate::layout::outcome::Hook;
use crate::layout::pool::PoolKey;
use crate::layout::recycling::SetKey;
use crate::layout::refusal::Budget;
use crate::layout::vendor::{EgressAddress, PrefixTarget, VendorPolicy};
use crate::packet::{Ip, Packet, Subject};
use crate::pool_ref::PoolRef;
use crate::ports::SearchRef;
use crate::recycling::SetRef;

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
        mac: Mac,
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

/// Where XDP sends a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// XDP slot of the device, 0 if XDP cannot send it on.
    pub slot: u8,
    /// Ethernet address of the neighbour.
    pub mac: Mac,
    /// Largest packet that it takes, bytes.
    pub mtu: u16,
}

impl NextHop {
    /// There is none.
    pub const NONE: Self = Self { slot: 0, mac: Mac { words: [0; 3] }, mtu: 1 };

    /// Nobody has looked for it.
    pub const UNKNOWN: Self = Self { mtu: 0, ..Self::NONE };

    /// Whether nobody has looked for it.
    #[inline(always)]
    pub const fn is_unknown(&self) -> bool {
        self.mtu == Self::UNKNOWN.mtu
    }
}

/// What the fast path has found out about packets from one address to another that arrive on one device: which
/// vendor's they are, that they are allowed, and where they go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Vendor slot.
    pub vendor: u8,
    /// XDP slot of the device that they arrive on.
    pub arrives: u8,
    /// Where XDP sends them.
    pub next_hop: NextHop,
}

/// A packet that a program can send on itself, past the stack.
pub trait Link: Packet {
    /// Whether the frame is addressed to this host: on a segment that floods, others' frames arrive too. Asked for
    /// first packets and with each renewal, not for every packet. `arrives` is the XDP slot of the device, 0 if the
    /// caller does not know.
    fn is_addressed_here(&self, arrives: u8) -> bool;

    /// XDP slot of the device that the frame arrived on, 0 if it has none.
    fn arrives(&self) -> u8;

    /// How large a packet the next hop gets to see: a GSO packet is cut into segments of this size first.
    fn wire_len(&self, ip: &Ip, subject: &Subject) -> u32;

    /// Makes sure that the packet can leave through the device in `slot`; nothing is written yet.
    #[must_use]
    fn reserve(&mut self, slot: u8) -> bool;

    /// Addresses the frame to `mac`, from the device in `slot`.
    #[must_use]
    fn address(&mut self, slot: u8, mac: Mac) -> bool;
}

/// One round of a loop that may run many times. Whatever loops is given to [`Tables::repeat`], because the
/// verifier would otherwise walk through every round of it.
pub trait Round {
    /// Does round `index`, from 0; true ends the loop.
    fn round(&mut self, index: u32) -> bool;
}

/// Maps and calls into the kernel.
pub trait Tables {
    /// Runs `rounds` until it says so, `times` times at most.
    ///
    /// Before Linux 6.7 the verifier follows a loop as if it ran exactly once, and takes out of the program what no such run reaches: what the
    /// rounds begin with has to be [`crate::opaque::opaque`], or what it knows of that stays true for it after any number of rounds.
    fn repeat<R: Round>(&self, times: u32, rounds: &mut R);
    /// What the agent has set.
    fn settings(&self) -> Settings;
    /// The clock, without the settings' offset.
    fn now(&self) -> Moment;
    /// A random number. From many of them an observer could guess the next: nothing that is seen from outside follows from it alone.
    fn random(&self) -> u32;
    /// A random number that nobody can guess, whatever was seen of others; 0 if there is no secret to make it of. `count` is another
    /// each time.
    fn unguessable(&self, count: u32) -> u64;
    /// The next number of a `search` for a port (RFC 6888 REQ-15).
    #[inline(always)]
    fn draw(&self, search: &SearchRef<'_>) -> u32 {
        search.draw()
    }
    /// The entry of `key`.
    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>>;
    /// An entry in which to make a new flow's half, outside the stack. There is one of each per CPU, and programs on one
    /// CPU do not interrupt each other between taking it and inserting it.
    fn scratch(&self, half: Direction) -> Option<FlowRef<'_>>;
    /// Where a search for a port is kept, likewise.
    fn search(&self) -> Option<SearchRef<'_>>;
    /// Inserts what [`Tables::scratch`] holds as a new entry; never replaces one.
    ///
    /// # Errors
    /// [`Refused`].
    fn insert_scratch(&self, half: Direction, key: &FlowKey) -> Result<(), Refused>;
    /// Removes the entry of `key`, if there is one.
    fn remove_flow(&self, key: &FlowKey);
    /// The port pool of `key`, if it has one.
    fn pool(&self, key: &PoolKey) -> Option<PoolRef<'_>>;
    /// Makes an empty port pool for `key` if it has none. It may be made at another's expense.
    fn make_pool(&self, key: &PoolKey);
    /// The working set of `key`, made empty if there was none; `None` if there is no room.
    fn working_set(&self, key: &SetKey) -> Option<SetRef<'_>>;
    /// What a source has, if it has an account.
    fn account(&self, key: &AccountKey) -> Option<AccountRef<'_>>;
    /// Opens an account for `key` at the moment `since`, if it has none and there is room.
    fn make_account(&self, key: &AccountKey, since: Moment);
    /// The decision of a datagram's first fragment.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry>;
    /// Keeps the decision of a first fragment; false if there is no room.
    #[must_use]
    fn insert_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) -> bool;
    /// A slot for held fragments, below [`SLOTS`](crate::layout::held::SLOTS).
    fn held(&self, slot: u32) -> Option<HeldRef<'_>>;
    /// A share of the slots, below [`SHARES`](crate::layout::held::SHARES).
    fn held_share(&self, share: u32) -> Option<ShareRef<'_>>;
    /// Draws `count` identifications in a row from a counter below
    /// [`IDENTIFICATION_COUNTERS`](crate::layout::flow::IDENTIFICATION_COUNTERS); returns the first.
    fn take_identifications(&self, counter: u32, count: u32) -> u32;
    /// Longest-prefix match of a destination.
    fn vendor_of(&self, dst: Ip4) -> Option<PrefixTarget>;
    /// Whether the vendor in `slot` accepts packets from `src`.
    fn source_allowed(&self, slot: u8, src: Ip4) -> bool;
    /// The policy of the vendor in `slot`.
    fn policy(&self, slot: u8) -> Option<&VendorPolicy>;
    /// What `address` is used for, if it is an egress address.
    fn egress(&self, address: Ip4) -> Option<EgressAddress>;
    /// The part that a device plays; none at all if it is not known. Not an option: what an absent one holds is
    /// undefined, and the compiler may copy it, which the verifier refuses.
    fn device(&self, ifindex: u32) -> Device;
    /// Bits of [`role`](crate::layout::device::role), 0 of a device that plays none.
    fn roles(&self, ifindex: u32) -> u8 {
        self.device(ifindex).roles
    }
    /// Asks the routing table.
    fn route(&self, query: &RouteQuery) -> Route;
    /// The way that was kept last for such packets on this CPU under the same `stamp`, if it has not made room for
    /// another one.
    fn way(&self, query: &RouteQuery, stamp: u16) -> Option<Way>;
    /// Keeps a way while `stamp` is current.
    fn keep_way(&self, query: &RouteQuery, stamp: u16, way: &Way);
    /// What is spent of the answers to refusals.
    fn answers(&self) -> Budget;
    /// Changes that from `old` to `new`; false if it is another by now.
    #[must_use]
    fn change_answers(&self, old: Budget, new: Budget) -> bool;
    /// Counts an answer that was sent, or one that was not because there were too many.
    fn count_answer(&self, sent: bool);
    /// Counts a packet of `bytes` that ended so at `hook`.
    fn count(&self, decision: Decision, hook: Hook, bytes: u32);
    /// Counts a change of a flow of the vendor in `slot`.
    fn tally(&self, slot: u8, tally: Tally);
    /// A flow with the outbound `key` and the outbound half `entry` was made: counts it, and tells whoever reads events.
    fn flow_started(&self, key: &FlowKey, entry: &FlowRef<'_>);
    /// The flow of `entry`, found under `key`, and of its `other` half is being removed by this caller: counts it, and
    /// tells whoever reads events.
    fn flow_ended(&self, key: &FlowKey, entry: &FlowRef<'_>, other: Option<FlowRef<'_>>, cause: Cause);
    /// The flow of the outbound `key` by way of `egress` was refused for lack of room: tells whoever reads events,
    /// once in a while.
    fn exhausted(&self, kind: Kind, key: &FlowKey, egress: Ip4, slot: u8);
}
