//! The engine's questions, answered by maps and helpers.

use core::ffi::c_void;
use core::ptr::NonNull;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, bpf_fib_lookup as FibLookup};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_get_prandom_u32, bpf_jiffies64, bpf_loop};
use vpnat_common::account_ref::AccountRef;
use vpnat_common::addr::{Ip4, Mac};
use vpnat_common::atomic;
use vpnat_common::engine::Decision;
use vpnat_common::engine::tables::{NextHop, Refused, Round, Route, RouteQuery, Tables, Way};
use vpnat_common::flow_ref::FlowRef;
use vpnat_common::held_ref::{HeldRef, ShareRef};
use vpnat_common::layout::account::{Account, AccountKey};
use vpnat_common::layout::clock::{Moment, Settings};
use vpnat_common::layout::device::Device;
use vpnat_common::layout::event::{Cause, Kind, Tally};
use vpnat_common::layout::flow::{Direction, FlowKey, FragmentEntry, FragmentKey};
use vpnat_common::layout::outcome::Hook;
use vpnat_common::layout::pool::PoolKey;
use vpnat_common::layout::recycling::SetKey;
use vpnat_common::layout::refusal::Budget;
use vpnat_common::layout::vendor::{
    EgressAddress, PrefixTarget, SOURCE_KEY_VENDOR_BITS, SourceKey, VendorPolicy,
};
use vpnat_common::packet::Packet;
use vpnat_common::pool_ref::PoolRef;
use vpnat_common::ports::SearchRef;
use vpnat_common::recycling::SetRef;
use vpnat_common::siphash;

use crate::events;
use crate::maps::{
    ACCOUNTS, ANSWER_BUDGET, ANSWERS, CLOCK_MULTIPLIER, COUNTERS, DEVICES, EGRESS, FLOWS, FRAGMENTS, HELD,
    HELD_SHARES, IDENTIFICATIONS, KeptWay, NEW_POOL, NEW_SET, PORT_POOLS, PORT_SECRET_A, PORT_SECRET_B,
    SCRATCH, SEARCH, SETTINGS, SOURCES, VENDOR_PREFIXES, VENDORS, WAY_SLOTS, WAYS, WORKING_SETS,
};
use crate::whole::{Places as _, Whole};

const EEXIST: i32 = -17;
const AF_INET: u8 = 2;

/// Return values of `bpf_fib_lookup` (`include/uapi/linux/bpf.h`).
mod fib {
    pub const SUCCESS: i64 = 0;
    pub const BLACKHOLE: i64 = 1;
    pub const UNREACHABLE: i64 = 2;
    pub const PROHIBIT: i64 = 3;
    pub const NOT_FWDED: i64 = 4;
    pub const FWD_DISABLED: i64 = 5;
    pub const NO_NEIGH: i64 = 7;
    pub const FRAG_NEEDED: i64 = 8;
}

/// What a program is made with.
pub trait Surroundings {
    /// Its tables.
    type Tables: Tables;

    /// Whether the packet is made up. A test run takes the first bytes of a packet without Ethernet header for one, so
    /// that what the kernel says of its protocol means nothing; it is IPv4.
    const REHEARSES: bool;

    /// For a program with `context` that runs on the device `ifindex`.
    fn tables(context: *mut c_void, ifindex: u32) -> Self::Tables;

    /// Looks at a packet as it comes, at a hook of a device, and whether it is IPv4. Nothing is kept in the program: the
    /// verifier would follow it through everything that comes after.
    #[inline(always)]
    fn arrived<P: Packet>(_: &P, _: Hook, _: u32, _: bool) {}

    /// Looks at it once more with its verdict.
    #[inline(always)]
    fn decided<P: Packet>(_: &P, _: Decision) {}
}

impl Surroundings for Kernel {
    type Tables = Self;

    const REHEARSES: bool = false;

    #[inline(always)]
    fn tables(context: *mut c_void, ifindex: u32) -> Self {
        Self::new(context, ifindex)
    }
}

/// The kernel as the program in `context` sees it.
pub struct Kernel {
    context: *mut c_void,
    ifindex: u32,
}

impl Kernel {
    /// For a program with `context` that runs on the device `ifindex`.
    #[inline(always)]
    pub const fn new(context: *mut c_void, ifindex: u32) -> Self {
        Self { context, ifindex }
    }

    /// For what asks neither about routes nor about the packet.
    #[inline(always)]
    pub const fn anywhere() -> Self {
        Self { context: core::ptr::null_mut(), ifindex: 0 }
    }
}

/// Where a way lies in the cache.
#[inline(always)]
fn way_slot(query: &RouteQuery) -> u32 {
    let mixed = query.src.to_ne().wrapping_mul(0x9e37_79b9) ^ query.dst.to_ne().wrapping_mul(0x85eb_ca6b);
    (mixed >> 24 ^ mixed >> 12) & (WAY_SLOTS - 1)
}

/// What `bpf_loop` calls.
extern "C" fn call_round<R: Round>(index: u32, rounds: *mut c_void) -> i64 {
    // SAFETY: `repeat` passes its own `rounds`, which nobody else uses meanwhile.
    i64::from(unsafe { &mut *rounds.cast::<R>() }.round(index))
}

/// The kernel's random numbers come from a linear generator: 113 bits of them tell all that follow. Under a key that nobody outside has
/// they tell nothing. A function of its own, for its many registers.
#[inline(never)]
fn unguessable(count: u32) -> u64 {
    let key = (PORT_SECRET_A.load(), PORT_SECRET_B.load());
    if key.0 | key.1 == 0 {
        return 0;
    }
    // The count is this CPU's.
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    siphash::hash::<1, 3>(key, (count as u64) << 32 | random as u64)
}

impl Tables for Kernel {
    #[inline(always)]
    fn repeat<R: Round>(&self, times: u32, rounds: &mut R) {
        // SAFETY: the callback has the helper's signature, and its context outlives the call.
        unsafe {
            bpf_loop(times, call_round::<R> as *const () as *mut c_void, (&raw mut *rounds).cast(), 0);
        }
    }

    #[inline(always)]
    fn settings(&self) -> Settings {
        match SETTINGS.look(0) {
            Some(settings) => *settings,
            None => Settings::default(),
        }
    }

    #[inline(always)]
    fn now(&self) -> Moment {
        // SAFETY: the helper only reads a kernel variable.
        let jiffies = unsafe { bpf_jiffies64() };
        Moment::new((jiffies.wrapping_mul(CLOCK_MULTIPLIER.load()) >> 32) as u32)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn unguessable(&self, count: u32) -> u64 {
        unguessable(count)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        // The kernel hashes words. One that was written in two parts would have to wait for both to reach the cache.
        let words = key.words();
        let entry = NonNull::new(FLOWS.get_ptr_mut(FlowKey::of_words(&words))?)?;
        // SAFETY: a value of FLOWS stays readable and writable until the program ends.
        Some(unsafe { FlowRef::new(entry) })
    }

    #[inline(always)]
    fn scratch(&self, half: Direction) -> Option<FlowRef<'_>> {
        let entry = SCRATCH.at(half as u32 - 1)?;
        // SAFETY: a value of SCRATCH stays readable and writable until the program ends.
        Some(unsafe { FlowRef::new(entry) })
    }

    #[inline(always)]
    fn search(&self) -> Option<SearchRef<'_>> {
        let search = SEARCH.at(0)?;
        // SAFETY: a value of SEARCH stays readable and writable until the program ends.
        Some(unsafe { SearchRef::new(search) })
    }

    #[inline(always)]
    fn insert_scratch(&self, half: Direction, key: &FlowKey) -> Result<(), Refused> {
        let Some(entry) = SCRATCH.look(half as u32 - 1) else { return Err(Refused::Full) };
        match FLOWS.insert(key, entry, BPF_NOEXIST as u64) {
            Ok(()) => Ok(()),
            Err(EEXIST) => Err(Refused::Exists),
            Err(_) => Err(Refused::Full),
        }
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        // Gone already is as good.
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn pool(&self, key: &PoolKey) -> Option<PoolRef<'_>> {
        let pool = NonNull::new(PORT_POOLS.get_ptr_mut(key)?)?;
        // SAFETY: a value of PORT_POOLS stays readable and writable until the program ends.
        Some(unsafe { PoolRef::new(pool) })
    }

    #[inline(always)]
    fn make_pool(&self, key: &PoolKey) {
        if let Some(empty) = NEW_POOL.look(0) {
            // Made by another CPU meanwhile is as good.
            let _ = PORT_POOLS.insert(key, empty, BPF_NOEXIST as u64);
        }
    }

    #[inline(always)]
    fn working_set(&self, key: &SetKey) -> Option<SetRef<'_>> {
        if let Some(set) = WORKING_SETS.get_ptr_mut(key).and_then(NonNull::new) {
            // SAFETY: a value of WORKING_SETS stays readable and writable until the program ends.
            return Some(unsafe { SetRef::new(set) });
        }
        // Made by another CPU meanwhile is as good.
        let _ = WORKING_SETS.insert(key, NEW_SET.look(0)?, BPF_NOEXIST as u64);
        let set = NonNull::new(WORKING_SETS.get_ptr_mut(key)?)?;
        // SAFETY: as above.
        Some(unsafe { SetRef::new(set) })
    }

    #[inline(always)]
    fn account(&self, key: &AccountKey) -> Option<AccountRef<'_>> {
        let account = NonNull::new(ACCOUNTS.get_ptr_mut(key)?)?;
        // SAFETY: a value of ACCOUNTS stays readable and writable until the program ends.
        Some(unsafe { AccountRef::new(account) })
    }

    #[inline(always)]
    fn make_account(&self, key: &AccountKey, since: Moment) {
        let empty = Account { flows: 0, since, opened: Budget::default() };
        // Made by another CPU meanwhile is as good.
        let _ = ACCOUNTS.insert(key, empty, BPF_NOEXIST as u64);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        // SAFETY: copied at once; entries are written whole and only by this program.
        unsafe { FRAGMENTS.get(key).copied() }
    }

    #[inline(always)]
    fn insert_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) -> bool {
        FRAGMENTS.insert(key, entry, BPF_ANY as u64).is_ok()
    }

    #[inline(always)]
    fn held(&self, slot: u32) -> Option<HeldRef<'_>> {
        let place = HELD.at(slot)?;
        // SAFETY: a value of the map stays readable and writable until the program ends.
        Some(unsafe { HeldRef::new(place) })
    }

    #[inline(always)]
    fn held_share(&self, share: u32) -> Option<ShareRef<'_>> {
        let place = HELD_SHARES.at(share)?;
        // SAFETY: as in `held`.
        Some(unsafe { ShareRef::new(place) })
    }

    #[inline(always)]
    fn take_identifications(&self, counter: u32, count: u32) -> u32 {
        match IDENTIFICATIONS.at_ptr(counter) {
            // SAFETY: a value of the map stays writable until the program ends; it is aligned, and all use it so.
            Some(counter) => unsafe { atomic::fetch_add(counter, count) },
            None => 0,
        }
    }

    #[inline(always)]
    fn vendor_of(&self, dst: Ip4) -> Option<PrefixTarget> {
        VENDOR_PREFIXES.get(&aya_ebpf::btf_maps::lpm_trie::Key::new(32, dst)).copied()
    }

    #[inline(always)]
    fn source_allowed(&self, slot: u8, src: Ip4) -> bool {
        let key = SourceKey::new(slot, src);
        SOURCES.get(&aya_ebpf::btf_maps::lpm_trie::Key::new(SOURCE_KEY_VENDOR_BITS + 32, key)).is_some()
    }

    #[inline(always)]
    fn policy(&self, slot: u8) -> Option<&VendorPolicy> {
        VENDORS.look(slot as u32)
    }

    #[inline(always)]
    fn egress(&self, address: Ip4) -> Option<EgressAddress> {
        // SAFETY: copied at once.
        unsafe { EGRESS.get(address).copied() }
    }

    #[inline(always)]
    fn device(&self, ifindex: u32) -> Device {
        // SAFETY: copied at once.
        match unsafe { DEVICES.get(Whole::new(ifindex).key()) } {
            Some(device) => *device,
            None => Device::default(),
        }
    }

    // Not by way of an option: the compiler may touch what is in it before it knows that there is something, and the
    // verifier takes offence.
    #[inline(always)]
    fn roles(&self, ifindex: u32) -> u8 {
        // SAFETY: copied at once.
        match unsafe { DEVICES.get(Whole::new(ifindex).key()) } {
            Some(device) => device.roles,
            None => 0,
        }
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Route {
        // SAFETY: integers and byte arrays only; all zero is what the helper expects of unused fields.
        let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
        lookup.family = AF_INET;
        lookup.l4_protocol = query.protocol;
        lookup.ifindex = self.ifindex;
        // Asked about any length, the helper tells the route's MTU, not that of the device only (TC).
        lookup.__bindgen_anon_1.tot_len = 1;
        lookup.__bindgen_anon_3.ipv4_src = query.src.to_ne();
        lookup.__bindgen_anon_4.ipv4_dst = query.dst.to_ne();
        // SAFETY: the context is that of the running program, the parameters are as long as stated.
        let result =
            unsafe { bpf_fib_lookup(self.context, &raw mut lookup, size_of::<FibLookup>() as i32, 0) };
        match result {
            fib::SUCCESS => Route::Ready {
                ifindex: lookup.ifindex,
                mac: Mac::new(lookup.dmac),
                // SAFETY: on success the helper has put the route's MTU here.
                mtu: unsafe { lookup.__bindgen_anon_1.mtu_result },
            },
            fib::NO_NEIGH | fib::FRAG_NEEDED => Route::Slow { ifindex: lookup.ifindex },
            fib::BLACKHOLE | fib::UNREACHABLE | fib::PROHIBIT | fib::NOT_FWDED | fib::FWD_DISABLED => {
                Route::NotForwarded
            }
            _ => Route::Unknown,
        }
    }

    #[inline(always)]
    fn way(&self, query: &RouteQuery, stamp: u16) -> Option<Way> {
        let kept = WAYS.look(way_slot(query))?;
        let same = kept.src == query.src
            && kept.dst == query.dst
            && kept.ifindex == self.ifindex
            && kept.stamp == stamp
            && kept.protocol == query.protocol;
        let next_hop = NextHop { slot: kept.slot, mac: kept.mac, mtu: kept.mtu };
        same.then_some(Way { vendor: kept.vendor, arrives: kept.arrives, next_hop })
    }

    #[inline(always)]
    fn keep_way(&self, query: &RouteQuery, stamp: u16, way: &Way) {
        if let Some(kept) = WAYS.at_ptr(way_slot(query)) {
            let (src, dst, ifindex, protocol) = (query.src, query.dst, self.ifindex, query.protocol);
            let NextHop { slot, mac, mtu } = way.next_hop;
            let (vendor, arrives) = (way.vendor, way.arrives);
            // SAFETY: this CPU's own; programs of one CPU do not interrupt each other here.
            unsafe {
                kept.write(KeptWay {
                    src,
                    dst,
                    ifindex,
                    stamp,
                    protocol,
                    vendor,
                    arrives,
                    slot,
                    mtu,
                    mac,
                    _pad: 0,
                });
            }
        }
    }

    #[inline(always)]
    fn answers(&self) -> Budget {
        match ANSWER_BUDGET.at_ptr(0) {
            // SAFETY: an aligned word that other CPUs change whole.
            Some(budget) => unsafe { budget.read_volatile() },
            None => Budget::default(),
        }
    }

    #[inline(always)]
    fn change_answers(&self, old: Budget, new: Budget) -> bool {
        let Some(budget) = ANSWER_BUDGET.at_ptr(0) else { return false };
        // SAFETY: a value of the map stays writable until the program ends; it is an aligned word, and all use it so.
        unsafe { atomic::compare_exchange(budget.cast(), old.word, new.word) == old.word }
    }

    #[inline(always)]
    fn count_answer(&self, sent: bool) {
        if let Some(answers) = ANSWERS.at_ptr(0) {
            // SAFETY: as in `count`.
            unsafe {
                if sent {
                    (*answers).sent += 1;
                } else {
                    (*answers).suppressed += 1;
                }
            }
        }
    }

    #[inline(always)]
    fn count(&self, decision: Decision, hook: Hook, bytes: u32) {
        if let Some(count) = COUNTERS.at_ptr(decision.counter(hook)) {
            // SAFETY: this CPU's own counter; programs of one CPU do not interrupt each other here.
            unsafe {
                (*count).packets += 1;
                (*count).bytes += bytes as u64;
            }
        }
    }

    #[inline(always)]
    fn tally(&self, slot: u8, tally: Tally) {
        events::count(slot, tally);
    }

    #[inline(always)]
    fn flow_started(&self, key: &FlowKey, entry: &FlowRef<'_>) {
        events::start(key, *entry);
    }

    #[inline(always)]
    fn flow_ended(&self, key: &FlowKey, entry: &FlowRef<'_>, other: Option<FlowRef<'_>>, cause: Cause) {
        events::end(key, *entry, other, cause);
    }

    #[inline(always)]
    fn exhausted(&self, kind: Kind, key: &FlowKey, egress: Ip4, slot: u8) {
        events::exhausted(self, kind, key, egress, slot);
    }
}
