//! Fragments that overtake the first of their datagram (RFC 4787 REQ-14): held until it comes, then sent through the
//! same hook once more, as fragments whose decision is known.
//!
//! What is held has not been translated and is not a packet any more: it can leave by no way but that one.

use super::tables::{Round, Tables};
use super::{Clock, Decision, fragments};
use crate::held_ref::{HeldRef, ShareRef};
use crate::layout::clock::Moment;
use crate::layout::flow::{Direction, FragmentKey};
use crate::layout::held::{KEPT_BYTES, SHARE_SLOTS, SHARES_EACH_WAY, state};
use crate::layout::outcome::Outcome;
use crate::opaque::opaque;
use crate::packet::{Ip, Packet};

/// A packet whose hook can hold fragments.
pub trait Holding: Packet {
    /// Copies the packet, `len` bytes from its IP header on, into the slot.
    #[must_use]
    fn keep(&self, slot: u32, len: u32) -> bool;

    /// Puts the packet aside, for others to be sent in its place.
    #[must_use]
    fn put_aside(&mut self) -> bool;

    /// Sends the `len` bytes in the slot through this hook, inbound or outbound. The packet's own bytes are lost.
    fn send_kept(&mut self, slot: u32, len: u32, inbound: bool);

    /// Takes back the packet that was put aside.
    #[must_use]
    fn take_back(&mut self) -> bool;
}

/// The share of `key`'s source.
#[inline(always)]
const fn share_of(key: &FragmentKey, direction: Direction) -> u32 {
    let place = key.src.to_ne().wrapping_mul(0x9e37_79b1) >> (32 - SHARES_EACH_WAY.trailing_zeros());
    match direction {
        Direction::Outbound => place,
        Direction::Inbound => SHARES_EACH_WAY + place,
    }
}

/// Holds a later fragment whose datagram nothing is known of: `unknown` is the decision that says so, and stands if
/// it cannot be held.
#[inline(never)]
pub fn hold<T: Tables, P: Holding, const OUTBOUND: bool>(
    tables: &T,
    packet: &mut P,
    unknown: Decision,
) -> Decision {
    let direction = if OUTBOUND { Direction::Outbound } else { Direction::Inbound };
    let Ok(ip) = Ip::read(packet) else { return unknown };
    // Only what a first fragment can vouch for.
    let wanted = if OUTBOUND {
        tables.source_allowed(unknown.vendor(), ip.src)
    } else {
        tables.egress(ip.dst).is_some()
    };
    if !wanted || ip.total_len > KEPT_BYTES as u32 {
        return unknown;
    }
    let key = fragments::key(&ip);
    let place = share_of(&key, direction);
    let Some(share) = tables.held_share(place) else { return unknown };
    let slot = place * SHARE_SLOTS + share.take_turn() % SHARE_SLOTS;
    let Some(held) = tables.held(slot) else { return unknown };
    let seen = held.state();
    if seen == state::BUSY || !held.change(seen, state::BUSY) {
        return unknown;
    }
    if seen == state::FREE {
        share.fill();
    }
    if !packet.keep(slot, ip.total_len) {
        held.leave(state::FREE);
        share.free();
        return unknown;
    }
    let expires = Clock::read(tables).now.after(fragments::LIFETIME_S);
    held.describe(&key, direction, ip.total_len as u16, expires);
    held.leave(state::KEPT);
    // The first may have come meanwhile and have found nothing here. Whoever gets the slot now serves the fragment.
    if fragments::decision(tables, &ip, direction).is_some() && held.change(state::KEPT, state::BUSY) {
        if held.is_of(&key, direction) {
            held.leave(state::FREE);
            share.free();
            return fragments::later(tables, packet, ip, direction, unknown.vendor());
        }
        held.leave(state::KEPT);
    }
    unknown.but(Outcome::FragmentHeld)
}

struct Releasing<'a, T, P> {
    tables: &'a T,
    packet: &'a mut P,
    share: ShareRef<'a>,
    key: FragmentKey,
    now: Moment,
    direction: Direction,
    slot: u32,
    aside: bool,
}

impl<T: Tables, P: Holding> Releasing<'_, T, P> {
    /// Serves a slot that is this caller's; true if it is free then.
    #[inline(always)]
    fn serve(&mut self, held: HeldRef<'_>) -> bool {
        if !held.expires().is_after(self.now) {
            return true;
        }
        if !held.is_of(&self.key, self.direction) {
            return false;
        }
        if !self.aside {
            self.aside = self.packet.put_aside();
        }
        if self.aside {
            let inbound = matches!(self.direction, Direction::Inbound);
            self.packet.send_kept(self.slot, held.len() as u32, inbound);
        }
        self.aside
    }
}

impl<T: Tables, P: Holding> Round for Releasing<'_, T, P> {
    #[inline(always)]
    fn round(&mut self, _: u32) -> bool {
        let Some(held) = self.tables.held(self.slot) else { return true };
        let worth = held.is_of(&self.key, self.direction) || !held.expires().is_after(self.now);
        if held.state() == state::KEPT && worth && held.change(state::KEPT, state::BUSY) {
            if self.serve(held) {
                held.leave(state::FREE);
                self.share.free();
            } else {
                held.leave(state::KEPT);
            }
        }
        self.slot += 1;
        false
    }
}

/// Sends the fragments that were held for the datagram of the first fragment `ip`, whose decision is kept by now. False
/// if the packet did not survive it.
#[inline(always)]
#[must_use]
pub fn release<T: Tables, P: Holding>(tables: &T, packet: &mut P, ip: &Ip, direction: Direction) -> bool {
    let key = fragments::key(ip);
    let place = share_of(&key, direction);
    let Some(share) = tables.held_share(place) else { return true };
    if share.kept() == 0 {
        return true;
    }
    let now = Clock::read(tables).now;
    let slot = place * SHARE_SLOTS;
    // Known to be false, every round would put the packet aside, and with the second one it would be lost (`Tables::repeat`).
    let aside = opaque(0) != 0;
    let mut releasing = Releasing { tables, packet: &mut *packet, share, key, now, direction, slot, aside };
    tables.repeat(SHARE_SLOTS, &mut releasing);
    !releasing.aside || packet.take_back()
}
