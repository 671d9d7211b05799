//! A flow being made: the search for its port, and both entries.

use super::flows::{GRACE_S, When, inbound_key, remove};
use super::tables::{Refused, Round, Tables};
use crate::addr::{Ip4, Port};
use crate::checksum;
use crate::flow_ref::{FlowRef, Rewrite};
use crate::layout::clock::Moment;
use crate::layout::flow::{Direction, FlowKey};
use crate::layout::outcome::Outcome;
use crate::layout::vendor::VendorPolicy;
use crate::ports::{Search, TRIES};

/// A flow being made. One entry, outside the stack, serves for both halves: inbound first.
pub struct Opening<'a, T> {
    tables: &'a T,
    entry: FlowRef<'a>,
    now: Moment,
    /// The outbound key.
    key: &'a FlowKey,
    egress: Ip4,
    search: Search,
    /// The port found, 0 until then.
    port: Port,
    /// Why there is none.
    failure: Outcome,
}

impl<'a, T: Tables> Opening<'a, T> {
    /// The flow of the outbound `key` by way of `egress`, made at `now` in `entry`.
    #[inline(always)]
    pub const fn new(tables: &'a T, entry: FlowRef<'a>, now: Moment, key: &'a FlowKey, egress: Ip4) -> Self {
        Self {
            tables,
            entry,
            now,
            key,
            egress,
            search: Search::NONE,
            port: Port::new(0),
            failure: Outcome::PortsExhausted,
        }
    }

    /// Finds a port, `preferred` if it can be, and inserts the inbound half with it.
    ///
    /// # Errors
    /// [`Outcome::PortsExhausted`] or [`Outcome::TableFull`]; nothing is left behind.
    #[inline(always)]
    pub fn take_port(&mut self, policy: &VendorPolicy, preferred: Port) -> Result<(), Outcome> {
        let (tables, key) = (self.tables, self.key);
        self.search = Search::new(preferred, policy.port_min, policy.port_max, tables.random());
        let delta = checksum::delta32(self.egress.to_ne(), key.src.to_ne());
        self.entry.set_rewrite(Direction::Inbound, key.src, key.src_port, delta);
        tables.repeat(TRIES, self);
        if self.port.number == 0 { Err(self.failure) } else { Ok(()) }
    }

    /// Inserts the outbound half.
    ///
    /// # Errors
    /// [`Outcome::TableFull`] or [`Outcome::EntryInvalid`]; nothing is left behind.
    #[inline(always)]
    pub fn complete(&self, vendor: u8) -> Result<(), Outcome> {
        let (tables, key) = (self.tables, self.key);
        let addr_delta = checksum::delta32(key.src.to_ne(), self.egress.to_ne());
        let ours = Rewrite { addr: self.egress, port: self.port, addr_delta, vendor };
        self.entry.set_rewrite(Direction::Outbound, self.egress, self.port, addr_delta);
        self.entry.set_check(key.check(Direction::Outbound));
        let reverse = inbound_key(key, self.egress, self.port);
        match tables.insert_scratch(key) {
            Ok(()) => Ok(()),
            Err(Refused::Full) => {
                tables.remove_flow(&reverse);
                Err(Outcome::TableFull)
            }
            // Another CPU has made the same flow meanwhile. If it took the same port it shares our inbound
            // half, otherwise ours is not needed.
            Err(Refused::Exists) => {
                let theirs = tables.flow(key);
                let same = theirs.is_some_and(|entry| entry.rewrite(key, Direction::Outbound) == Some(ours));
                if !same {
                    tables.remove_flow(&reverse);
                }
                Ok(())
            }
        }
    }
}

impl<T: Tables> Round for Opening<'_, T> {
    /// Tries one port by inserting the inbound half.
    #[inline(always)]
    fn round(&mut self, index: u32) -> bool {
        let port = self.search.candidate(index);
        let reverse = inbound_key(self.key, self.egress, port);
        self.entry.set_check(reverse.check(Direction::Inbound));
        let mut result = self.tables.insert_scratch(&reverse);
        if result == Err(Refused::Exists) {
            let Some(holder) = self.tables.flow(&reverse) else { return false };
            let Some(held) = holder.rewrite(&reverse, Direction::Inbound) else { return false };
            if held.addr == self.key.src && held.port == self.key.src_port {
                // Our own inbound half: its outbound half is lost, or being made on another CPU. It starts anew.
                holder.set_sent(0);
                holder.set_expires(self.entry.expires());
                if let Some(phase) = self.entry.phase() {
                    holder.set_phase(phase);
                }
                result = Ok(());
            } else if remove(
                self.tables,
                self.now,
                &reverse,
                Direction::Inbound,
                &holder,
                &held,
                When::OverFor(GRACE_S),
            ) {
                result = self.tables.insert_scratch(&reverse);
            }
        }
        match result {
            Ok(()) => self.port = port,
            Err(Refused::Full) => self.failure = Outcome::TableFull,
            Err(Refused::Exists) => return false,
        }
        true
    }
}
