//! The maps. Sizes marked "from the configuration" are set by the agent when it creates them.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, DevMap, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use vpnat_common::addr::{Ip4, Mac};
use vpnat_common::layout::account::{ACCOUNTS as ACCOUNT_COUNT, Account, AccountKey};
use vpnat_common::layout::clock::Settings;
use vpnat_common::layout::device::{Device, XdpPort};
use vpnat_common::layout::event::{EVENT_BUFFER, ExhaustedKey, TALLIES as TALLY_COUNT};
use vpnat_common::layout::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey, IDENTIFICATION_COUNTERS};
use vpnat_common::layout::held::{self, Aside, HeldFragment, HeldShare};
use vpnat_common::layout::outcome::{COUNTER_SLOTS, Count};
use vpnat_common::layout::pool::{POOLS, PoolKey, PortPool};
use vpnat_common::layout::recycling::{SetKey, WORKING_SETS as WORKING_SET_COUNT, WorkingSet};
use vpnat_common::layout::refusal::{Answers, Budget};
use vpnat_common::layout::rehearsal::Report;
use vpnat_common::layout::trace::{TRACE_BUFFER, TRACE_DEPTH, TraceArrival, TraceCpu, TraceFilter};
use vpnat_common::layout::vendor::{EgressAddress, PrefixTarget, SourceKey, SourceRule, VendorPolicy};
use vpnat_common::layout::{MAX_DEVICES, MAX_VENDORS};
use vpnat_common::ports::Search;

/// 2^32 / HZ, set by the agent: jiffies times this, shifted right by 32, are seconds.
#[unsafe(no_mangle)]
pub static CLOCK_MULTIPLIER: Global<u64> = Global::new(0);

/// The key of what ports are drawn from, set by the agent, another with each load; 0 and 0: there is none, and no flow is opened.
#[unsafe(no_mangle)]
pub static PORT_SECRET_A: Global<u64> = Global::new(0);

/// Its other half.
#[unsafe(no_mangle)]
pub static PORT_SECRET_B: Global<u64> = Global::new(0);

/// Not an LRU map: a flood of new flows must not evict a live one. Size from the configuration.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, FlowEntry, 524_288> = HashMap::new();

/// An LRU map: a decision that goes early costs one datagram, and its size bounds what a flood can take.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry, 16_384> = LruHashMap::new();

/// What the identifications of outbound datagrams are drawn from.
#[btf_map]
pub static IDENTIFICATIONS: Array<u32, { IDENTIFICATION_COUNTERS as usize }> = Array::new();

/// What is held in each slot of [`HELD_BYTES`]. Not pinned, as the bytes: an agent that starts begins with none held.
#[btf_map]
pub static HELD: Array<HeldFragment, { held::SLOTS as usize }> = Array::new();

#[btf_map]
pub static HELD_SHARES: Array<HeldShare, { held::SHARES as usize }> = Array::new();

/// The held fragments themselves, from the IP header on.
#[btf_map]
pub static HELD_BYTES: Array<[u8; held::KEPT_BYTES], { held::SLOTS as usize }> = Array::new();

/// Where a first fragment waits while those held for it are sent in its buffer. Not pinned.
#[btf_map]
pub static ASIDE: PerCpuArray<Aside, 1> = PerCpuArray::new();

/// Where a new flow's halves are put together, outbound first: the stack has no room for them. Not pinned; nothing in it
/// outlives a program's run.
#[btf_map]
pub static SCRATCH: PerCpuArray<FlowEntry, 2> = PerCpuArray::new();

/// An LRU map: a pool is a hint, and the endpoint that is no longer busy makes room for one that is.
#[btf_map]
pub static PORT_POOLS: LruHashMap<PoolKey, PortPool, POOLS> = LruHashMap::new();

/// What a new pool begins with; nobody writes it. Not pinned.
#[btf_map]
pub static NEW_POOL: Array<PortPool, 1> = Array::new();

/// An LRU map: a pod that opens no connections needs no set.
#[btf_map]
pub static WORKING_SETS: LruHashMap<SetKey, WorkingSet, WORKING_SET_COUNT> = LruHashMap::new();

/// What a new set begins with. Not pinned.
#[btf_map]
pub static NEW_SET: Array<WorkingSet, 1> = Array::new();

/// Where the search for a port is kept; not pinned either.
#[btf_map]
pub static SEARCH: PerCpuArray<Search, 1> = PerCpuArray::new();

/// What was found out about pairs of addresses lately, one cache per CPU. Not pinned; it holds no longer than a stamp.
#[btf_map]
pub static WAYS: PerCpuArray<KeptWay, { WAY_SLOTS as usize }> = PerCpuArray::new();

/// Entries of [`WAYS`], a power of two.
pub const WAY_SLOTS: u32 = 256;

/// A [`vpnat_common::engine::tables::Way`] and what it is of.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KeptWay {
    pub src: Ip4,
    pub dst: Ip4,
    pub ifindex: u32,
    pub stamp: u16,
    pub protocol: u8,
    pub vendor: u8,
    pub arrives: u8,
    pub slot: u8,
    pub mtu: u16,
    pub mac: Mac,
    pub _pad: u16,
}

/// Not an LRU map: a source whose count is lost could have as much again. Those without a flow are cleared by the agent.
#[btf_map]
pub static ACCOUNTS: HashMap<AccountKey, Account, ACCOUNT_COUNT, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
pub static VENDORS: Array<VendorPolicy, { MAX_VENDORS as usize }> = Array::new();

#[btf_map]
pub static VENDOR_PREFIXES: LpmTrie<Ip4, PrefixTarget, 4096> = LpmTrie::new();

#[btf_map]
pub static SOURCES: LpmTrie<SourceKey, SourceRule, 16_384> = LpmTrie::new();

#[btf_map]
pub static EGRESS: HashMap<Ip4, EgressAddress, 512> = HashMap::new();

#[btf_map]
pub static DEVICES: HashMap<u32, Device, 4096> = HashMap::new();

#[btf_map]
pub static XDP_PORTS: Array<XdpPort, { MAX_DEVICES as usize }> = Array::new();

#[btf_map]
pub static XDP_DEVICES: DevMap<{ MAX_DEVICES as usize }> = DevMap::new();

/// What is spent of the answers to refusals. Not pinned.
#[btf_map]
pub static ANSWER_BUDGET: Array<Budget, 1> = Array::new();

#[btf_map]
pub static ANSWERS: PerCpuArray<Answers, 1> = PerCpuArray::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<Count, { COUNTER_SLOTS as usize }> = PerCpuArray::new();

/// What a rehearsal has read and written of the flow table. Not pinned: each rehearsal has its own, of the size that
/// is set when it is loaded, and in all other loads these are as good as nothing.
#[btf_map]
pub static REHEARSED: HashMap<FlowKey, FlowEntry, 1> = HashMap::new();

/// A rehearsal's copies of port pools and working sets.
#[btf_map]
pub static REHEARSED_POOLS: HashMap<PoolKey, PortPool, 2> = HashMap::new();

#[btf_map]
pub static REHEARSED_SETS: HashMap<SetKey, WorkingSet, 2> = HashMap::new();

#[btf_map]
pub static REHEARSED_ACCOUNTS: HashMap<AccountKey, Account, 2> = HashMap::new();

#[btf_map]
pub static REPORT: Array<Report, 1> = Array::new();

#[btf_map]
pub static TALLIES: PerCpuArray<u64, { TALLY_COUNT as usize }> = PerCpuArray::new();

/// Of `FlowEvent`s; libbpf wants a ring buffer without a value's type. Size from the configuration.
#[btf_map]
pub static EVENTS: RingBuf<(), { EVENT_BUFFER as usize }> = RingBuf::new();

/// What a tracer wants. Not pinned, as the rest of its maps: they are those of the programs that were loaded together.
#[btf_map]
pub static TRACE_FILTER: Array<TraceFilter, 1> = Array::new();

/// What is spent of a second's events.
#[btf_map]
pub static TRACE_SPENT: Array<Budget, 1> = Array::new();

/// Packets between their arrival and their verdict, by how many programs this CPU has begun.
#[btf_map]
pub static TRACE_ARRIVALS: PerCpuArray<TraceArrival, { TRACE_DEPTH as usize }> = PerCpuArray::new();

#[btf_map]
pub static TRACE_CPU: PerCpuArray<TraceCpu, 1> = PerCpuArray::new();

/// Of `TraceEvent`s.
#[btf_map]
pub static TRACE_EVENTS: RingBuf<(), { TRACE_BUFFER as usize }> = RingBuf::new();

/// An LRU map: what goes early is noted once more.
#[btf_map]
pub static EXHAUSTED: LruHashMap<ExhaustedKey, u32, 1024> = LruHashMap::new();
