//! Maps, clock, routes and chance, in the hands of a test.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::ptr::NonNull;

use vpnat_common::account_ref::AccountRef;
use vpnat_common::addr::{Ip4, Mac, Port};
use vpnat_common::engine::tables::{Refused, Round, Route, RouteQuery, Tables, Way};
use vpnat_common::engine::{Decision, binding};
use vpnat_common::flow_ref::FlowRef;
use vpnat_common::held_ref::{HeldRef, ShareRef};
use vpnat_common::layout::account::{Account, AccountKey};
use vpnat_common::layout::clock::{Moment, Settings};
use vpnat_common::layout::device::{Device, role};
use vpnat_common::layout::event::{Cause, FlowEvent, Kind, Tally};
use vpnat_common::layout::flow::{
    Direction, FlowEntry, FlowKey, FragmentEntry, FragmentKey, IDENTIFICATION_COUNTERS, kind,
};
use vpnat_common::layout::held::{self, HeldFragment, HeldShare};
use vpnat_common::layout::outcome::Hook;
use vpnat_common::layout::pool::{PoolKey, PortPool};
use vpnat_common::layout::recycling::{SetKey, WorkingSet};
use vpnat_common::layout::refusal::Budget;
use vpnat_common::layout::vendor::{EgressAddress, PrefixTarget, VendorPolicy};
use vpnat_common::pool_ref::PoolRef;
use vpnat_common::ports::{Search, SearchRef};
use vpnat_common::recycling::SetRef;

use crate::frame::Kept;

/// The vendor's slot.
pub const VENDOR: u8 = 1;
/// The vendor's network is 192.0.2.0/24.
pub const VENDOR_NET: [u8; 3] = [192, 0, 2];
/// Pods live in 10.0.2.0/24.
pub const POD_NET: [u8; 3] = [10, 0, 2];
/// What the vendor sees.
pub const EGRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
/// The device towards the pods.
pub const INSIDE: u32 = 2;
/// The device towards the vendor.
pub const OUTSIDE: u32 = 3;

type Slot = Box<UnsafeCell<FlowEntry>>;

/// The world around the engine.
pub struct World {
    flows: RefCell<HashMap<FlowKey, Slot>>,
    /// Entries that were removed while the engine may still look at them, as the kernel keeps them until the
    /// program ends.
    removed: RefCell<Vec<Slot>>,
    scratch: [Slot; 2],
    fragments: RefCell<HashMap<FragmentKey, FragmentEntry>>,
    identifications: RefCell<HashMap<u32, u32>>,
    held: Vec<UnsafeCell<HeldFragment>>,
    shares: Vec<UnsafeCell<HeldShare>>,
    /// The held fragments themselves.
    pub kept: Kept,
    /// What a hook has sent through itself again, waiting for its turn.
    pub again: Vec<Vec<u8>>,
    pools: RefCell<HashMap<PoolKey, Box<UnsafeCell<PortPool>>>>,
    search: Box<UnsafeCell<Search>>,
    sets: RefCell<HashMap<SetKey, Box<UnsafeCell<WorkingSet>>>>,
    /// What was told of flows.
    pub events: RefCell<Vec<FlowEvent>>,
    /// What was counted of them.
    pub tallies: RefCell<Vec<Tally>>,
    /// Entries that the table takes.
    pub room: usize,
    /// The vendor's policy.
    pub policy: VendorPolicy,
    /// Settings.
    pub settings: Settings,
    /// Seconds.
    pub now: u32,
    /// Entries that somebody wanted to insert.
    pub tries: Cell<u32>,
    /// State of the random source.
    pub random: Cell<u32>,
    /// Whether the routing table knows the neighbours, so that the fast path can send.
    pub neighbours: bool,
    budget: Cell<Budget>,
    ways: RefCell<HashMap<(Ip4, Ip4, u8, u16), Way>>,
    accounts: RefCell<HashMap<AccountKey, Box<UnsafeCell<Account>>>>,
    /// Whether another CPU makes every flow a moment before this one does, with the same port.
    pub lose: Cell<bool>,
    /// Whether there is something that random ports can be made of.
    pub has_secret: Cell<bool>,
}

impl World {
    /// One vendor, whose flows have all ports from 1024 on.
    pub fn new() -> Self {
        let mut policy = VendorPolicy { egress_count: 1, ..VendorPolicy::FREE };
        policy.egress[0] = EGRESS.into();
        Self {
            flows: RefCell::default(),
            removed: RefCell::default(),
            scratch: [FlowEntry::EMPTY; 2].map(|half| Box::new(UnsafeCell::new(half))),
            fragments: RefCell::default(),
            identifications: RefCell::default(),
            held: (0..held::SLOTS).map(|_| UnsafeCell::default()).collect(),
            shares: (0..held::SHARES).map(|_| UnsafeCell::default()).collect(),
            kept: Kept::default(),
            again: Vec::new(),
            pools: RefCell::default(),
            search: Box::default(),
            sets: RefCell::default(),
            events: RefCell::default(),
            tallies: RefCell::default(),
            room: 1 << 20,
            policy,
            settings: Settings { ready: 1, ..Settings::default() },
            now: 1000,
            tries: Cell::new(0),
            random: Cell::new(0x1234_5678),
            neighbours: true,
            budget: Cell::default(),
            ways: RefCell::default(),
            accounts: RefCell::default(),
            lose: Cell::new(false),
            has_secret: Cell::new(true),
        }
    }

    /// Ends the program's run: what was removed meanwhile is gone.
    pub fn settle(&mut self) {
        self.removed.borrow_mut().clear();
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.flows.borrow().len()
    }

    /// A copy of the table.
    pub fn table(&mut self) -> BTreeMap<String, (FlowKey, FlowEntry)> {
        let flows = self.flows.get_mut();
        flows.iter_mut().map(|(key, slot)| (format!("{key:?}"), (*key, *slot.get_mut()))).collect()
    }

    /// What the accounts say: flows by source and protocol.
    pub fn accounts(&mut self) -> BTreeMap<(Ipv4Addr, u8), u32> {
        let accounts = self.accounts.get_mut();
        accounts
            .iter_mut()
            .map(|(key, account)| ((key.source.into(), key.protocol), account.get_mut().flows))
            .collect()
    }

    /// The pod behind a public UDP port towards the first server's port 53.
    pub fn owner(&self, port: u16) -> Ipv4Addr {
        let key = key(17, (Ipv4Addr::new(192, 0, 2, 10), 53), (EGRESS, port));
        let flows = self.flows.borrow();
        // SAFETY: one thread uses the entry, by copies only.
        let entry = unsafe { *flows.get(&key).expect("an inbound half").get() };
        Ipv4Addr::from(entry.new_addr.octets)
    }

    /// What the other CPU counts of the flow that it has made.
    fn rival_books(&self, key: &FlowKey, entry: &FlowEntry) {
        if key.kind != kind::FLOW {
            return;
        }
        let account = AccountKey::new(key.src, entry.vendor, key.protocol);
        self.make_account(&account, entry.created);
        assert!(self.account(&account).expect("an account").add(0));
        binding::join(self, key, entry.new_addr);
    }

    fn told(&self, fill: impl FnOnce(&mut FlowEvent)) {
        let mut event = FlowEvent::default();
        fill(&mut event);
        self.events.borrow_mut().push(event);
    }

    fn insert(&self, key: &FlowKey, entry: FlowEntry) -> Result<(), Refused> {
        // Inbound ones: as many as ports were tried.
        if entry.direction == Direction::Inbound {
            self.tries.set(self.tries.get() + 1);
        }
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(key) {
            return Err(Refused::Exists);
        }
        if flows.len() >= self.room {
            return Err(Refused::Full);
        }
        flows.insert(*key, Box::new(UnsafeCell::new(entry)));
        Ok(())
    }
}

impl Tables for World {
    fn repeat<R: Round>(&self, times: u32, rounds: &mut R) {
        let _ = (0..times).any(|index| rounds.round(index));
    }

    fn settings(&self) -> Settings {
        self.settings
    }

    fn now(&self) -> Moment {
        Moment::new(self.now)
    }

    fn random(&self) -> u32 {
        let next = self.random.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random.set(next);
        next ^ (next >> 16)
    }

    fn unguessable(&self, _: u32) -> u64 {
        if !self.has_secret.get() {
            return 0;
        }
        u64::from(self.random()) << 32 | u64::from(self.random()) | 1
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        let entry = NonNull::new(self.flows.borrow().get(key)?.get())?;
        // SAFETY: the entry lies in a box of its own, which goes no earlier than in `settle`, and that takes the
        // world mutably. One thread uses it, by copies only.
        Some(unsafe { FlowRef::new(entry) })
    }

    fn scratch(&self, half: Direction) -> Option<FlowRef<'_>> {
        let entry = NonNull::new(self.scratch[half as usize - 1].get())?;
        // SAFETY: the box lives as long as the world, and one thread uses it, by copies only.
        Some(unsafe { FlowRef::new(entry) })
    }

    fn search(&self) -> Option<SearchRef<'_>> {
        let search = NonNull::new(self.search.get())?;
        // SAFETY: the box lives as long as the world; one thread uses it.
        Some(unsafe { SearchRef::new(search) })
    }

    fn insert_scratch(&self, half: Direction, key: &FlowKey) -> Result<(), Refused> {
        // SAFETY: nobody else writes it; the engine uses copies only.
        let entry = unsafe { *self.scratch[half as usize - 1].get() };
        if half == Direction::Outbound && self.lose.get() && self.insert(key, entry).is_ok() {
            self.rival_books(key, &entry);
        }
        self.insert(key, entry)
    }

    fn remove_flow(&self, key: &FlowKey) {
        if let Some(slot) = self.flows.borrow_mut().remove(key) {
            self.removed.borrow_mut().push(slot);
        }
    }

    fn pool(&self, key: &PoolKey) -> Option<PoolRef<'_>> {
        let pool = NonNull::new(self.pools.borrow().get(key)?.get())?;
        // SAFETY: the pool lies in a box of its own that lives as long as the world; one thread uses it.
        Some(unsafe { PoolRef::new(pool) })
    }

    fn make_pool(&self, key: &PoolKey) {
        self.pools.borrow_mut().entry(*key).or_insert_with(|| Box::new(UnsafeCell::new(PortPool::EMPTY)));
    }

    fn working_set(&self, key: &SetKey) -> Option<SetRef<'_>> {
        let mut sets = self.sets.borrow_mut();
        let set = sets.entry(*key).or_insert_with(|| Box::new(UnsafeCell::new(WorkingSet::EMPTY)));
        let set = NonNull::new(set.get())?;
        // SAFETY: the set lies in a box of its own that lives as long as the world; one thread uses it.
        Some(unsafe { SetRef::new(set) })
    }

    fn account(&self, key: &AccountKey) -> Option<AccountRef<'_>> {
        let account = NonNull::new(self.accounts.borrow().get(key)?.get())?;
        // SAFETY: the account lies in a box of its own that lives as long as the world; one thread uses it.
        Some(unsafe { AccountRef::new(account) })
    }

    fn make_account(&self, key: &AccountKey, since: Moment) {
        let empty = Account { flows: 0, since, opened: Budget::default() };
        self.accounts.borrow_mut().entry(*key).or_insert_with(|| Box::new(UnsafeCell::new(empty)));
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        self.fragments.borrow().get(key).copied()
    }

    fn insert_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) -> bool {
        self.fragments.borrow_mut().insert(*key, *entry);
        true
    }

    fn held(&self, slot: u32) -> Option<HeldRef<'_>> {
        let place = NonNull::new(self.held.get(slot as usize)?.get())?;
        // SAFETY: the slots live as long as the world, and one thread uses them, by copies only.
        Some(unsafe { HeldRef::new(place) })
    }

    fn held_share(&self, share: u32) -> Option<ShareRef<'_>> {
        let place = NonNull::new(self.shares.get(share as usize)?.get())?;
        // SAFETY: as in `held`.
        Some(unsafe { ShareRef::new(place) })
    }

    fn take_identifications(&self, counter: u32, count: u32) -> u32 {
        assert!(counter < IDENTIFICATION_COUNTERS);
        let mut counters = self.identifications.borrow_mut();
        let value = counters.entry(counter).or_default();
        let first = *value;
        *value = first.wrapping_add(count);
        first
    }

    fn vendor_of(&self, dst: Ip4) -> Option<PrefixTarget> {
        let vendors = dst.octets[..3] == VENDOR_NET;
        vendors.then_some(PrefixTarget { vendor: VENDOR, exempt: 0, _pad: [0; 2] })
    }

    fn source_allowed(&self, slot: u8, src: Ip4) -> bool {
        slot == VENDOR && src.octets[..3] == POD_NET
    }

    fn policy(&self, slot: u8) -> Option<&VendorPolicy> {
        (slot == VENDOR).then_some(&self.policy)
    }

    fn egress(&self, address: Ip4) -> Option<EgressAddress> {
        (address == EGRESS.into()).then_some(EgressAddress { vendors: 1 << VENDOR })
    }

    fn device(&self, ifindex: u32) -> Device {
        let (roles, xdp_slot) = match ifindex {
            INSIDE => (role::INSIDE, 1),
            OUTSIDE => (role::OUTSIDE | role::GUARDED, 2),
            _ => return Device::default(),
        };
        Device { roles, xdp_slot, ..Device::default() }
    }

    fn route(&self, query: &RouteQuery) -> Route {
        let ifindex = if query.dst.octets[..3] == POD_NET { INSIDE } else { OUTSIDE };
        if self.neighbours {
            Route::Ready { ifindex, mac: Mac::new([2, 0, 0, 0, 0, 1]), mtu: 1500 }
        } else {
            Route::Slow { ifindex }
        }
    }

    fn way(&self, query: &RouteQuery, stamp: u16) -> Option<Way> {
        self.ways.borrow().get(&(query.src, query.dst, query.protocol, stamp)).copied()
    }

    fn keep_way(&self, query: &RouteQuery, stamp: u16, way: &Way) {
        self.ways.borrow_mut().insert((query.src, query.dst, query.protocol, stamp), *way);
    }

    fn answers(&self) -> Budget {
        self.budget.get()
    }

    fn change_answers(&self, old: Budget, new: Budget) -> bool {
        let same = self.budget.get() == old;
        if same {
            self.budget.set(new);
        }
        same
    }

    fn count_answer(&self, _: bool) {}

    fn count(&self, _: Decision, _: Hook, _: u32) {}

    fn tally(&self, _: u8, tally: Tally) {
        self.tallies.borrow_mut().push(tally);
    }

    fn flow_started(&self, key: &FlowKey, entry: &FlowRef<'_>) {
        self.told(|event| event.fill_started(key, entry));
    }

    fn flow_ended(&self, key: &FlowKey, entry: &FlowRef<'_>, other: Option<FlowRef<'_>>, cause: Cause) {
        self.told(|event| event.fill_ended(key, entry, other, cause));
    }

    fn exhausted(&self, kind: Kind, key: &FlowKey, egress: Ip4, slot: u8) {
        self.told(|event| event.fill(kind, key, egress, Port::new(0), slot));
    }
}

/// The key of a packet of `protocol` from `source` to `destination`.
pub fn key(protocol: u8, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> FlowKey {
    let (from, to) = (Port::new(source.1), Port::new(destination.1));
    FlowKey::new(source.0.into(), from, destination.0.into(), to, protocol)
}
