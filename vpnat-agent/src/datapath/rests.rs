//! How long ports rest where a vendor has a most of them (RFC 6888 REQ-8: both are to be settings).
//!
//! The datapath knows a time only. The sweep counts what rests, by how long it has, and the time is set so that no more than the
//! most are left: shorter at once, and longer again in proportion to the room that there is.

use std::collections::BTreeMap;

use vpnat_common::layout::names;
use vpnat_common::layout::vendor::VendorPolicy;

use super::Error;
use super::maps::{ConfigMaps, read_vendors};
use super::sweep::{self, SharedReport};
use crate::config::Config;

/// What rests of a vendor's ports.
#[derive(Clone, Debug, Default)]
pub struct Resting {
    /// Ports by the seconds that they have rested.
    ages: BTreeMap<u32, u64>,
}

impl Resting {
    /// Counts a port that has rested for so many seconds.
    pub fn add(&mut self, age: u32) {
        *self.ages.entry(age).or_default() += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.ages.values().sum()
    }

    /// Seconds that ports may rest from now on, so that no more than `most` do (0: any number), if they have rested for
    /// `now` so far and are to rest for `wanted`.
    pub fn time(&self, most: u32, now: u32, wanted: u32) -> u32 {
        let (most, total) = (u64::from(most), self.total());
        if most == 0 {
            return wanted;
        }
        if total <= most {
            let longer = u64::from(now.max(1)) * most / total.max(1);
            return u32::try_from(longer).unwrap_or(u32::MAX).min(wanted);
        }
        let mut counted = 0;
        let fits = self.ages.iter().take_while(|(_, ports)| {
            counted += **ports;
            counted <= most
        });
        // A port of this age may still rest, one that is older may not.
        fits.last().map_or(0, |(age, _)| age + 1).min(wanted)
    }
}

/// Sees to it that no more ports rest than vendors allow.
#[derive(Debug, Default)]
pub struct Bound {
    /// Walks over the flow table that were heeded.
    walks: u64,
}

impl Bound {
    /// Has ports rest for as long as no more than `max_held_ports` of each vendor do, by what the last walk has seen.
    pub fn keep(
        &mut self,
        config: &Config,
        maps: &mut ConfigMaps,
        swept: &SharedReport,
    ) -> Result<(), Error> {
        let resting = {
            let report = sweep::lock(swept);
            if std::mem::replace(&mut self.walks, report.cycles) == report.cycles {
                return Ok(());
            }
            report.resting.clone()
        };
        for known in read_vendors(&maps.vendors)? {
            let Some(vendor) = config.vendors.iter().find(|vendor| vendor.name == known.name) else {
                continue;
            };
            let seen = resting.get(&known.slot).cloned().unwrap_or_default();
            let (before, wanted) = (known.policy.hold_s, vendor.port_hold);
            let time = seen.time(vendor.max_held_ports, before, wanted);
            if time == before {
                continue;
            }
            let policy = VendorPolicy { hold_s: time, ..known.policy };
            maps.vendors.set(known.slot.into(), policy, 0).map_err(Error::map("writing", names::VENDORS))?;
            // Said when it begins and when it is over.
            if before == wanted || time == wanted {
                log::info!("{}: {} ports rest after use, each for {time} s", known.name, seen.total());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ages: &[(u32, u64)]) -> Resting {
        Resting { ages: ages.iter().copied().collect() }
    }

    #[test]
    fn without_a_most_they_rest_as_long_as_they_are_to() {
        assert_eq!(of(&[(7, 1_000_000)]).time(0, 30, 120), 120);
        assert_eq!(of(&[]).time(10, 0, 120), 10, "from nothing to what one port leaves room for");
        assert_eq!(of(&[(3, 5)]).time(10, 120, 120), 120);
    }

    #[test]
    fn the_oldest_give_way() {
        let resting = of(&[(0, 4), (10, 4), (20, 4), (119, 1)]);
        for (most, time) in [(13, 120), (12, 21), (11, 11), (8, 11), (7, 1), (4, 1), (3, 0)] {
            assert_eq!(resting.time(most, 120, 120), time, "at most {most}");
        }
        assert_eq!(resting.time(12, 120, 15), 15, "never longer than they are to");
    }

    /// So many ports a second: the time becomes what the most of them take, from above and from below, and stays.
    #[test]
    fn a_steady_stream_settles() {
        let (rate, most, wanted) = (50, 1000, 600);
        for start in [600, 1, 19, 0] {
            let mut time = start;
            for _ in 0..8 {
                let resting = of(&(0..time).map(|age| (age, rate)).collect::<Vec<_>>());
                time = resting.time(most, time, wanted);
            }
            assert_eq!(time, 20, "from {start}");
        }
    }
}
