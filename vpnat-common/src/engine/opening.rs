//! A flow being made: the search for its port, and both entries.

use super::Clock;
use super::flows::{GONE, GRACE_S, Pair, inbound_key, release_port};
use super::tables::{Refused, Round, Tables};
use crate::addr::{Ip4, Port};
use crate::checksum;
use crate::flow_ref::{FlowRef, Rewrite};
use crate::layout::clock::Moment;
use crate::layout::event::Cause;
use crate::layout::flow::{Direction, FlowKey, Phase};
use crate::layout::outcome::Outcome;
use crate::layout::pool::PoolKey;
use crate::layout::recycling::SetKey;
use crate::layout::vendor::VendorPolicy;
use crate::pool_ref::ones;
use crate::ports::{BLIND_TRIES, POOL_TRIES, RACES, ROUNDS, Range, SAMPLE, SearchRef, stage};
use crate::recycling::{
    self, Claimant, LAST_TRIES, LIVE_COSTS, RECENT_COSTS, REST_S, SET_TRIES, SHORT_S, Syn,
};

/// A flow being made. One entry, outside the stack, serves for both halves: inbound first.
pub struct Opening<'a, T> {
    tables: &'a T,
    entry: FlowRef<'a>,
    policy: &'a VendorPolicy,
    /// The outbound key.
    key: &'a FlowKey,
    egress: Ip4,
    search: SearchRef<'a>,
}

impl<'a, T: Tables> Opening<'a, T> {
    /// The flow of the outbound `key` by way of `egress`, made now in `entry`.
    #[inline(always)]
    pub const fn new(
        tables: &'a T,
        entry: FlowRef<'a>,
        key: &'a FlowKey,
        egress: Ip4,
        policy: &'a VendorPolicy,
        search: SearchRef<'a>,
    ) -> Self {
        Self { tables, entry, policy, key, egress, search }
    }

    /// Finds a port and inserts the inbound half with it: that which the flow had `before`, if it is not 0, or else the
    /// pod's own, if that can be. With `syn`, it may be that of a closed connection.
    ///
    /// # Errors
    /// [`Outcome::PortsExhausted`] or [`Outcome::TableFull`]; nothing is left behind.
    #[inline(always)]
    pub fn take_port(&mut self, before: Port, syn: Option<Syn>) -> Result<(), Outcome> {
        let (tables, key) = (self.tables, self.key);
        let search = self.search;
        search.begin(if before.number == 0 { key.src_port } else { before });
        if let Some(syn) = syn {
            search.set_is_syn(1);
            search.set_seq(syn.seq);
            search.set_ts_val(syn.ts_val);
            if before.number == 0
                && let Some(pool) = tables.pool(&self.pool_key())
            {
                // Where half of the ports are taken, new ones are left to pods that need them for their working sets.
                let taken = ones(pool.taken(key.src_port.number as u32 >> 6));
                search.set_set_first((taken >= 32) as u32);
            }
        }
        let delta = checksum::delta32(self.egress.to_ne(), key.src.to_ne());
        self.entry.set_rewrite(Direction::Inbound, key.src, key.src_port, delta);
        for _ in 0..RACES {
            tables.repeat(ROUNDS, self);
            if search.victim() == 0 || take_over(tables, key, self.egress, search) {
                break;
            }
            // Lost to another CPU. On from another place: taken ports stand together.
            search.walk_from(self.range().pick(tables.random()));
        }
        if search.port() == 0 {
            return Err(if search.no_room() != 0 { Outcome::TableFull } else { Outcome::PortsExhausted });
        }
        if let Some(pool) = tables.pool(&self.pool_key()) {
            pool.set(self.port());
            // Ports that the pod has had without a search are as good as others for the next time.
            if search.is_syn() != 0 {
                self.keep(self.port());
            }
        } else if key.check(Direction::Outbound) & (SAMPLE - 1) == 0 {
            // A pool that is made while most ports are free knows nearly all that will be taken.
            let probe = inbound_key(key, self.egress, self.range().pick(tables.random()));
            if tables.flow(&probe).is_some() {
                tables.make_pool(&self.pool_key());
            }
        }
        Ok(())
    }

    /// The port found.
    #[inline(always)]
    fn port(&self) -> Port {
        Port::new(self.search.port() as u16)
    }

    #[inline(always)]
    const fn range(&self) -> Range {
        Range { min: self.policy.port_min, max: self.policy.port_max }
    }

    #[inline(always)]
    const fn pool_key(&self) -> PoolKey {
        PoolKey::of(&inbound_key(self.key, self.egress, Port::new(0)))
    }

    #[inline(always)]
    const fn set_key(&self) -> SetKey {
        let key = self.key;
        SetKey { pod: key.src, remote: key.dst, egress: self.egress, remote_port: key.dst_port, _pad: 0 }
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
                return Some(range.pick(tables.random()));
            }
            search.go_on(stage::POOL, POOL_TRIES);
            search.walk_from(range.pick(tables.random()));
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
        let chance = range.pick(tables.random());
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

    /// Inserts the outbound half.
    ///
    /// # Errors
    /// [`Outcome::TableFull`] or [`Outcome::EntryInvalid`]; nothing is left behind.
    #[inline(always)]
    pub fn complete(&self, vendor: u8) -> Result<(), Outcome> {
        let (tables, key) = (self.tables, self.key);
        let addr_delta = checksum::delta32(key.src.to_ne(), self.egress.to_ne());
        let port = self.port();
        let ours = Rewrite { addr: self.egress, port, addr_delta, vendor };
        self.entry.set_rewrite(Direction::Outbound, self.egress, port, addr_delta);
        self.entry.set_check(key.check(Direction::Outbound));
        let reverse = inbound_key(key, self.egress, port);
        match tables.insert_scratch(key) {
            Ok(()) => {
                tables.flow_started(key, &self.entry);
                Ok(())
            }
            Err(Refused::Full) => {
                self.withdraw(&reverse);
                Err(Outcome::TableFull)
            }
            // Another CPU has made the same flow meanwhile. If it took the same port it shares our inbound
            // half, otherwise ours is not needed.
            Err(Refused::Exists) => {
                let theirs = tables.flow(key);
                let same = theirs.is_some_and(|entry| entry.rewrite(key, Direction::Outbound) == Some(ours));
                if !same {
                    self.withdraw(&reverse);
                }
                Ok(())
            }
        }
    }

    /// Takes the inbound half back.
    #[inline(always)]
    fn withdraw(&self, reverse: &FlowKey) {
        self.tables.remove_flow(reverse);
        release_port(self.tables, reverse);
    }
}

/// Removes the flow that holds the port which the search has come upon, and inserts the inbound half, which is in the
/// scratch entry, in its place; false if another CPU was faster. It looks again at what the search has seen.
///
/// Not a part of the search itself, whose rounds run deepest: to tell of a flow's end takes room on the stack.
#[inline(never)]
fn take_over<T: Tables>(tables: &T, key: &FlowKey, egress: Ip4, search: SearchRef<'_>) -> bool {
    let port = Port::new(search.victim() as u16);
    let closed = Moment::new(search.closed());
    search.set_victim(0);
    let reverse = inbound_key(key, egress, port);
    // If it has gone meanwhile, the insertion tells whether the port is free.
    if let Some(holder) = tables.flow(&reverse) {
        let Some(held) = holder.rewrite(&reverse, Direction::Inbound) else { return false };
        let pair = Pair::find(tables, &reverse, Direction::Inbound, &holder, &held);
        let (may, cause) = if closed == GONE {
            (pair.is_over(Clock::read(tables).now, GRACE_S), Cause::Expired)
        } else {
            (pair.other().is_some_and(|(_, timer)| timer == closed), Cause::Recycled)
        };
        if !may || !pair.remove(tables, &reverse, cause) {
            return false;
        }
    }
    match tables.insert_scratch(&reverse) {
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
        self.entry.set_check(reverse.check(Direction::Inbound));
        let mut result = self.tables.insert_scratch(&reverse);
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
                let over = pair.is_over(Clock::read(self.tables).now, GRACE_S);
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
                self.search.walk_from(self.range().pick(self.tables.random()));
                return self.is_over();
            }
        }
        true
    }
}
