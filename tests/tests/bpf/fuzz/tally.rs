//! The product's counters against what became of the packets: exactly one for each packet.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use vpnat_common::layout::outcome::{Count, Fate, Hook, OUTCOME_SLOTS, Outcome, counter_index};

use super::rules::Ended;
use super::sys;
use crate::plan::B;

/// Packets and bytes at a hook.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Sum {
    packets: u64,
    bytes: u64,
    translated: u64,
    dropped: u64,
    unfinished: u64,
}

/// Reads all counters and compares.
pub struct Tally {
    map: RawFd,
    keys: Vec<u32>,
    values: Vec<Count>,
    processors: usize,
    before: [Sum; 4],
    /// What the packets since then have shown.
    shown: [Sum; 4],
}

impl Tally {
    /// Of the vendors that there are; whatever is counted elsewhere is missing here.
    pub fn new(map: RawFd, processors: usize) -> Self {
        let slots = counter_index(B + 1, Hook::Xdp, 0) as usize;
        let values = vec![Count::default(); slots * processors];
        let mut tally = Self {
            map,
            keys: vec![0; slots],
            values,
            processors,
            before: [Sum::default(); 4],
            shown: [Sum::default(); 4],
        };
        tally.before = tally.read();
        tally
    }

    /// Takes note of a packet of `bytes` from its IP header on.
    pub fn saw(&mut self, hook: Hook, end: Ended, bytes: usize) {
        let sum = &mut self.shown[hook as usize];
        sum.packets += 1;
        sum.bytes += bytes as u64;
        match end {
            Ended::Translated(_) => sum.translated += 1,
            Ended::Unchanged => {}
            Ended::Dropped => sum.dropped += 1,
            Ended::Unfinished => {
                sum.dropped += 1;
                sum.unfinished += 1;
            }
        }
    }

    /// Compares with the product's counters and begins anew.
    pub fn check(&mut self) -> Result<(), String> {
        let now = self.read();
        let shown = std::mem::take(&mut self.shown);
        let before = std::mem::replace(&mut self.before, now);
        for hook in Hook::ALL {
            let (now, before, shown) = (now[hook as usize], before[hook as usize], shown[hook as usize]);
            let counted = Sum {
                packets: now.packets - before.packets,
                bytes: now.bytes - before.bytes,
                translated: now.translated - before.translated,
                dropped: now.dropped - before.dropped,
                unfinished: now.unfinished - before.unfinished,
            };
            // A translation may change nothing, and a drop for another reason must not have changed anything.
            let sound = (counted.packets, counted.bytes, counted.dropped)
                == (shown.packets, shown.bytes, shown.dropped)
                && counted.translated >= shown.translated
                && counted.unfinished >= shown.unfinished;
            if !sound {
                return Err(format!("{}: counted {counted:?}, seen {shown:?}", hook.name()));
            }
        }
        Ok(())
    }

    /// Packets by outcome, over all that was ever run.
    pub fn outcomes(&mut self) -> BTreeMap<&'static str, u64> {
        self.read();
        let mut outcomes = BTreeMap::new();
        for (slot, counts) in self.values.chunks(self.processors).enumerate() {
            let packets: u64 = counts.iter().map(|count| count.packets).sum();
            if let Some(outcome) = outcome_of(slot)
                && packets > 0
            {
                *outcomes.entry(outcome.name()).or_default() += packets;
            }
        }
        outcomes
    }

    fn read(&mut self) -> [Sum; 4] {
        let filled = sys::lookup_all(self.map, &mut self.keys, &mut self.values);
        assert_eq!(filled, self.keys.len(), "the counters");
        let mut sums = [Sum::default(); 4];
        for (slot, counts) in self.values.chunks(self.processors).enumerate() {
            let packets: u64 = counts.iter().map(|count| count.packets).sum();
            if packets == 0 {
                continue;
            }
            let sum = &mut sums[slot / OUTCOME_SLOTS as usize % Hook::ALL.len()];
            sum.packets += packets;
            sum.bytes += counts.iter().map(|count| count.bytes).sum::<u64>();
            // A counter that no outcome has is found by the fates, which do not add up then.
            match outcome_of(slot).map(Outcome::fate) {
                Some(Fate::Translated) => sum.translated += packets,
                Some(Fate::Dropped | Fate::Held) => sum.dropped += packets,
                Some(Fate::Passed) => {}
                None => sum.bytes += 1 << 60,
            }
            if outcome_of(slot) == Some(Outcome::Unfinished) {
                sum.unfinished += packets;
            }
        }
        sums
    }
}

fn outcome_of(slot: usize) -> Option<Outcome> {
    Outcome::ALL.iter().copied().find(|outcome| *outcome as usize == slot % OUTCOME_SLOTS as usize)
}
