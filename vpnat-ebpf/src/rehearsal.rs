//! The same engine without consequences: what it reads is live, what it writes goes to a rehearsal's own maps.
//!
//! For whoever adds to [`Tables`]: a question is passed on to the kernel's tables; whatever would change a pinned map
//! must not be.

use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::NonNull;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use vpnat_common::account_ref::AccountRef;
use vpnat_common::addr::Ip4;
use vpnat_common::engine::Decision;
use vpnat_common::engine::tables::{Refused, Round, Route, RouteQuery, Tables, Way};
use vpnat_common::flow_ref::FlowRef;
use vpnat_common::held_ref::{HeldRef, ShareRef};
use vpnat_common::layout::account::{Account, AccountKey};
use vpnat_common::layout::clock::{Moment, Settings};
use vpnat_common::layout::device::Device;
use vpnat_common::layout::event::{Cause, Kind, Tally};
use vpnat_common::layout::flow::{Direction, FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use vpnat_common::layout::outcome::Hook;
use vpnat_common::layout::pool::{PoolKey, PortPool};
use vpnat_common::layout::recycling::{SetKey, WorkingSet};
use vpnat_common::layout::refusal::Budget;
use vpnat_common::layout::rehearsal::{Report, asked};
use vpnat_common::layout::vendor::{EgressAddress, PrefixTarget, VendorPolicy};
use vpnat_common::pool_ref::PoolRef;
use vpnat_common::ports::SearchRef;
use vpnat_common::recycling::SetRef;

use crate::maps::{
    ACCOUNTS, FLOWS, NEW_POOL, NEW_SET, PORT_POOLS, REHEARSED, REHEARSED_ACCOUNTS, REHEARSED_POOLS,
    REHEARSED_SETS, REPORT, SCRATCH, WORKING_SETS,
};
use crate::tables::{Kernel, Surroundings};
use crate::whole::Places as _;

/// The kernel's tables, read only.
pub struct Rehearsal {
    kernel: Kernel,
}

impl Surroundings for Rehearsal {
    type Tables = Self;

    const REHEARSES: bool = true;

    #[inline(always)]
    fn tables(context: *mut c_void, ifindex: u32) -> Self {
        Self { kernel: Kernel::new(context, ifindex) }
    }
}

/// Changes the report.
#[inline(always)]
fn report(change: impl FnOnce(&mut Report)) {
    if let Some(report) = REPORT.at_ptr(0) {
        // SAFETY: the map belongs to one rehearsal, which runs one packet at a time.
        change(unsafe { &mut *report });
    }
}

/// Notes that `what`, a bit of [`asked`], was asked. A function of its own: the verifier goes on from each of its ends once, and not once for
/// each place that notes something.
#[inline(never)]
fn ask(what: u32) -> u32 {
    report(|report| report.asked |= what);
    what
}

/// This rehearsal's copy of the entry of `key`, made from the live one when it is first asked for. One way out for an entry: the verifier
/// goes on from each, at every place that asks.
#[inline(never)]
fn copy_of(key: &FlowKey) -> Option<NonNull<FlowEntry>> {
    let mut copy = REHEARSED.get_ptr_mut(key);
    if copy.is_none() {
        // SAFETY: a value of FLOWS stays readable until the program ends; the helper copies it at once.
        let live: &FlowEntry = unsafe { &*FLOWS.get_ptr(key)? };
        // What did not fit is not found.
        let _ = REHEARSED.insert(key, live, BPF_NOEXIST as u64);
        copy = REHEARSED.get_ptr_mut(key);
    }
    let copy = NonNull::new(copy?)?;
    (!is_gone(copy)).then_some(copy)
}

/// The direction of no entry: that of a copy which the rehearsal has removed.
const GONE: u8 = u8::MAX;

/// Whether the rehearsal has removed this copy.
#[inline(always)]
fn is_gone(copy: NonNull<FlowEntry>) -> bool {
    // SAFETY: a value of REHEARSED stays readable until the program ends.
    unsafe { copy.as_ptr().byte_add(offset_of!(FlowEntry, direction)).cast::<u8>().read() == GONE }
}

/// This rehearsal's copy of the pool of `key`, likewise.
#[inline(always)]
fn pool_of(key: &PoolKey) -> Option<NonNull<PortPool>> {
    if REHEARSED_POOLS.get_ptr(key).is_none() {
        // SAFETY: as in `copy_of`.
        let live: &PortPool = unsafe { &*PORT_POOLS.get_ptr(key)? };
        REHEARSED_POOLS.insert(key, live, BPF_NOEXIST as u64).ok()?;
    }
    NonNull::new(REHEARSED_POOLS.get_ptr_mut(key)?)
}

/// This rehearsal's copy of the working set of `key`, likewise; an empty one if there is none.
#[inline(always)]
fn set_of(key: &SetKey) -> Option<NonNull<WorkingSet>> {
    if REHEARSED_SETS.get_ptr(key).is_none() {
        let made = match WORKING_SETS.get_ptr(key) {
            Some(live) => {
                // SAFETY: as in `copy_of`.
                let live: &WorkingSet = unsafe { &*live };
                REHEARSED_SETS.insert(key, live, BPF_NOEXIST as u64)
            }
            None => REHEARSED_SETS.insert(key, NEW_SET.look(0)?, BPF_NOEXIST as u64),
        };
        made.ok()?;
    }
    NonNull::new(REHEARSED_SETS.get_ptr_mut(key)?)
}

/// This rehearsal's copy of the account of `key`, likewise.
#[inline(always)]
fn account_of(key: &AccountKey) -> Option<NonNull<Account>> {
    if REHEARSED_ACCOUNTS.get_ptr(key).is_none() {
        // SAFETY: as in `copy_of`.
        let live: &Account = unsafe { &*ACCOUNTS.get_ptr(key)? };
        REHEARSED_ACCOUNTS.insert(key, live, BPF_NOEXIST as u64).ok()?;
    }
    NonNull::new(REHEARSED_ACCOUNTS.get_ptr_mut(key)?)
}

/// Inserts into the copy what is in neither table.
#[inline(never)]
fn insert(key: &FlowKey, entry: &FlowEntry) -> u32 {
    let taken = match REHEARSED.get_ptr_mut(key).and_then(NonNull::new) {
        Some(copy) => !is_gone(copy),
        None => FLOWS.get_ptr(key).is_some(),
    };
    if taken {
        report(|report| report.taken += 1);
        return EXISTS;
    }
    let mut room = 0;
    report(|report| {
        room = report.room;
        report.room = room.saturating_sub(1);
    });
    if room == 0 || REHEARSED.insert(key, entry, BPF_ANY as u64).is_err() {
        return FULL;
    }
    DONE
}

// A function that the verifier looks at returns a plain number.
const DONE: u32 = 0;
const EXISTS: u32 = 1;
const FULL: u32 = 2;

impl Tables for Rehearsal {
    #[inline(always)]
    fn repeat<R: Round>(&self, times: u32, rounds: &mut R) {
        self.kernel.repeat(times, rounds);
    }

    #[inline(always)]
    fn settings(&self) -> Settings {
        self.kernel.settings()
    }

    #[inline(always)]
    fn now(&self) -> Moment {
        self.kernel.now()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        ask(asked::PORT);
        self.kernel.random()
    }

    #[inline(always)]
    fn unguessable(&self, count: u32) -> u64 {
        self.kernel.unguessable(count)
    }

    #[inline(always)]
    fn draw(&self, search: &SearchRef<'_>) -> u32 {
        ask(asked::PORT);
        search.draw()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        // SAFETY: a value of REHEARSED stays readable and writable until the program ends.
        copy_of(key).map(|entry| unsafe { FlowRef::new(entry) })
    }

    #[inline(always)]
    fn scratch(&self, half: Direction) -> Option<FlowRef<'_>> {
        // Not pinned, so it is this rehearsal's own.
        self.kernel.scratch(half)
    }

    #[inline(always)]
    fn search(&self) -> Option<SearchRef<'_>> {
        // Not pinned either.
        self.kernel.search()
    }

    #[inline(always)]
    fn pool(&self, key: &PoolKey) -> Option<PoolRef<'_>> {
        // SAFETY: a value of REHEARSED_POOLS stays readable and writable until the program ends.
        pool_of(key).map(|pool| unsafe { PoolRef::new(pool) })
    }

    #[inline(always)]
    fn make_pool(&self, key: &PoolKey) {
        if let Some(empty) = NEW_POOL.look(0) {
            let _ = REHEARSED_POOLS.insert(key, empty, BPF_NOEXIST as u64);
        }
    }

    #[inline(always)]
    fn working_set(&self, key: &SetKey) -> Option<SetRef<'_>> {
        // SAFETY: a value of REHEARSED_SETS stays readable and writable until the program ends.
        set_of(key).map(|set| unsafe { SetRef::new(set) })
    }

    #[inline(always)]
    fn account(&self, key: &AccountKey) -> Option<AccountRef<'_>> {
        // SAFETY: a value of REHEARSED_ACCOUNTS stays readable and writable until the program ends.
        account_of(key).map(|account| unsafe { AccountRef::new(account) })
    }

    #[inline(always)]
    fn make_account(&self, key: &AccountKey, since: Moment) {
        let empty = Account { flows: 0, since, opened: Budget::default() };
        let _ = REHEARSED_ACCOUNTS.insert(key, empty, BPF_NOEXIST as u64);
    }

    #[inline(always)]
    fn insert_scratch(&self, half: Direction, key: &FlowKey) -> Result<(), Refused> {
        let Some(entry) = SCRATCH.look(half as u32 - 1) else { return Err(Refused::Full) };
        match insert(key, entry) {
            DONE => Ok(()),
            EXISTS => Err(Refused::Exists),
            _ => Err(Refused::Full),
        }
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        if let Some(copy) = copy_of(key) {
            // SAFETY: a value of REHEARSED stays writable until the program ends; nobody takes this one for an entry any more.
            unsafe { copy.as_ptr().byte_add(offset_of!(FlowEntry, direction)).cast::<u8>().write(GONE) };
            report(|report| report.room += 1);
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        self.kernel.fragment(key)
    }

    #[inline(always)]
    fn insert_fragment(&self, _: &FragmentKey, _: &FragmentEntry) -> bool {
        true
    }

    #[inline(always)]
    fn held(&self, _: u32) -> Option<HeldRef<'_>> {
        None
    }

    #[inline(always)]
    fn held_share(&self, _: u32) -> Option<ShareRef<'_>> {
        None
    }

    #[inline(always)]
    fn take_identifications(&self, _: u32, _: u32) -> u32 {
        self.kernel.random()
    }

    #[inline(always)]
    fn vendor_of(&self, dst: Ip4) -> Option<PrefixTarget> {
        ask(asked::VENDOR);
        self.kernel.vendor_of(dst)
    }

    #[inline(always)]
    fn source_allowed(&self, slot: u8, src: Ip4) -> bool {
        ask(asked::SOURCE);
        self.kernel.source_allowed(slot, src)
    }

    #[inline(always)]
    fn policy(&self, slot: u8) -> Option<&VendorPolicy> {
        self.kernel.policy(slot)
    }

    #[inline(always)]
    fn egress(&self, address: Ip4) -> Option<EgressAddress> {
        self.kernel.egress(address)
    }

    #[inline(always)]
    fn device(&self, ifindex: u32) -> Device {
        self.kernel.device(ifindex)
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Route {
        let route = self.kernel.route(query);
        let (device, mtu) = match route {
            Route::Ready { ifindex, mtu, .. } => (ifindex, mtu),
            Route::Slow { ifindex } => (ifindex, 0),
            Route::NotForwarded | Route::Unknown => (0, 0),
        };
        report(|report| {
            report.asked |= asked::ROUTE;
            report.device = device;
            report.mtu = mtu as u32;
        });
        route
    }

    #[inline(always)]
    fn way(&self, _: &RouteQuery, _: u16) -> Option<Way> {
        // What is remembered explains nothing: everything is asked again.
        None
    }

    #[inline(always)]
    fn keep_way(&self, _: &RouteQuery, _: u16, _: &Way) {}

    #[inline(always)]
    fn answers(&self) -> Budget {
        self.kernel.answers()
    }

    #[inline(always)]
    fn change_answers(&self, _: Budget, _: Budget) -> bool {
        false
    }

    #[inline(always)]
    fn count_answer(&self, _: bool) {}

    #[inline(always)]
    fn count(&self, decision: Decision, hook: Hook, _: u32) {
        report(|report| {
            report.counter = decision.counter(hook);
            report.counted += 1;
        });
    }

    // Nothing has happened, so nobody is told and nothing is tallied.

    #[inline(always)]
    fn tally(&self, _: u8, _: Tally) {}

    #[inline(always)]
    fn flow_started(&self, _: &FlowKey, _: &FlowRef<'_>) {}

    #[inline(always)]
    fn flow_ended(&self, _: &FlowKey, _: &FlowRef<'_>, _: Option<FlowRef<'_>>, _: Cause) {}

    #[inline(always)]
    fn exhausted(&self, _: Kind, _: &FlowKey, _: Ip4, _: u8) {}
}
