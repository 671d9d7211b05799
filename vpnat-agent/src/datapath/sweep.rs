//! Giving memory back: walks the flow table for entries whose time is over.
//!
//! Correctness does not need it, an expired entry counts as absent. So it is slow on purpose: a slice, then
//! a sleep a hundred times as long, on a thread of its own that never keeps a packet or a scrape waiting.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use vpnat_common::engine::flows::rest_of;
use vpnat_common::layout::clock::Moment;
use vpnat_common::layout::flow::{Direction, FlowEntry, FlowKey, kind};
use vpnat_common::layout::user::FlowEntryBytes;

use super::Error;
use super::accounts::Accounts;
use super::census::{Census, FlowClass, PortUse};
use super::clock;
use super::flows::walk_error;
use super::maps::{StateMaps, Table, VendorSlot};
use super::pins::Pins;
use super::reap::{KEYS_PER_CALL, REAP, Reaper};
use super::rests::Resting;

/// Entries in a slice: about a millisecond.
const SLICE: usize = 2048;

/// A walk begins at most this often.
const CYCLE: Duration = Duration::from_secs(30);

/// Sleep for every unit of work: below one percent of a core.
const REST: u32 = 100;

/// An inbound entry this long expired may have lost its other half, which otherwise speaks for both.
const ORPHAN_AFTER: u32 = 30;

/// What the last walk saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Walks completed.
    pub cycles: u64,
    /// Entries in the table, both directions. A little high after a walk that removed many.
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u64,
    /// Flows, by class.
    pub flows: BTreeMap<FlowClass, u64>,
    /// Vendor slots that entries name.
    pub slots: BTreeSet<u8>,
    /// How far ports are used up.
    pub ports: Vec<PortUse>,
    /// Ports that rest after use, by vendor slot.
    pub resting: BTreeMap<u8, Resting>,
    /// Entries removed since the agent started.
    pub removed: u64,
    /// Processor time of the walk.
    pub busy: Duration,
    /// Failed walks since the agent started.
    pub failures: u64,
}

/// A report that the sweeper writes and the metrics read.
pub type SharedReport = Arc<Mutex<Report>>;

/// Whether an entry should be shown to the kernel for removal.
fn has_ended(entry: &FlowEntry, now: Moment) -> bool {
    if entry.expires.is_after(now) {
        return false;
    }
    entry.direction == Direction::Outbound
        || !Moment::new(entry.expires.seconds.wrapping_add(ORPHAN_AFTER)).is_after(now)
}

/// Whether the port of an entry that has ended is nobody's yet (RFC 6888 REQ-8).
fn rests(key: &FlowKey, entry: &FlowEntry, now: Moment, vendors: &[VendorSlot]) -> bool {
    let vendor = vendors.iter().find(|vendor| vendor.slot == entry.vendor);
    let rest = vendor.map_or(0, |vendor| rest_of(&vendor.policy, key.protocol));
    Moment::new(entry.expires.seconds.wrapping_add(rest)).is_after(now)
}

/// The thread; stops when dropped.
#[derive(Debug)]
pub struct Sweeper {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts sweeping the pinned table.
    pub fn start(pins: &Pins, report: SharedReport) -> Result<Self, Error> {
        let work = Work {
            table: Table::flows(pins)?,
            maps: StateMaps::open(pins)?,
            reaper: Reaper::open(&pins.program(REAP))?,
            clock: pins.program(clock::PROBE_CLOCK),
        };
        let mut accounts = Accounts::open(pins)?;
        let mut idle = HashSet::new();
        let clear = move || accounts.clear_idle(&mut idle);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("sweep".into())
            .spawn(move || work.run(&stopped, &report, clear))
            .map_err(Error::file("starting the sweeper", "thread"))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    table: Table,
    maps: StateMaps,
    reaper: Reaper,
    clock: std::path::PathBuf,
}

impl Work {
    fn run(
        &self,
        stopped: &mpsc::Receiver<()>,
        report: &SharedReport,
        mut clear: impl FnMut() -> Result<(), Error>,
    ) {
        // Sleeps; false once the agent wants to end.
        let rest = |time| matches!(stopped.recv_timeout(time), Err(mpsc::RecvTimeoutError::Timeout));
        loop {
            let begun = Instant::now();
            let result = self.cycle(report, &rest).and_then(|go_on| clear().map(|()| go_on));
            match result {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    log::warn!("the flow table could not be swept: {error}");
                    lock(report).failures += 1;
                }
            }
            if !rest(CYCLE.saturating_sub(begun.elapsed()).max(Duration::from_secs(1))) {
                return;
            }
        }
    }

    /// One walk; false if it was told to stop.
    fn cycle(&self, report: &SharedReport, rest: &impl Fn(Duration) -> bool) -> Result<bool, Error> {
        let mut seen = Report { capacity: self.table.capacity.into(), ..Report::default() };
        let mut census = Census::default();
        let vendors = self.maps.vendors()?;
        let mut walk = self.table.walk::<FlowKey, FlowEntryBytes>(SLICE);
        let mut now = clock::now(&self.clock)?;
        let mut asked = Instant::now();
        loop {
            // Processor time, not the clock on the wall: test runs sleep in the kernel.
            let begun = cpu_time();
            if asked.elapsed() > Duration::from_secs(1) {
                now = clock::now(&self.clock)?;
                asked = Instant::now();
            }
            let mut ended = Vec::new();
            let slice = walk.next_slice().map_err(walk_error)?;
            let at_end = slice.is_none();
            for (key, value) in slice.into_iter().flat_map(|(keys, values)| keys.iter().zip(values)) {
                match value.decode() {
                    Some(entry) => {
                        if has_ended(&entry, now) {
                            if rests(key, &entry, now, &vendors) {
                                census.add_resting(key, &entry);
                                if entry.direction == Direction::Outbound && key.kind == kind::FLOW {
                                    let age = now.seconds.wrapping_sub(entry.expires.seconds);
                                    seen.resting.entry(entry.vendor).or_default().add(age);
                                }
                            }
                            ended.push(*key);
                            continue;
                        }
                        seen.entries += 1;
                        seen.slots.insert(entry.vendor);
                        census.add(key, &entry);
                    }
                    // The kernel decides what becomes of an entry that contradicts itself.
                    None => ended.push(*key),
                }
            }
            for keys in ended.chunks(KEYS_PER_CALL) {
                let removed = u64::from(self.reaper.reap(keys)?);
                seen.removed += removed;
                // What stays is half of a flow that lives; what went may have taken its other half along.
                seen.entries += (keys.len() as u64).saturating_sub(removed);
            }
            let busy = cpu_time().saturating_sub(begun);
            seen.busy += busy;
            if at_end {
                break;
            }
            if !rest(busy * REST) {
                return Ok(false);
            }
        }
        (seen.ports, seen.flows) = (census.port_use(), census.flows);
        let mut report = lock(report);
        seen.cycles = report.cycles + 1;
        seen.removed += report.removed;
        seen.failures = report.failures;
        *report = seen;
        Ok(true)
    }
}

/// Processor time that this thread has used.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The report, also if a thread panicked while it held it: numbers only.
pub fn lock(report: &SharedReport) -> std::sync::MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The vendor slots that flows name.
pub fn vendors_in_use(table: &Table) -> Result<HashSet<u8>, Error> {
    let mut slots = HashSet::new();
    let mut walk = table.walk::<FlowKey, FlowEntryBytes>(SLICE);
    while let Some((_, values)) = walk.next_slice().map_err(walk_error)? {
        slots.extend(values.iter().filter_map(FlowEntryBytes::decode).map(|entry| entry.vendor));
    }
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use super::super::flows::tests::{EGRESS, POD, entry};
    use super::*;

    #[test]
    fn the_outbound_half_speaks_for_both() {
        let outbound = entry(Direction::Outbound, EGRESS, 1, 100);
        assert!(!has_ended(&outbound, Moment::new(99)));
        assert!(has_ended(&outbound, Moment::new(100)));
        let inbound = entry(Direction::Inbound, POD, 1, 100);
        assert!(!has_ended(&inbound, Moment::new(129)));
        assert!(has_ended(&inbound, Moment::new(130)));
    }

    #[test]
    fn the_clock_may_wrap() {
        let outbound = entry(Direction::Outbound, EGRESS, 1, u32::MAX - 5);
        assert!(!has_ended(&outbound, Moment::new(u32::MAX - 6)));
        assert!(has_ended(&outbound, Moment::new(3)));
    }
}
