//! The flow table's rules: making a pair, keeping it whole, letting it go.
//!
//! * Inserting the inbound entry with "no exist" is the port collision test; nothing is checked first.
//! * A pair is taken away by whoever changes the outbound timer to [`GONE`] with a compare-and-exchange.
//! * A half whose other half is missing is completed when a packet comes by; one whose other half belongs
//!   to another flow is removed.

use super::tables::{Refused, Tables};
use super::{Clock, account, binding};
use crate::addr::{Ip4, Port};
use crate::checksum;
use crate::flow_ref::{FlowRef, Rewrite};
use crate::layout::MAX_EGRESS_PER_VENDOR;
use crate::layout::clock::Moment;
use crate::layout::event::Cause;
use crate::layout::flow::{Direction, FlowKey, Phase, kind, protocol, sent};
use crate::layout::pool::PoolKey;
use crate::layout::vendor::VendorPolicy;
use crate::packet::{Ip, Packet, Subject};

/// The timer of an entry that somebody is removing right now.
pub const GONE: Moment = Moment::new(0);

/// How long a flow must have been over before another flow or the sweep may take it: longer than any
/// packet that has just found it alive can still be on its way through a program, seconds.
pub const GRACE_S: u32 = 2;

/// The inbound key of the flow with the outbound `key`, seen from outside as `addr`:`port`.
#[inline(always)]
pub const fn inbound_key(key: &FlowKey, addr: Ip4, port: Port) -> FlowKey {
    FlowKey::new(key.dst, key.dst_port, addr, port, key.protocol).of_kind(key.kind)
}

/// The outbound key of the flow with the inbound `key` of the pod at `addr`:`port`.
#[inline(always)]
pub const fn outbound_key(key: &FlowKey, addr: Ip4, port: Port) -> FlowKey {
    FlowKey::new(addr, port, key.src, key.src_port, key.protocol).of_kind(key.kind)
}

/// The other half's key, whichever way `key` goes.
#[inline(always)]
pub const fn pair_key(key: &FlowKey, direction: Direction, rewrite: &Rewrite) -> FlowKey {
    match direction {
        Direction::Outbound => inbound_key(key, rewrite.addr, rewrite.port),
        Direction::Inbound => outbound_key(key, rewrite.addr, rewrite.port),
    }
}

/// Which of the vendor's egress addresses `inside` uses: always the same one (RFC 6888 REQ-2, "paired"). The
/// policy must have one.
#[inline(always)]
pub fn egress_address(policy: &VendorPolicy, inside: Ip4) -> Ip4 {
    let count = policy.egress_count;
    let place = if count <= 1 {
        0
    } else {
        // Fibonacci hashing spreads consecutive addresses evenly.
        let hash = u32::from_be_bytes(inside.octets).wrapping_mul(0x9e37_79b9);
        ((hash as u64 * count as u64) >> 32) as usize
    };
    // The mask is what the verifier sees of `count <= 8`.
    policy.egress[place & (MAX_EGRESS_PER_VENDOR - 1)]
}

/// When a flow may be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// It has been over for so many seconds.
    OverFor(u32),
    /// Now, and why: it may not go on.
    Now(Cause),
}

/// An entry and its other half, found together, with their timers. These are read once: what was judged is what must still
/// be there when the flow is claimed.
pub struct Pair<'a> {
    direction: Direction,
    entry: FlowRef<'a>,
    own_timer: Moment,
    other_key: FlowKey,
    /// A half that points elsewhere is another flow's: not ours to judge by, not ours to remove.
    other: Option<FlowRef<'a>>,
    other_timer: Moment,
}

impl<'a> Pair<'a> {
    /// The pair of the `entry` of `key`.
    #[inline(always)]
    pub fn find<T: Tables>(
        tables: &'a T,
        key: &FlowKey,
        direction: Direction,
        entry: &FlowRef<'a>,
        rewrite: &Rewrite,
    ) -> Self {
        let other_key = pair_key(key, direction, rewrite);
        let other = pair_of(tables, key, direction, &other_key);
        let own_timer = entry.expires();
        let other_timer = match &other {
            Some(other) => other.expires(),
            None => GONE,
        };
        Self { direction, entry: *entry, own_timer, other_key, other, other_timer }
    }

    /// Whether both timers ended `grace` seconds ago, since a flow lives as long as either half's timer runs, and nobody is
    /// removing it yet.
    #[inline(always)]
    pub fn is_over(&self, now: Moment, grace: u32) -> bool {
        self.deciding_timer() != GONE
            && !runs(self.own_timer, now, grace)
            && !runs(self.other_timer, now, grace)
    }

    /// The timer by which the flow is claimed: the outbound half decides who removes; an inbound half alone decides for itself.
    #[inline(always)]
    const fn deciding_timer(&self) -> Moment {
        match (self.direction, &self.other) {
            (Direction::Inbound, Some(_)) => self.other_timer,
            _ => self.own_timer,
        }
    }

    /// The other half, if there is one, and its timer.
    #[inline(always)]
    pub fn other(&self) -> Option<(FlowRef<'a>, Moment)> {
        self.other.map(|other| (other, self.other_timer))
    }

    /// Removes the flow, found under `key`; true if this caller removed it.
    #[inline(always)]
    pub fn remove<T: Tables>(&self, tables: &T, key: &FlowKey, cause: Cause) -> bool {
        let timer = self.deciding_timer();
        let claimed = timer != GONE
            && match (self.direction, &self.other) {
                (Direction::Inbound, Some(outbound)) => outbound.claim(timer, GONE),
                _ => self.entry.claim(timer, GONE),
            };
        if claimed {
            settle(tables, key, &self.entry, self.other, cause);
            if self.other.is_some() {
                tables.remove_flow(&self.other_key);
            }
            tables.remove_flow(key);
            release_port(
                tables,
                match self.direction {
                    Direction::Outbound => &self.other_key,
                    Direction::Inbound => key,
                },
            );
        }
        claimed
    }
}

/// Removes the flow of `entry`; true if this caller removed it.
#[inline(always)]
pub fn remove<T: Tables>(
    tables: &T,
    now: Moment,
    key: &FlowKey,
    direction: Direction,
    entry: &FlowRef<'_>,
    rewrite: &Rewrite,
    when: When,
) -> bool {
    let pair = Pair::find(tables, key, direction, entry, rewrite);
    match when {
        When::OverFor(grace) => pair.is_over(now, grace) && pair.remove(tables, key, Cause::Expired),
        When::Now(cause) => pair.remove(tables, key, cause),
    }
}

/// Takes note of a flow that ends, with the `entry` of `key` and its `other` half: for its source's account and its binding,
/// and for those who read events. A binding that ends is no flow's end.
#[inline(always)]
fn settle<'a, T: Tables>(
    tables: &'a T,
    key: &FlowKey,
    entry: &FlowRef<'a>,
    other: Option<FlowRef<'a>>,
    cause: Cause,
) {
    if key.kind == kind::FLOW {
        tables.flow_ended(key, entry, other, cause);
    }
    account::leave(tables, key, entry);
    binding::leave(tables, key, entry);
}

/// How long an ended flow's port is kept from others, seconds (RFC 6888 REQ-8). TCP's ends are tracked, so that its ports
/// need no hold (exemption a).
#[inline(always)]
pub const fn rest_of(policy: &VendorPolicy, protocol: u8) -> u32 {
    if protocol == protocol::TCP || policy.hold_s < GRACE_S { GRACE_S } else { policy.hold_s }
}

/// Takes note that the port of the inbound key `inbound`, whose entry is gone from the table, is free. After the
/// removal: whoever finds the port taken in between marks it and looks again.
#[inline(always)]
pub fn release_port<T: Tables>(tables: &T, inbound: &FlowKey) {
    if let Some(pool) = tables.pool(&PoolKey::of(inbound)) {
        pool.clear(inbound.dst_port);
    }
}

/// Whether a timer still runs, or has ended less than `grace` seconds ago.
#[inline(always)]
const fn runs(timer: Moment, now: Moment, grace: u32) -> bool {
    timer.seconds != GONE.seconds && timer.after(grace.wrapping_sub(1)).is_after(now)
}

/// The other half of the entry of `key`, if there is one under `other_key`.
#[inline(always)]
fn pair_of<'a, T: Tables>(
    tables: &'a T,
    key: &FlowKey,
    direction: Direction,
    other_key: &FlowKey,
) -> Option<FlowRef<'a>> {
    match tables.flow(other_key) {
        Some(other) if is_pair(key, direction, other_key, &other) => Some(other),
        _ => None,
    }
}

/// Whether `other`, found under `other_key`, is the other half of the entry of `key`.
#[inline(always)]
fn is_pair(key: &FlowKey, direction: Direction, other_key: &FlowKey, other: &FlowRef<'_>) -> bool {
    match direction {
        Direction::Outbound => other
            .rewrite(other_key, Direction::Inbound)
            .is_some_and(|back| back.addr == key.src && back.port == key.src_port),
        Direction::Inbound => other
            .rewrite(other_key, Direction::Outbound)
            .is_some_and(|back| back.addr == key.dst && back.port == key.dst_port),
    }
}

/// The external port of the packet's outbound flow, 0 if it has none: should the flow turn out to be over,
/// the packet's next one shall have it again.
#[inline(never)]
pub fn port_of<T: Tables, P: Packet>(tables: &T, packet: &P) -> Port {
    let Ok(ip) = Ip::read(packet) else { return Port::new(0) };
    let Ok(subject) = Subject::read::<P, false>(packet, &ip) else { return Port::new(0) };
    let key = subject.key;
    let Some(entry) = tables.flow(&key) else { return Port::new(0) };
    match entry.rewrite(&key, Direction::Outbound) {
        Some(to) => to.port,
        None => Port::new(0),
    }
}

/// What a look at a flow's timers found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// The flow lives.
    Alive,
    /// It had ended; it is no longer in the table.
    Over,
    /// It is being removed by somebody else, or it is not what it says.
    Invalid,
}

/// Looks at a flow whose stamp is no longer current or whose own timer has ended: at the other half's timer, at the
/// configuration, and completes the pair if its other half is missing. The stamp is the caller's to renew, and timers
/// are the packet's.
#[inline(always)]
pub fn renew<T: Tables>(
    tables: &T,
    clock: &Clock,
    policy: &VendorPolicy,
    key: &FlowKey,
    direction: Direction,
    entry: &FlowRef<'_>,
    rewrite: &Rewrite,
) -> Renewal {
    if matches!(entry.phase(), None | Some(Phase::Binding)) {
        return Renewal::Invalid;
    }
    let other_key = pair_key(key, direction, rewrite);
    let other = tables.flow(&other_key);
    match &other {
        Some(other) if !is_pair(key, direction, &other_key, other) => {
            // The other half is another flow's: this one is a leftover.
            settle(tables, key, entry, None, Cause::Leftover);
            tables.remove_flow(key);
            if matches!(direction, Direction::Inbound) {
                release_port(tables, key);
            }
            return Renewal::Over;
        }
        _ => {}
    }
    let egress = match direction {
        Direction::Outbound => rewrite.addr,
        Direction::Inbound => key.dst,
    };
    let alive = runs(entry.expires(), clock.now, 0)
        || other.as_ref().is_some_and(|other| runs(other.expires(), clock.now, 0));
    // An address that the configuration has taken away is a wrong source from then on.
    let may_go_on = policy.egress_addresses().any(|has| has == egress);
    if !alive || !may_go_on {
        if !alive && may_go_on && matches!(direction, Direction::Inbound) {
            // Its port rests. Only the pod may have it back before that is over.
            return Renewal::Over;
        }
        let when = if may_go_on { When::OverFor(0) } else { When::Now(Cause::Policy) };
        let removed = remove(tables, clock.now, key, direction, entry, rewrite, when);
        return if removed { Renewal::Over } else { Renewal::Invalid };
    }
    if other.is_none() && !complete_pair(tables, clock, key, entry, rewrite) {
        return Renewal::Invalid;
    }
    if !runs(entry.expires(), clock.now, 0)
        && let Some(other) = &other
    {
        // The other half speaks for both: until its timer ends nobody needs to ask it again.
        entry.set_expires(other.expires());
    }
    Renewal::Alive
}

/// Makes the missing other half of `entry`; false if there is no room for it.
#[inline(never)]
fn complete_pair<T: Tables>(
    tables: &T,
    clock: &Clock,
    key: &FlowKey,
    entry: &FlowRef<'_>,
    rewrite: &Rewrite,
) -> bool {
    let (Some(direction), Some(phase)) = (entry.direction(), entry.phase()) else { return false };
    let (addr, port, back) = match direction {
        Direction::Outbound => (key.src, key.src_port, Direction::Inbound),
        Direction::Inbound => (key.dst, key.dst_port, Direction::Outbound),
    };
    // Outside the stack, which has no room for it.
    let Some(half) = tables.scratch(back) else { return false };
    let other_key = pair_key(key, direction, rewrite);
    half.begin(rewrite.vendor, phase, entry.expires(), clock.now);
    half.set_rewrite(back, addr, port, checksum::delta32(rewrite.addr.to_ne(), addr.to_ne()));
    half.set_check(other_key.check(back, addr, port));
    // What it had sent is lost with it; the phase goes on from at least this.
    half.set_sent(sent::SYN | sent::ACK);
    half.set_window_scale(crate::tcp::MAX_WINDOW_SCALE);
    half.set_ack(entry.seq_end());
    half.set_window(u16::MAX);
    !matches!(tables.insert_scratch(back, &other_key), Err(Refused::Full))
}

/// When the sweep may remove a flow: nobody uses it any more.
pub const SWEPT: When = When::OverFor(GRACE_S);

/// Removes the flow of `key`, of either direction, at its time or now. For the sweep ([`SWEPT`]) and for operators: safe on
/// a key from an old snapshot. Returns how many entries went.
#[inline(always)]
pub fn reap<T: Tables>(tables: &T, clock: &Clock, key: &FlowKey, when: When) -> u32 {
    let Some(entry) = tables.flow(key) else { return 0 };
    let Some(direction) = entry.direction() else {
        tables.remove_flow(key);
        return 1;
    };
    let Some(rewrite) = entry.rewrite(key, direction) else {
        // Another flow has the slot by now, or the entry is corrupt; a sound one names its own key.
        return 0;
    };
    let when = match (when, tables.policy(rewrite.vendor)) {
        (When::OverFor(_), Some(policy)) => When::OverFor(rest_of(policy, key.protocol)),
        (when, _) => when,
    };
    let had_pair = tables
        .flow(&pair_key(key, direction, &rewrite))
        .is_some_and(|other| is_pair(key, direction, &pair_key(key, direction, &rewrite), &other));
    let removed = remove(tables, clock.now, key, direction, &entry, &rewrite, when);
    removed as u32 * (1 + had_pair as u32)
}
