//! Taking live flows over from maps of another layout or size.
//!
//! A *source* is a directory of pinned maps other than this build's own: of another layout (`v1`), or set aside because a
//! size changed (`old-v1`). The order is such that no packet of a flow meets a table without it:
//!
//! 1. [`Migration::first_pass`]: everything is copied while the old programs run and write the old maps.
//! 2. The caller fills in the configuration and replaces the programs, hook by hook, in place. Until the end
//!    `Settings::ready` is 0: flows that exist go on, and no new one is made that could take a port of one that is still to
//!    come.
//! 3. [`Migration::second_pass`]: what the old programs wrote since the first is carried over, except where the new ones
//!    have written already: the newest wins.
//! 4. [`Migration::finish`]: the sources go.
//!
//! A crash at any point leaves sources behind, and the next start takes them over by the same steps.

mod btf;
mod convert;
mod raw;

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use vpnat_common::layout::flow::FlowEntry;
use vpnat_common::layout::user::{FlowEntryBytes, FlowKeyBytes};
use vpnat_common::layout::{LAYOUT_VERSION, names};

use self::btf::Btf;
use self::convert::Plan;
use self::raw::{ANY, EXIST, NOEXIST, RawMap, kind};
use super::Error;
use super::pins::{Pins, unpin};

/// Fields that start anew: what they mean depends on the build that wrote them, and every program can find it again.
const FRESH: [&str; 2] = ["stamp", "out_slot"];

/// Where an entry's check lies.
const CHECK_AT: usize = core::mem::offset_of!(FlowEntry, check);

/// A key of the flow table, in place.
type FlowKey = [u8; 32];

/// Maps to take over.
#[derive(Debug)]
pub struct Migration {
    sources: Vec<PathBuf>,
    maps: Vec<Pair>,
    /// What the first pass has put into the flow table, as a hash of the value.
    written: HashMap<FlowKey, u64>,
    /// What the first pass has seen in per-CPU arrays, by map and key.
    counted: HashMap<(&'static str, Vec<u8>), Vec<u8>>,
}

/// An old map and the new one.
#[derive(Debug)]
struct Pair {
    name: &'static str,
    old: RawMap,
    new: RawMap,
    key: Plan,
    value: Plan,
}

/// What became of the flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// Entries of the flow table that were taken over.
    pub entries: u64,
    /// Entries that could not be: a number did not fit, or there was no room.
    pub lost: u64,
}

/// The directories from which something is to be taken over.
pub fn sources(pins: &Pins) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = pins.layouts().into_iter().filter(|path| *path != pins.maps()).collect();
    // Of several, which only crashes leave, the newest layout's entries come first, and the others add to them.
    found.sort_by(|a, b| b.cmp(a));
    found
}

/// Puts this build's own maps aside, to be taken over into new ones; where they are then.
pub fn set_aside(pins: &Pins) -> Result<PathBuf, Error> {
    let from = pins.maps();
    let mut number = 0;
    let to = loop {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let path = pins.root().join(format!("old-v{LAYOUT_VERSION}{suffix}"));
        if !path.exists() {
            break path;
        }
        number += 1;
    };
    fs::rename(&from, &to).map_err(Error::file("setting the maps aside", &from))?;
    pins.create()?;
    Ok(to)
}

/// Undoes [`set_aside`]: new maps, if there are any yet, go.
pub fn put_back(pins: &Pins, aside: &Path) {
    remove(&pins.maps());
    if let Err(error) = fs::rename(aside, pins.maps()) {
        log::error!(
            "{} could not be put back ({error}): the next start takes its flows over",
            aside.display()
        );
    }
}

/// Writes the check of a flow entry anew: how it is computed is a matter of the build. What it cannot vouch for any more, the
/// target, is looked at by the first packet: the stamp starts anew, and a flow goes on only from an address that is the
/// vendor's.
fn seal(key: &[u8], value: &mut [u8]) -> Option<()> {
    let key = FlowKeyBytes(key.try_into().ok()?).decode();
    let entry = FlowEntryBytes(value.try_into().ok()?).decode()?;
    let check = key.check(entry.direction, entry.new_addr, entry.new_port);
    value.get_mut(CHECK_AT..CHECK_AT + 2)?.copy_from_slice(&check.to_ne_bytes());
    Some(())
}

impl Migration {
    /// Opens what there is to take over into the maps of `pins`, which exist. `None` if there is nothing.
    pub fn open(pins: &Pins) -> Result<Option<Self>, Error> {
        let sources = sources(pins);
        if sources.is_empty() {
            return Ok(None);
        }
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| Error::file("counting CPUs", file)(error))?;
        let mut maps = Vec::new();
        for source in &sources {
            log::info!("taking over the flows of {}", source.display());
            for name in names::ALL {
                let path = source.join(name);
                if !path.exists() {
                    log::info!("{} has no map {name}: it starts empty", source.display());
                    continue;
                }
                let open = |path: &Path| RawMap::open(path, cpus).map_err(failed("opening", name));
                let (old, new) = (open(&path)?, open(&pins.map(name))?);
                maps.extend(Pair::new(name, old, new)?);
            }
        }
        Ok(Some(Self { sources, maps, written: HashMap::new(), counted: HashMap::new() }))
    }

    /// Copies everything. The new maps may hold something already, from a migration that a crash has ended: that stays.
    pub fn first_pass(&mut self) -> Result<Carried, Error> {
        let mut carried = Carried::default();
        for pair in &self.maps {
            let written = (pair.name == names::FLOWS).then_some(&mut self.written);
            let found = match pair.old.kind {
                kind::ARRAY => pair.copy_array(),
                kind::PERCPU_ARRAY => pair.copy_counters(&mut self.counted),
                _ => pair.copy_entries(written),
            };
            let found = found.map_err(failed("taking over", pair.name))?;
            if pair.name == names::FLOWS {
                carried.entries += found.entries;
                carried.lost += found.lost;
            } else if found.lost > 0 {
                log::warn!("{} entries of map {} could not be taken over", found.lost, pair.name);
            }
        }
        Ok(carried)
    }

    /// Carries over what the old programs wrote after the first pass. No old program runs any more.
    pub fn second_pass(&mut self) -> Result<Carried, Error> {
        let mut carried = Carried::default();
        for pair in &self.maps {
            if pair.name == names::FLOWS {
                let found = pair.follow(&mut self.written).map_err(failed("taking over", pair.name))?;
                carried.entries += found.entries;
                carried.lost += found.lost;
            } else if pair.old.kind == kind::PERCPU_ARRAY {
                pair.add_counters(&self.counted).map_err(failed("taking over", pair.name))?;
            }
        }
        Ok(carried)
    }

    /// Removes the sources.
    pub fn finish(self) {
        drop(self.maps);
        for source in self.sources {
            remove(&source);
        }
    }
}

impl Pair {
    /// `None`, and a word about it, if nothing can be taken over.
    fn new(name: &'static str, old: RawMap, new: RawMap) -> Result<Option<Self>, Error> {
        let is_table = matches!(
            old.kind,
            kind::HASH | kind::LRU_HASH | kind::ARRAY | kind::PERCPU_ARRAY | kind::LPM_TRIE | kind::DEVMAP
        );
        if !is_table || old.kind != new.kind {
            return Ok(None);
        }
        // An array's key says where, and counters are found by arithmetic with its size.
        if old.kind == kind::PERCPU_ARRAY && old.capacity != new.capacity {
            log::warn!("map {name} has another size: its counts start anew");
            return Ok(None);
        }
        let (key, value) = if old.types.0 == 0 || new.types.0 == 0 {
            if (old.key_size, old.value_size) != (new.key_size, new.value_size) {
                log::warn!("map {name} has another layout and no types: it starts empty");
                return Ok(None);
            }
            (Plan::identity(old.key_size), Plan::identity(old.value_size))
        } else {
            let read = |map: &RawMap| {
                map.btf().map_err(|error| match error.raw_os_error() {
                Some(libc::EPERM) => Error::Privilege {
                    missing: "CAP_SYS_ADMIN, which reading the types of another layout's maps takes at the start",
                },
                _ => failed("reading the types of", name)(error),
            })
            };
            let (old_blob, new_blob) = (read(&old)?, read(&new)?);
            let unreadable = |bad: btf::Bad| failed("reading the types of", name)(io::Error::other(bad));
            let (old_btf, new_btf) =
                (Btf::parse(&old_blob).map_err(unreadable)?, Btf::parse(&new_blob).map_err(unreadable)?);
            let leaves = |btf: &Btf<'_>, id| btf.leaves(id).map_err(unreadable);
            let plan = |old_id, old_size, new_id, new_size| -> Result<Plan, Error> {
                let same_layout = old_blob == new_blob && old_id == new_id;
                let fresh = if same_layout { &[][..] } else { &FRESH[..] };
                Ok(Plan::new(
                    (&leaves(&old_btf, old_id)?, old_size),
                    (&leaves(&new_btf, new_id)?, new_size),
                    fresh,
                ))
            };
            (
                plan(old.types.1, old.key_size, new.types.1, new.key_size)?,
                plan(old.types.2, old.value_size, new.types.2, new.value_size)?,
            )
        };
        for plan in [&key, &value] {
            if !plan.dropped.is_empty() {
                log::info!("map {name}: dropped {}", plan.dropped.join(", "));
            }
            if !plan.added.is_empty() {
                log::info!("map {name}: new, and 0 at first: {}", plan.added.join(", "));
            }
        }
        Ok(Some(Self { name, old, new, key, value }))
    }

    fn convert(&self, key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let (key, mut value) = (self.key.convert(key)?, self.value.convert(value)?);
        if self.name == names::FLOWS {
            seal(&key, &mut value)?;
        }
        Some((key, value))
    }

    fn copy_entries(&self, mut written: Option<&mut HashMap<FlowKey, u64>>) -> io::Result<Carried> {
        let mut carried = Carried::default();
        self.old.for_each(&mut |key, value| {
            let Some((key, value)) = self.convert(key, value) else {
                carried.lost += 1;
                return Ok(());
            };
            match self.new.update(&key, &value, NOEXIST) {
                Ok(true) => {
                    carried.entries += 1;
                    if let Some(written) = &mut written {
                        written.insert(flow_key(&key), hash(&value));
                    }
                }
                Ok(false) => {}
                Err(error) if is_full(&error) => carried.lost += 1,
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        Ok(carried)
    }

    /// What is all zero has not been written yet.
    fn copy_array(&self) -> io::Result<Carried> {
        let mut carried = Carried::default();
        self.old.for_each(&mut |key, value| {
            let empty = vec![0; self.new.value_size];
            let place = self.key.convert(key);
            let found = match &place {
                Some(place) => self.new.lookup(place)?,
                None => None,
            };
            match (place, self.value.convert(value)) {
                (Some(place), Some(new)) if found.as_ref() == Some(&empty) => {
                    self.new.update(&place, &new, ANY)?;
                    carried.entries += 1;
                }
                (Some(_), Some(_)) if found.is_some() => {}
                _ if value.iter().all(|byte| *byte == 0) => {}
                _ => carried.lost += 1,
            }
            Ok(())
        })?;
        Ok(carried)
    }

    /// Counters, one CPU's after the other.
    fn copy_counters(&self, seen: &mut HashMap<(&'static str, Vec<u8>), Vec<u8>>) -> io::Result<Carried> {
        let mut carried = Carried::default();
        self.old.for_each(&mut |key, values| {
            if values.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            seen.insert((self.name, key.to_vec()), values.to_vec());
            let Some(place) = self.key.convert(key) else { return Ok(()) };
            let untouched = self.new.lookup(&place)?.is_some_and(|new| new.iter().all(|byte| *byte == 0));
            if untouched && let Some(new) = self.convert_per_cpu(values) {
                self.new.update(&place, &new, ANY)?;
                carried.entries += 1;
            }
            Ok(())
        })?;
        Ok(carried)
    }

    /// Adds what was counted since [`Pair::copy_counters`]. A packet that is counted in the very moment of this may be
    /// missing from the sum.
    fn add_counters(&self, seen: &HashMap<(&'static str, Vec<u8>), Vec<u8>>) -> io::Result<()> {
        self.old.for_each(&mut |key, values| {
            let before = seen.get(&(self.name, key.to_vec()));
            if values.iter().all(|byte| *byte == 0) || before.is_some_and(|before| before == values) {
                return Ok(());
            }
            let nothing = vec![0; values.len()];
            let since = words(values, before.unwrap_or(&nothing), u64::wrapping_sub);
            if let (Some(place), Some(since)) = (self.key.convert(key), self.convert_per_cpu(&since))
                && let Some(new) = self.new.lookup(&place)?
            {
                self.new.update(&place, &words(&new, &since, u64::wrapping_add), ANY)?;
            }
            Ok(())
        })
    }

    fn convert_per_cpu(&self, values: &[u8]) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        for value in values.chunks_exact(self.old.value_size.next_multiple_of(8)) {
            let mut new = self.value.convert(&value[..self.old.value_size])?;
            new.resize(self.new.value_size.next_multiple_of(8), 0);
            all.extend(new);
        }
        Some(all)
    }

    /// Carries over flows that were made, changed or ended after the first pass.
    fn follow(&self, written: &mut HashMap<FlowKey, u64>) -> io::Result<Carried> {
        let mut carried = Carried::default();
        let mut gone = written.clone();
        self.old.for_each(&mut |key, value| {
            let Some((key, value)) = self.convert(key, value) else { return Ok(()) };
            let before = written.get(&flow_key(&key)).copied();
            gone.remove(&flow_key(&key));
            if before == Some(hash(&value)) {
                return Ok(());
            }
            let result = match self.new.lookup(&key)? {
                None if before.is_none() => self.new.update(&key, &value, NOEXIST),
                // Ended by the new programs.
                None => Ok(false),
                Some(now) if before == Some(hash(&now)) => self.new.update(&key, &value, EXIST),
                // Written by the new programs.
                Some(_) => Ok(false),
            };
            match result {
                Ok(done) => carried.entries += u64::from(done && before.is_none()),
                Err(error) if is_full(&error) => carried.lost += 1,
                Err(error) => return Err(error),
            }
            written.insert(flow_key(&key), hash(&value));
            Ok(())
        })?;
        for (key, before) in gone {
            let key = &key[..self.new.key_size];
            if self.new.lookup(key)?.is_some_and(|now| hash(&now) == before) {
                self.new.delete(key)?;
            }
        }
        Ok(carried)
    }
}

/// Two lists of 64-bit numbers, one by one.
fn words(a: &[u8], b: &[u8], combine: fn(u64, u64) -> u64) -> Vec<u8> {
    let number = |bytes: &[u8]| u64::from_ne_bytes(std::array::from_fn(|at| bytes[at]));
    let pairs = a.chunks_exact(8).zip(b.chunks_exact(8));
    pairs.flat_map(|(a, b)| combine(number(a), number(b)).to_ne_bytes()).collect()
}

fn flow_key(key: &[u8]) -> FlowKey {
    let mut fixed = [0; 32];
    let length = key.len().min(fixed.len());
    fixed[..length].copy_from_slice(&key[..length]);
    fixed
}

fn hash(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM | libc::ENOSPC))
}

fn failed(action: &'static str, name: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Map { action, name, error: MapError::IoError(error) }
}

/// Removes a directory of pins and what is in it.
pub fn remove(directory: &Path) -> usize {
    let mut removed = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            removed += remove(&path);
        } else {
            removed += usize::from(unpin(&path).unwrap_or_default());
        }
    }
    let _ = fs::remove_dir(directory);
    removed
}
