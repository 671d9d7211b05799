//! Telling of flows: tallies, and the event buffer while somebody reads it.
//!
//! Out of line, so that those who tell need no room on their stack for it; an event is written where it lies in the buffer.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use vpnat_common::addr::{Ip4, Port};
use vpnat_common::engine::Clock;
use vpnat_common::engine::tables::Tables as _;
use vpnat_common::flow_ref::FlowRef;
use vpnat_common::layout::event::{Cause, EXHAUSTED_EVERY_S, ExhaustedKey, FlowEvent, Kind, Tally};
use vpnat_common::layout::flow::FlowKey;

use crate::maps::{EVENTS, EXHAUSTED, TALLIES};
use crate::tables::Kernel;
use crate::whole::Places as _;

/// Adds one.
#[inline(always)]
pub fn count(slot: u8, tally: Tally) {
    if let Some(count) = TALLIES.at_ptr(tally.index(slot)) {
        // SAFETY: this CPU's own counter; programs of one CPU do not interrupt each other here.
        unsafe { *count += 1 };
    }
}

/// Whether somebody reads events.
#[inline(always)]
fn wanted() -> bool {
    Kernel::anywhere().settings().events != 0
}

/// Writes an event; one that does not fit is counted as lost. The time is taken last, when nothing else is needed any
/// more: what has to outlive a call to a helper costs room on the stack, and this is called at its deepest.
#[inline(always)]
fn write(fill: impl FnOnce(&mut FlowEvent)) {
    let Some(mut room) = EVENTS.reserve_untyped::<FlowEvent>(0) else {
        count(0, Tally::EventsLost);
        return;
    };
    let place = room.as_mut_ptr();
    for word in 0..size_of::<FlowEvent>() / size_of::<u64>() {
        // SAFETY: the words of the reserved place, which is aligned to eight bytes. Volatile: a `memset` instead would be
        // one function more on the stack.
        unsafe { place.cast::<u64>().add(word).write_volatile(0) };
    }
    // SAFETY: every byte was written, and zeroes are a `FlowEvent`.
    let event = unsafe { &mut *place };
    fill(event);
    event.now = Clock::read(&Kernel::anywhere()).now;
    // SAFETY: the helper has no preconditions.
    event.time_ns = unsafe { bpf_ktime_get_ns() };
    room.submit(0);
}

/// A flow was made.
#[inline(never)]
pub fn start(key: &FlowKey, entry: FlowRef<'_>) {
    count(entry.vendor(), Tally::opened(key.protocol));
    if wanted() {
        write(|event| event.fill_started(key, &entry));
    }
}

/// A flow is being removed.
#[inline(never)]
pub fn end(key: &FlowKey, entry: FlowRef<'_>, other: Option<FlowRef<'_>>, cause: Cause) {
    let phase = entry.phase().map_or(0, |phase| phase as u8);
    count(entry.vendor(), Tally::ended(cause, phase));
    if wanted() {
        write(|event| event.fill_ended(key, &entry, other, cause));
    }
}

/// A flow was refused.
#[inline(never)]
pub fn exhausted(kernel: &Kernel, kind: Kind, key: &FlowKey, egress: Ip4, slot: u8) {
    if kernel.settings().events == 0 {
        return;
    }
    let clock = Clock::read(kernel);
    let noted = ExhaustedKey { egress, protocol: key.protocol, kind: kind as u8, vendor: slot, _pad: 0 };
    // SAFETY: copied at once.
    let last = unsafe { EXHAUSTED.get(noted).copied() };
    if last.is_some_and(|last| clock.now.seconds.wrapping_sub(last) < EXHAUSTED_EVERY_S) {
        return;
    }
    // If it cannot be kept, the next refusal is noted too.
    let _ = EXHAUSTED.insert(noted, clock.now.seconds, BPF_ANY as u64);
    write(|event| event.fill(kind, key, egress, Port::new(0), slot));
}
