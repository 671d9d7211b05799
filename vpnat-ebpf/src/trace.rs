//! The same programs once more, telling a tracer what they decide. They are attached only while somebody traces; those that
//! run otherwise have not one instruction of this.
//!
//! A packet's arrival is noted before the engine sees it and told of after its verdict, each by a function that the entry
//! point calls: no chain of calls becomes deeper. What is kept between the two lies in a per-CPU map.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use vpnat_common::atomic;
use vpnat_common::engine::{Clock, Decision};
use vpnat_common::layout::outcome::Hook;
use vpnat_common::layout::trace::{TRACE_DEPTH, TraceEvent};
use vpnat_common::packet::Packet;
use vpnat_common::trace::key_of;

use crate::maps::{TRACE_ARRIVALS, TRACE_CPU, TRACE_EVENTS, TRACE_FILTER, TRACE_SPENT};
use crate::tables::{Kernel, Surroundings};
use crate::whole::Places as _;

/// How often the budget's word is tried to be changed while other CPUs change it too.
const TRIES: u32 = 4;

/// The kernel's tables, and a tracer who is told.
pub enum Traced {}

impl Surroundings for Traced {
    type Tables = Kernel;

    const REHEARSES: bool = false;

    #[inline(always)]
    fn tables(context: *mut c_void, ifindex: u32) -> Kernel {
        Kernel::new(context, ifindex)
    }

    #[inline(always)]
    fn arrived<P: Packet>(packet: &P, hook: Hook, ifindex: u32, is_ipv4: bool) {
        arrived(packet, hook as u32, ifindex, is_ipv4);
    }

    #[inline(always)]
    fn decided<P: Packet>(packet: &P, decision: Decision) {
        decided(packet, decision);
    }
}

/// Notes the packet as it came, if anything may have to be told of it.
#[inline(never)]
fn arrived<P: Packet>(packet: &P, hook: u32, ifindex: u32, is_ipv4: bool) -> u32 {
    let Some(cpu) = TRACE_CPU.at_ptr(0) else { return 0 };
    // SAFETY: this CPU's own; a program that runs within this one leaves the depth as it has found it.
    let depth = unsafe {
        let depth = (*cpu).depth;
        (*cpu).depth = depth + 1;
        depth
    };
    let (Some(arrival), Some(filter)) = (TRACE_ARRIVALS.at_ptr(depth), TRACE_FILTER.look(0)) else {
        return 0;
    };
    // SAFETY: as above.
    let arrival = unsafe { &mut *arrival };
    let wanted = is_ipv4 && filter.until.is_after(Clock::read(&Kernel::anywhere()).now);
    arrival.wanted = wanted as u32;
    if wanted {
        arrival.key = key_of(packet);
        arrival.ifindex = ifindex;
        arrival.bytes = packet.len();
        arrival.hook = hook;
    }
    0
}

/// Tells what became of the packet whose arrival was noted.
#[inline(never)]
fn decided<P: Packet>(packet: &P, decision: Decision) -> u32 {
    let Some(cpu) = TRACE_CPU.at_ptr(0) else { return 0 };
    // SAFETY: as in `arrived`.
    let depth = unsafe {
        let depth = (*cpu).depth.wrapping_sub(1);
        (*cpu).depth = depth;
        depth
    };
    let Some(arrival) = TRACE_ARRIVALS.at_ptr(depth) else { return 0 };
    let Some(filter) = TRACE_FILTER.look(0) else { return 0 };
    // SAFETY: this CPU's own.
    let arrival = unsafe { &*arrival };
    if arrival.wanted == 0 {
        return 0;
    }
    let after = key_of(packet);
    if !filter.wants(arrival.hook, decision, &arrival.key, &after) {
        return 0;
    }
    if !spend(filter.per_second) {
        // SAFETY: this CPU's own.
        unsafe { (*cpu).suppressed += 1 };
        return 0;
    }
    let Some(mut room) = TRACE_EVENTS.reserve_untyped::<TraceEvent>(0) else {
        // SAFETY: as above.
        unsafe { (*cpu).lost += 1 };
        return 0;
    };
    let event: *mut TraceEvent = room.as_mut_ptr();
    // SAFETY: the buffer has room for an event there; the helper has no preconditions.
    unsafe {
        (*event).before = arrival.key;
        (*event).after = after;
        (*event).counter = decision.counter_at(arrival.hook);
        (*event).ifindex = arrival.ifindex;
        (*event).bytes = arrival.bytes;
        (*event).session = filter.session;
        (*event).time_ns = bpf_ktime_get_ns();
    }
    room.submit(0);
    0
}

/// Takes one of this second's events; false if they are spent.
#[inline(always)]
fn spend(per_second: u32) -> bool {
    let now = Clock::read(&Kernel::anywhere()).now.seconds;
    let Some(spent) = TRACE_SPENT.at_ptr(0) else { return false };
    // SAFETY: a value of the map stays valid until the program ends; the word is aligned, and all change it so.
    unsafe {
        for _ in 0..TRIES {
            let old = spent.read_volatile();
            if old.spent(now) >= per_second {
                return false;
            }
            if atomic::compare_exchange(spent.cast(), old.word, old.spend(now).word) == old.word {
                return true;
            }
        }
    }
    false
}

const _: () = assert!(TRACE_DEPTH >= 2);
