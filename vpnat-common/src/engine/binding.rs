//! Endpoint-independent mapping (RFC 4787 REQ-1, RFC 5382 REQ-1, RFC 5508 REQ-1a): a pod's end shows one port to all
//! remote ends.
//!
//! What says so is a pair of entries in the flow table like a flow's, a *binding*: the pod's end to its port, and the port
//! to the pod's end ([`kind::BINDING`]). Inserting the second with "no exist" gives the port one owner towards everybody, as
//! a flow's inbound half does towards one remote end, and everything else that holds for pairs holds for it. Flows are what
//! they are without it, so filtering stays address-and-port-dependent, and whatever becomes of a binding, no packet
//! reaches another pod.
//!
//! A binding lives while a flow of its lives, by two accounts of which the earlier ends it: the number of its flows, which
//! whoever removes one takes down, and a timer that the flows' looks at their own timers ([`super::session::renew`]) move on
//! beyond theirs. So a number that is too high costs a port until the timer ends, one that is too low the constancy of the
//! port, and a binding that is lost is made anew, with the port that the flow has.

use super::flows::{GONE, GRACE_S, inbound_key, outbound_key};
use super::tables::{Refused, Tables};
use super::{Clock, Decision, STAMP_SECONDS};
use crate::addr::{Ip4, Port};
use crate::flow_ref::FlowRef;
use crate::layout::clock::Moment;
use crate::layout::flow::{Direction, FlowKey, Phase, kind};
use crate::layout::outcome::Outcome;
use crate::layout::vendor::{VendorPolicy, flag};

/// How much longer a binding's timer runs than that of the flow which sets it: until that is looked at again.
const BEYOND_S: u32 = STAMP_SECONDS + GRACE_S;

/// How often another CPU may come in between.
const TRIES: u32 = 3;

/// Whether the vendor's flows share bindings.
#[inline(always)]
pub const fn are_kept(policy: &VendorPolicy) -> bool {
    policy.flags & flag::ENDPOINT_INDEPENDENT != 0
}

/// The outbound key of the binding that the `pod`'s end with this port has at `egress`.
#[inline(always)]
const fn key_of(pod: Ip4, port: Port, protocol: u8, egress: Ip4) -> FlowKey {
    FlowKey::new(pod, port, egress, Port::new(0), protocol).of_kind(kind::BINDING)
}

/// That of the flow with the outbound `key`.
#[inline(always)]
const fn key_for(key: &FlowKey, egress: Ip4) -> FlowKey {
    key_of(key.src, key.src_port, key.protocol, egress)
}

/// When a binding may end that a flow in `phase` has at this moment.
#[inline(always)]
const fn until(clock: &Clock, policy: &VendorPolicy, phase: Phase) -> Moment {
    clock.deadline(policy.timeouts.of(phase) + BEYOND_S)
}

/// Moves the timer of the binding's outbound half on to `until`; false if somebody is removing it.
#[inline(always)]
fn extend(binding: &FlowRef<'_>, until: Moment) -> bool {
    for _ in 0..TRIES {
        let seen = binding.expires();
        if seen == GONE {
            return false;
        }
        if !until.is_after(seen) || binding.claim(seen, until) {
            return true;
        }
    }
    binding.expires() != GONE
}

/// Looks for the binding of the flow that was prepared, of the vendor in `slot`, keeps it from ending, and has the search
/// take its port and no other; 1 if there is one. `whole`: one without its inbound half, whose port others could be given,
/// is none.
#[inline(never)]
pub fn find<T: Tables>(tables: &T, slot: u8, whole: bool) -> u32 {
    let (Some(policy), Some(search), Some(half)) =
        (tables.policy(slot), tables.search(), tables.scratch(Direction::Outbound))
    else {
        return 0;
    };
    let key = key_for(&search.key(), search.egress());
    let Some(binding) = tables.flow(&key) else { return 0 };
    let Some(to) = binding.rewrite(&key, Direction::Outbound) else { return 0 };
    if whole {
        let owned = inbound_key(&key, to.addr, to.port);
        let Some(owner) = tables.flow(&owned) else { return 0 };
        let Some(back) = owner.rewrite(&owned, Direction::Inbound) else { return 0 };
        if back.addr != key.src || back.port != key.src_port {
            return 0;
        }
    }
    let Some(phase) = half.phase() else { return 0 };
    if !extend(&binding, until(&Clock::read(tables), policy, phase)) {
        return 0;
    }
    search.fix(to.port);
    1
}

/// Prepares the binding of the flow that was prepared, of the vendor in `slot`: [`super::opening`] makes it like a flow.
#[inline(never)]
pub fn prepare<T: Tables>(tables: &T, slot: u8) -> Decision {
    let ends = |outcome| Decision::of(slot, outcome);
    let (Some(policy), Some(search)) = (tables.policy(slot), tables.search()) else {
        return ends(Outcome::NotReady);
    };
    let (Some(outbound), Some(inbound)) =
        (tables.scratch(Direction::Outbound), tables.scratch(Direction::Inbound))
    else {
        return ends(Outcome::NotReady);
    };
    let egress = search.egress();
    let key = key_for(&search.key(), egress);
    // One that has lost its inbound half keeps its port if that can be.
    let (before, returns) = match tables.flow(&key) {
        Some(half) => (half.rewrite(&key, Direction::Outbound).map_or(key.src_port, |to| to.port), 1),
        None => (Port::new(search.preferred() as u16), search.returns()),
    };
    let clock = Clock::read(tables);
    let phase = outbound.phase().unwrap_or(Phase::Udp);
    search.begin(&key, egress, before);
    search.set_returns(returns);
    outbound.begin(slot, Phase::Binding, until(&clock, policy, phase), clock.now);
    // The outbound half speaks for both; alone, this one is nobody's before long.
    inbound.begin(slot, Phase::Binding, clock.deadline(GRACE_S), clock.now);
    ends(Outcome::Outbound)
}

/// Counts a flow that was made with the outbound `key`: its binding has one more.
#[inline(always)]
pub fn join<T: Tables>(tables: &T, key: &FlowKey, egress: Ip4) {
    let key = key_for(key, egress);
    if let Some(binding) = tables.flow(&key)
        && binding.rewrite(&key, Direction::Outbound).is_some()
    {
        binding.add_flow();
    }
}

/// The outbound key, egress address and port of the flow with the entry of `key`.
#[inline(always)]
fn ends_of(key: &FlowKey, entry: &FlowRef<'_>) -> Option<(FlowKey, Ip4, Port)> {
    let direction = entry.direction()?;
    let to = entry.rewrite(key, direction)?;
    Some(match direction {
        Direction::Outbound => (*key, to.addr, to.port),
        Direction::Inbound => (outbound_key(key, to.addr, to.port), key.dst, key.dst_port),
    })
}

/// Counts a flow less that was removed, with the `entry` of `key`. The last one's binding ends with it.
#[inline(never)]
pub fn leave<T: Tables>(tables: &T, key: &FlowKey, entry: &FlowRef<'_>) -> u32 {
    if !tables.policy(entry.vendor()).is_some_and(are_kept) || key.kind != kind::FLOW {
        return 0;
    }
    let (pod, port, egress) = match entry.direction() {
        Some(Direction::Outbound) => (key.src, key.src_port, entry.new_addr()),
        Some(Direction::Inbound) => (entry.new_addr(), entry.new_port(), key.dst),
        None => return 0,
    };
    let key = key_of(pod, port, key.protocol, egress);
    let Some(binding) = tables.flow(&key) else { return 0 };
    // Flows older than it were never counted.
    if binding.rewrite(&key, Direction::Outbound).is_none() || binding.created().is_after(entry.created()) {
        return 0;
    }
    if binding.remove_flow() == 0 {
        let (seen, now) = (binding.expires(), Clock::read(tables).now);
        if seen != GONE && seen.is_after(now) && now != GONE {
            let _ = binding.claim(seen, now);
        }
    }
    0
}

/// Keeps the binding of the flow with the `entry` of `key` from ending before it, or makes it anew if it is lost. The only
/// flow of a binding sets its timer, earlier too: that of a connection which has closed.
#[inline(never)]
pub fn keep<T: Tables>(tables: &T, key: &FlowKey, entry: &FlowRef<'_>) -> u32 {
    let (Some(policy), Some(phase)) = (tables.policy(entry.vendor()), entry.phase()) else { return 0 };
    if !are_kept(policy) || key.kind != kind::FLOW {
        return 0;
    }
    let Some((outbound, egress, port)) = ends_of(key, entry) else { return 0 };
    let key = key_for(&outbound, egress);
    let until = until(&Clock::read(tables), policy, phase);
    let Some(binding) = tables.flow(&key) else {
        return restore(tables, &key, port, until, entry);
    };
    if binding.rewrite(&key, Direction::Outbound).is_some() {
        let seen = binding.expires();
        if binding.flows() > 1 {
            let _ = extend(&binding, until);
        } else if seen != GONE {
            let _ = binding.claim(seen, until);
        }
    }
    0
}

/// Makes the binding of `key` anew, for the flow of `entry` that has the `port`, unless that is another's by now.
#[inline(always)]
fn restore<T: Tables>(tables: &T, key: &FlowKey, port: Port, until: Moment, entry: &FlowRef<'_>) -> u32 {
    let (Some(outbound), Some(inbound)) =
        (tables.scratch(Direction::Outbound), tables.scratch(Direction::Inbound))
    else {
        return 0;
    };
    let owned = inbound_key(key, key.dst, port);
    inbound.begin(entry.vendor(), Phase::Binding, until, entry.created());
    inbound.set_rewrite(Direction::Inbound, key.src, key.src_port, 0);
    inbound.set_check(owned.check(Direction::Inbound, key.src, key.src_port));
    if tables.insert_scratch(Direction::Inbound, &owned) == Err(Refused::Exists) {
        let Some(owner) = tables.flow(&owned) else { return 0 };
        let back = owner.rewrite(&owned, Direction::Inbound);
        if !back.is_some_and(|back| back.addr == key.src && back.port == key.src_port) {
            return 0;
        }
    }
    outbound.begin(entry.vendor(), Phase::Binding, until, entry.created());
    outbound.set_rewrite(Direction::Outbound, key.dst, port, 0);
    outbound.set_check(key.check(Direction::Outbound, key.dst, port));
    outbound.add_flow();
    // Another flow's packet may have been faster.
    let _ = tables.insert_scratch(Direction::Outbound, key);
    0
}
