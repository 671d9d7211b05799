//! A flow being made: the search for its port, and both entries.
//!
//! Three steps that a program calls one after the other ([`super::session::open`]), so that none lies on another's stack:
//! one reads the packet and prepares, [`take_port`] searches, [`complete`] inserts. What they have in common lies in
//! per-CPU maps: the two halves, and the search.

use super::flows::{GONE, Pair, inbound_key, release_port, rest_of};
use super::tables::{Refused, Round, Tables};
use super::{Clock, Decision, account, binding};
use crate::addr::{Ip4, Port};
use crate::checksum;
use crate::flow_ref::{FlowRef, Rewrite};
use crate::layout::clock::Moment;
use crate::layout::event::{Cause, Kind};
use crate::layout::flow::{Direction, FlowKey, Phase, kind};
use crate::layout::outcome::Outcome;
use crate::layout::pool::PoolKey;
use crate::layout::recycling::SetKey;
use crate::layout::vendor::VendorPolicy;
use crate::pool_ref::ones;
use crate::ports::{
    BLIND_TRIES, CHANCE, FAILURES, POOL_TRIES, RACES, ROUNDS, Range, SAMPLE, SearchRef, stage,
};
use crate::recycling::{
    self, Claimant, LAST_TRIES, LIVE_COSTS, RECENT_COSTS, REST_S, SET_TRIES, SHORT_S, Syn,
};

/// Finds a port for the flow that was prepared, of the vendor in `slot`, and inserts the inbound half with it: that which
/// the flow had before, or the pod's own, if that can be. A connection from its first segment on may have that of a
/// closed one. The outcome translates if there is one now; if not, nothing is left behind.
#[inline(never)]
pub fn take_port<T: Tables>(tables: &T, slot: u8) -> Decision {
    let ends = |outcome| Decision::of(slot, outcome);
    let (Some(policy), Some(search), Some(entry)) =
        (tables.policy(slot), tables.search(), tables.scratch(Direction::Inbound))
    else {
        return ends(Outcome::NotReady);
    };
    let (key, egress) = (search.key(), search.egress());
    let delta = checksum::delta32(egress.to_ne(), key.src.to_ne());
    if search.failed() == tables.now().seconds && is_hopeless(tables, slot) {
        return ends(Outcome::PortsExhausted);
    }
    entry.set_rewrite(Direction::Inbound, key.src, key.src_port, delta);
    for _ in 0..RACES {
        tables.repeat(ROUNDS, &mut Opening { tables, entry, policy, key: &key, egress, search });
        if search.victim() == 0 || take_over(tables, &key, egress, search, rest_of(policy, key.protocol)) {
            break;
        }
        // Lost to another CPU. On from another place: taken ports stand together.
        search.walk_from(Range::of(policy).pick(tables.draw(&search)));
    }
    if search.port() != 0 {
        return ends(Outcome::Outbound);
    }
    let (kind, outcome) = match search.no_room() {
        0 => (Kind::PortsExhausted, Outcome::PortsExhausted),
        _ => (Kind::TableFull, Outcome::TableFull),
    };
    if search.whole() != 0
        && search.is_syn() == 0
        && let Some(pool) = tables.pool(&PoolKey::of(&inbound_key(&key, egress, Port::new(0))))
    {
        let now = tables.now();
        pool.count_failed(now);
        search.set_failed(now.seconds);
    }
    // A binding is refused towards everybody.
    let remote = if key.kind == kind::FLOW { key.dst } else { Ip4::UNSPECIFIED };
    tables.exhausted(kind, &FlowKey { dst: remote, ..key }, egress, slot);
    ends(outcome)
}

/// Whether a datagram need not search: enough others have found every port taken in this second, and none has been given back
/// since. What refusals cost is then bounded for all of them together.
///
/// Not for connections, since closed ones give way to them, one more with every second that passes; not for a flow that comes
/// back to its port; and not for one in [`CHANCE`], so that a flow which has lost half of its entries is soon whole again.
#[inline(never)]
fn is_hopeless<T: Tables>(tables: &T, slot: u8) -> bool {
    let (Some(policy), Some(search)) = (tables.policy(slot), tables.search()) else { return true };
    let now = tables.now();
    if search.is_syn() | search.returns() | search.fixed() != 0 {
        return false;
    }
    let preferred = Port::new(search.preferred() as u16);
    let reverse = inbound_key(&search.key(), search.egress(), preferred);
    let Some(pool) = tables.pool(&PoolKey::of(&reverse)) else { return false };
    let own = pool.taken(preferred.number as u32 >> 6) >> (preferred.number & 63) & 1 != 0;
    pool.failed(now) >= FAILURES
        && (own || !Range::of(policy).contains(preferred))
        && tables.random() & (CHANCE - 1) != 0
}

/// Whether half of the ports around the pod's own are taken: new ones are then left to pods that need them for their
/// working sets.
#[inline(always)]
pub fn is_crowded<T: Tables>(tables: &T, key: &FlowKey, egress: Ip4) -> bool {
    let pool = tables.pool(&PoolKey::of(&inbound_key(key, egress, Port::new(0))));
    pool.is_some_and(|pool| ones(pool.taken(key.src_port.number as u32 >> 6)) >= 32)
}

/// The search for a port.
struct Opening<'a, T> {
    tables: &'a T,
    /// The inbound half.
    entry: FlowRef<'a>,
    policy: &'a VendorPolicy,
    /// The outbound key.
    key: &'a FlowKey,
    egress: Ip4,
    search: SearchRef<'a>,
}

impl<'a, T: Tables> Opening<'a, T> {
    #[inline(always)]
    const fn range(&self) -> Range {
        Range::of(self.policy)
    }

    #[inline(always)]
    const fn pool_key(&self) -> PoolKey {
        PoolKey::of(&inbound_key(self.key, self.egress, Port::new(0)))
    }

    #[inline(always)]
    const fn set_key(&self) -> SetKey {
        SetKey::of(self.key, self.egress)
    }

    /// Puts a port into the pod's working set.
    #[inline(always)]
    fn keep(&self, port: Port) {
        if let Some(set) = self.tables.working_set(&self.set_key()) {
            set.push(port);
        }
    }

    /// The next port to try; `None` if this round only goes on to another place or stage.
    #[inline(always)]
    fn candidate(&self) -> Option<Port> {
        let (tables, range, search) = (self.tables, self.range(), self.search);
        let preferred = Port::new(search.preferred() as u16);
        if search.fixed() != 0 {
            let first = search.stage() == stage::PREFERRED;
            search.go_on(stage::HAND, 0);
            return first.then_some(preferred);
        }
        if search.stage() == stage::PREFERRED {
            search.go_on(stage::SET, if search.is_syn() != 0 { SET_TRIES } else { 0 });
            return (search.set_first() == 0 && range.contains(preferred)).then_some(preferred);
        }
        if search.stage() == stage::SET {
            if search.has_try() {
                let set = tables.working_set(&self.set_key());
                if let Some(port) = set.and_then(|set| set.pop()) {
                    return Some(port);
                }
            }
            search.go_on(stage::BLIND, if search.is_syn() != 0 { BLIND_TRIES / 2 } else { BLIND_TRIES });
            if search.set_first() != 0 && range.contains(preferred) {
                return Some(preferred);
            }
        }
        let known = tables.pool(&self.pool_key());
        if search.stage() == stage::BLIND {
            // Also where much is known: a closed connection that gives way leaves the free ports to others.
            if (known.is_none() || search.is_syn() != 0) && search.has_try() {
                return Some(range.pick(tables.draw(&search)));
            }
            search.go_on(stage::POOL, POOL_TRIES);
            search.walk_from(range.pick(tables.draw(&search)));
            if known.is_none() {
                tables.make_pool(&self.pool_key());
                return None;
            }
        }
        let Some(pool) = known else {
            // Another endpoint has taken its place already.
            search.go_on(stage::HAND, 0);
            return None;
        };
        if search.stage() == stage::POOL {
            if search.tries() != 0 && !search.is_around() {
                let port = search.step(&pool, &range)?;
                search.has_try();
                // Before it is inserted, so that another CPU looks elsewhere.
                pool.set(port);
                return Some(port);
            }
            search.set_whole((search.tries() != 0) as u32);
            // With ports left that the pool has still to learn of, a datagram can wait for the next try.
            let tries = if search.is_syn() != 0 {
                LAST_TRIES
            } else if search.tries() == 0 {
                0
            } else {
                range.hand_tries()
            };
            search.go_on(stage::HAND, tries);
        }
        if !search.has_try() {
            return None;
        }
        let chance = range.pick(tables.draw(&search));
        // Ports that were given out one after the other stand together, and so do those that closed a moment ago.
        Some(if search.tries() >= range.hand_tries() {
            chance
        } else {
            pool.turn_hand(range.min, range.max, chance)
        })
    }

    /// Whether everything has been tried.
    #[inline(always)]
    fn is_over(&self) -> bool {
        self.search.stage() == stage::HAND && self.search.tries() == 0
    }

    /// The outbound timer of the flow of `pod` that has the `port`, and the inbound half `holder`, if it is a closed
    /// connection that gives way to this one; otherwise [`GONE`].
    #[inline(always)]
    fn gives_way(&self, port: Port, pod: Ip4, holder: &FlowRef<'_>, pair: &Pair<'_>) -> Moment {
        if self.search.is_syn() == 0 {
            return GONE;
        }
        let (search, timeouts, clock) = (self.search, &self.policy.timeouts, Clock::read(self.tables));
        let syn = Syn { seq: search.seq(), ts_val: search.ts_val() };
        // The timer was read before anything else is judged: a packet that comes meanwhile moves it on, and then it is not
        // claimed.
        let Some((outbound, timer)) = pair.other() else { return GONE };
        let Some(phase) = outbound.phase() else { return GONE };
        let closed = matches!(phase, Phase::TcpBothFin | Phase::TcpTrans);
        let same = pod == self.key.src;
        let claimant = match (same, search.stage() == stage::HAND) {
            (true, _) => Claimant::Same,
            (false, true) => Claimant::Last,
            (false, false) => Claimant::Other,
        };
        let gives_way = recycling::gives_way(&outbound, holder, &syn, claimant);
        let rested = clock.since_start(timer, timeouts.of(phase)) >= REST_S;
        if gives_way && rested {
            return timer;
        }
        let mut costs = 1;
        if search.stage() == stage::SET && same {
            let age = clock.now.seconds.wrapping_sub(outbound.created().seconds);
            if closed || age <= SHORT_S {
                self.keep(port);
            }
            if gives_way || !closed {
                costs = RECENT_COSTS;
            }
        } else if claimant == Claimant::Last && !closed {
            costs = LIVE_COSTS;
        }
        search.set_tries(search.tries().saturating_sub(costs - 1));
        GONE
    }
}

/// Removes the flow that holds the port which the search has come upon, and inserts the inbound half, which lies in its
/// scratch entry, in its place; false if another CPU was faster. It looks again at what the search has seen: a flow that has
/// been over for `rest` seconds, or a closed connection.
///
/// Not a part of the search itself, whose rounds run deepest: to tell of a flow's end takes room on the stack.
#[inline(never)]
fn take_over<T: Tables>(tables: &T, key: &FlowKey, egress: Ip4, search: SearchRef<'_>, rest: u32) -> bool {
    let port = Port::new(search.victim() as u16);
    let closed = Moment::new(search.closed());
    search.set_victim(0);
    let reverse = inbound_key(key, egress, port);
    // If it has gone meanwhile, the insertion tells whether the port is free.
    if let Some(holder) = tables.flow(&reverse) {
        let Some(held) = holder.rewrite(&reverse, Direction::Inbound) else { return false };
        let pair = Pair::find(tables, &reverse, Direction::Inbound, &holder, &held);
        let (may, cause) = if closed == GONE {
            (pair.is_over(Clock::read(tables).now, rest), Cause::Expired)
        } else {
            (pair.other().is_some_and(|(_, timer)| timer == closed), Cause::Recycled)
        };
        if !may || !pair.remove(tables, &reverse, cause) {
            return false;
        }
    }
    match tables.insert_scratch(Direction::Inbound, &reverse) {
        Ok(()) => search.set_port(port.number as u32),
        Err(Refused::Full) => {
            search.set_no_room(1);
            release_port(tables, &reverse);
        }
        Err(Refused::Exists) => return false,
    }
    true
}

impl<T: Tables> Round for Opening<'_, T> {
    /// Tries one port by inserting the inbound half.
    #[inline(always)]
    fn round(&mut self, _: u32) -> bool {
        let Some(port) = self.candidate() else { return self.is_over() };
        let reverse = inbound_key(self.key, self.egress, port);
        self.entry.set_check(reverse.check(Direction::Inbound, self.key.src, self.key.src_port));
        let mut result = self.tables.insert_scratch(Direction::Inbound, &reverse);
        if result == Err(Refused::Exists) {
            let Some(holder) = self.tables.flow(&reverse) else {
                // Given back in between: it must not stay marked.
                release_port(self.tables, &reverse);
                return false;
            };
            let Some(held) = holder.rewrite(&reverse, Direction::Inbound) else { return false };
            if held.addr == self.key.src && held.port == self.key.src_port {
                // Our own inbound half: its outbound half is lost, or being made on another CPU. It starts anew.
                holder.set_sent(0);
                holder.set_expires(self.entry.expires());
                if let Some(phase) = self.entry.phase() {
                    holder.set_phase(phase);
                }
                result = Ok(());
            } else {
                let pair = Pair::find(self.tables, &reverse, Direction::Inbound, &holder, &held);
                let rest = rest_of(self.policy, self.key.protocol);
                let over = pair.is_over(Clock::read(self.tables).now, rest);
                let closed = if over { GONE } else { self.gives_way(port, held.addr, &holder, &pair) };
                if over || closed != GONE {
                    self.search.set_closed(closed.seconds);
                    self.search.set_victim(port.number as u32);
                    return true;
                }
            }
        }
        match result {
            Ok(()) => self.search.set_port(port.number as u32),
            Err(Refused::Full) => {
                self.search.set_no_room(1);
                release_port(self.tables, &reverse);
            }
            Err(Refused::Exists) => {
                // On from another place: taken ports stand together.
                self.search.walk_from(self.range().pick(self.tables.draw(&self.search)));
                return self.is_over();
            }
        }
        true
    }
}

/// Inserts the outbound half, of the vendor in `slot`, once the inbound half has its port. The outcome translates if the
/// flow is there now; if not, nothing is left behind.
#[inline(never)]
pub fn complete<T: Tables>(tables: &T, slot: u8) -> Decision {
    let ends = |outcome| Decision::of(slot, outcome);
    let (Some(policy), Some(search), Some(entry)) =
        (tables.policy(slot), tables.search(), tables.scratch(Direction::Outbound))
    else {
        return ends(Outcome::NotReady);
    };
    let (key, egress, port) = (search.key(), search.egress(), Port::new(search.port() as u16));
    note(tables, policy, &search, &key, port);
    let addr_delta = checksum::delta32(key.src.to_ne(), egress.to_ne());
    let ours = Rewrite { addr: egress, port, addr_delta, vendor: slot };
    entry.set_rewrite(Direction::Outbound, egress, port, addr_delta);
    entry.set_check(key.check(Direction::Outbound, egress, port));
    let reverse = inbound_key(&key, egress, port);
    match tables.insert_scratch(Direction::Outbound, &key) {
        Ok(()) => {
            if key.kind == kind::FLOW {
                tables.flow_started(&key, &entry);
                if binding::are_kept(policy) {
                    binding::join(tables, &key, egress);
                }
            }
            ends(Outcome::Outbound)
        }
        Err(Refused::Full) => {
            withdraw(tables, &reverse);
            ends(Outcome::TableFull)
        }
        // Another CPU has made the same flow meanwhile. If it took the same port it shares our inbound half, otherwise
        // ours is not needed.
        Err(Refused::Exists) => {
            let theirs = tables.flow(&key);
            if !theirs.is_some_and(|entry| entry.rewrite(&key, Direction::Outbound) == Some(ours)) {
                withdraw(tables, &reverse);
            }
            if key.kind == kind::FLOW {
                account::give_back(tables, slot);
            }
            ends(Outcome::Outbound)
        }
    }
}

/// Takes the inbound half back.
#[inline(always)]
fn withdraw<T: Tables>(tables: &T, reverse: &FlowKey) {
    tables.remove_flow(reverse);
    release_port(tables, reverse);
}

/// Takes note that `port` is taken, for the searches to come.
#[inline(always)]
fn note<T: Tables>(tables: &T, policy: &VendorPolicy, search: &SearchRef<'_>, key: &FlowKey, port: Port) {
    let egress = search.egress();
    let pool_key = PoolKey::of(&inbound_key(key, egress, Port::new(0)));
    if let Some(pool) = tables.pool(&pool_key) {
        pool.set(port);
        // Ports that the pod has had without a search are as good as others for the next time.
        if search.is_syn() != 0
            && let Some(set) = tables.working_set(&SetKey::of(key, egress))
        {
            set.push(port);
        }
    } else if key.check(Direction::Outbound, egress, port) & (SAMPLE - 1) == 0 {
        // A pool that is made while most ports are free knows nearly all that will be taken.
        let probe = inbound_key(key, egress, Range::of(policy).pick(tables.random()));
        if tables.flow(&probe).is_some() {
            tables.make_pool(&pool_key);
        }
    }
}
