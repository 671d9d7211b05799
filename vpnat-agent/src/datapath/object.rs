//! Loading the embedded object over the pinned maps.

use std::fs;
use std::io;

use aya::programs::{Program, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_obj::Object;
use vpnat_common::layout::event::EVENT_BUFFER;
use vpnat_common::layout::names;

use super::error::chain;
use super::hooks::Needed;
use super::maps::Table;
use super::pins::{Pins, unpin};
use super::{Error, clock, kernel, maps, reap};
use crate::stop::Stop;

/// The BPF programs; empty if they could not be built with the agent.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vpnat-ebpf.o"));

/// The constant that turns jiffies into seconds.
const CLOCK_MULTIPLIER: &str = "CLOCK_MULTIPLIER";

/// The key of what ports are drawn from: constants too, so that it is there before the first packet and in no pinned map.
const PORT_SECRET: [&str; 2] = ["PORT_SECRET_A", "PORT_SECRET_B"];

/// Programs for every kind of device, by what they are for.
pub const TC_PROGRAMS: [&str; 15] = [
    "ingress_inside_l2",
    "ingress_inside_l3",
    "ingress_outside_l2",
    "ingress_outside_l3",
    "ingress_both_l2",
    "ingress_both_l3",
    "ingress_inside_xfrm",
    "ingress_outside_xfrm",
    "ingress_both_xfrm",
    "egress_outside_l2",
    "egress_outside_l3",
    "egress_guard_l2",
    "egress_guard_l3",
    "egress_carrier_l2",
    "egress_loopback_l2",
];

/// Programs on the fast path.
pub const XDP_PROGRAMS: [&str; 3] = ["xdp_inside", "xdp_outside", "xdp_both"];

/// What the names of those begin with that tell a tracer what they decide.
const TRACED: &str = "traced_";

/// Programs that the agent and the reading verbs run; pinned.
const SERVICE_PROGRAMS: [&str; 2] = [clock::PROBE_CLOCK, reap::REAP];

/// Flow entries that one packet can look at: a search for a port looks at many.
const REHEARSED_ENTRIES: u32 = 4096;

/// What a map must look like.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Shape {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
}

/// How a load sizes the maps that the configuration sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Entries of the flow table.
    pub flows: u32,
    /// Entries of the fragment table.
    pub fragments: u32,
    /// Bytes of the event buffer.
    pub events: u32,
}

impl Sizes {
    /// For `max_flows` flows: two entries each; one flow in sixteen may have a fragmented datagram in flight.
    pub fn for_flows(max_flows: u32) -> Self {
        Self {
            flows: max_flows.saturating_mul(2),
            fragments: (max_flows / 16).max(1024),
            events: EVENT_BUFFER,
        }
    }
}

/// There is an object.
pub fn check_embedded() -> Result<(), Error> {
    if OBJECT.is_empty() { Err(Error::NoObject) } else { Ok(()) }
}

/// What is pinned, compared with what the object declares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pinned {
    /// With which sizes to load.
    pub sizes: Sizes,
    /// Whether this build's own maps have to be made anew, and their contents taken over, because a type or size differs.
    pub renew: bool,
}

/// Compares what is pinned with what the object declares, and says how it can be loaded.
///
/// aya takes any pinned map for the one it looks for, whatever its shape.
pub fn check_pinned(pins: &Pins, wanted: Sizes) -> Result<Pinned, Error> {
    let object = parse()?;
    let mut sizes = wanted;
    // A table in use is not made so small that it could lose flows.
    if let Some(info) = maps::info(&pins.map(names::FLOWS), names::FLOWS)?
        && info.max_entries() > wanted.flows
    {
        let used = Table::flows(pins).and_then(|table| table.count())?;
        if used > wanted.flows / 2 {
            log::warn!(
                "map FLOWS keeps its {} entries, not the {} of the configuration, because {used} are in use; a start with \
                 fewer makes it smaller",
                info.max_entries(),
                wanted.flows
            );
            sizes = Sizes { events: wanted.events, ..Sizes::for_flows(info.max_entries() / 2) };
        }
    }
    let mut renew = false;
    for name in names::ALL {
        let declared =
            object.maps.get(name).ok_or_else(|| Error::ObjectLacks { what: "map", name: name.into() })?;
        let Some(info) = maps::info(&pins.map(name), name)? else { continue };
        let entries = match name {
            names::FLOWS => sizes.flows,
            names::FRAGMENTS => sizes.fragments,
            names::EVENTS => sizes.events,
            _ => declared.max_entries(),
        };
        let expected = Shape {
            kind: declared.map_type(),
            key: declared.key_size(),
            value: declared.value_size(),
            entries,
        };
        let found = Shape {
            kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
        };
        if found != expected {
            log::info!(
                "map {name} is {found:?} and shall be {expected:?}: it is made anew, with what it holds"
            );
            renew = true;
        }
    }
    Ok(Pinned { sizes, renew })
}

fn parse() -> Result<Object, Error> {
    check_embedded()?;
    Object::parse(OBJECT).map_err(|error| Error::ObjectBad { reason: error.to_string() })
}

/// A loader without the kernel's own BTF: no program needs it, and it would take ten megabytes beside what loading takes.
fn loader<'a>() -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader
}

/// A key for one load. Never zero, which is none.
fn new_secret() -> Result<[u64; 2], Error> {
    let half = || getrandom::u64().map_err(|error| Error::NoRandom { reason: error.to_string() });
    Ok([half()?.max(1), half()?])
}

/// Gives the memory that loading took back to the system.
fn trim() {
    // SAFETY: the function has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Loads maps and programs. Maps that are not pinned yet are made and pinned; if the load fails, those pins
/// are taken back.
pub fn load(pins: &Pins, sizes: Sizes, tick_rate: u32, needed: &Needed, stop: &Stop) -> Result<Ebpf, Error> {
    let new: Vec<_> = names::ALL.into_iter().filter(|name| !pins.map(name).exists()).collect();
    let loaded = load_over(pins, sizes, tick_rate, needed, stop);
    if loaded.is_err() {
        for name in new {
            let _ = unpin(&pins.map(name));
        }
    }
    loaded
}

/// Loads the rehearsals of `programs` over pinned maps. They change none of these; the few entries that a rehearsal
/// writes are in maps of its own, which go with what this returns.
pub fn load_rehearsals(pins: &Pins, programs: &[&str]) -> Result<Ebpf, Error> {
    let pinned = |name| maps::info(&pins.map(name), name);
    for name in names::ALL {
        // The loader would make what is missing.
        if pinned(name)?.is_none() {
            return Err(Error::NothingPinned { path: pins.maps() });
        }
    }
    let size = |name| Ok::<_, Error>(pinned(name)?.map_or(0, |info| info.max_entries()));
    let sizes = Sizes {
        flows: size(names::FLOWS)?,
        fragments: size(names::FRAGMENTS)?,
        events: size(names::EVENTS)?,
    };
    if check_pinned(pins, sizes)?.renew {
        return Err(Error::OtherBuild { path: pins.maps() });
    }
    let multiplier = clock::multiplier(clock::tick_rate()?);
    let secret = new_secret()?;
    let mut loader = EbpfLoader::new();
    loader
        .override_global(CLOCK_MULTIPLIER, &multiplier, true)
        .override_global(PORT_SECRET[0], &secret[0], true)
        .override_global(PORT_SECRET[1], &secret[1], true)
        .map_max_entries(names::REHEARSED, REHEARSED_ENTRIES);
    for name in names::ALL {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut object = loader.load(OBJECT).map_err(object_error)?;
    for name in programs {
        load_rehearsal(&mut object, name)?;
    }
    Ok(object)
}

/// Loads the rehearsal of one more program, if it is not loaded as that of another.
pub fn load_rehearsal(object: &mut Ebpf, name: &str) -> Result<(), Error> {
    let name = rehearsal_of(name);
    match program(object, &name)? {
        program if program.fd().is_ok() => Ok(()),
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return Err(Error::ObjectLacks { what: "program", name }),
    }
    .map_err(|error| load_error(&name, error))
}

/// The name of the program that rehearses `program`. A test run has no header of a device below.
pub fn rehearsal_of(program: &str) -> String {
    match program.strip_suffix("_xfrm") {
        Some(part) => format!("explain_{part}_l3"),
        None => format!("explain_{program}"),
    }
}

/// The name of `program`'s form that tells a tracer what it decides.
pub fn traced(program: &str) -> String {
    format!("{TRACED}{program}")
}

/// Whether a program of this name, as far as the kernel keeps it, tells a tracer what it decides.
pub fn is_traced(name: &str) -> bool {
    name.starts_with(TRACED)
}

/// The program that this one, traced or not, is the form of, if it is one that is attached to devices by TC.
pub fn tc_program(name: &str) -> Option<&'static str> {
    let plain = name.strip_prefix(TRACED).unwrap_or(name);
    TC_PROGRAMS.into_iter().find(|known| *known == plain)
}

/// Loads the traced form of `program` over the maps of the other programs of `object`; its identifier.
pub fn load_traced(object: &mut Ebpf, program: &str) -> Result<u32, Error> {
    let name = traced(program);
    let info = match self::program(object, &name)? {
        Program::Xdp(program) => program.load().and_then(|()| program.info()),
        Program::SchedClassifier(program) => program.load().and_then(|()| program.info()),
        _ => return Err(Error::ObjectLacks { what: "program", name }),
    };
    info.map(|info| info.id()).map_err(|error| load_error(&name, error))
}

/// Lets go of the traced form of `program`; the kernel frees it when nothing has it attached.
pub fn unload_traced(object: &mut Ebpf, program: &str) {
    let unloaded = match self::program(object, &traced(program)) {
        Ok(Program::Xdp(program)) => program.unload(),
        Ok(Program::SchedClassifier(program)) => program.unload(),
        _ => Ok(()),
    };
    if let Err(error) = unloaded {
        log::debug!("{program}: {}", chain(&error));
    }
}

fn load_over(pins: &Pins, sizes: Sizes, tick_rate: u32, needed: &Needed, stop: &Stop) -> Result<Ebpf, Error> {
    let go_on = || if stop.is_set() { Err(Error::Stopped) } else { Ok(()) };
    let multiplier = clock::multiplier(tick_rate);
    let secret = new_secret()?;
    let mut loader = loader();
    loader
        .override_global(CLOCK_MULTIPLIER, &multiplier, true)
        .override_global(PORT_SECRET[0], &secret[0], true)
        .override_global(PORT_SECRET[1], &secret[1], true)
        .map_max_entries(names::FLOWS, sizes.flows)
        .map_max_entries(names::FRAGMENTS, sizes.fragments)
        .map_max_entries(names::EVENTS, sizes.events);
    for name in names::ALL {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut object = loader.load(OBJECT).map_err(object_error)?;
    for name in SERVICE_PROGRAMS.iter().chain(&needed.tc) {
        go_on()?;
        classifier(&mut object, name)?.load().map_err(|error| load_error(name, error))?;
    }
    for name in &needed.xdp {
        go_on()?;
        xdp(&mut object, name)?.load().map_err(|error| load_error(name, error))?;
    }
    trim();
    go_on()?;
    Ok(object)
}

/// Pins the programs that reading verbs run, in place of an older agent's.
pub fn pin_services(object: &mut Ebpf, pins: &Pins) -> Result<(), Error> {
    for name in SERVICE_PROGRAMS {
        let path = pins.program(name);
        let new = pins.program(&format!("{name}_new"));
        unpin(&new)?;
        classifier(object, name)?
            .pin(&new)
            .map_err(|error| Error::file("pinning a program", &new)(io::Error::other(error)))?;
        fs::rename(&new, &path).map_err(Error::file("pinning a program", &path))?;
    }
    Ok(())
}

/// The TC program called `name`.
pub fn classifier<'o>(object: &'o mut Ebpf, name: &str) -> Result<&'o mut SchedClassifier, Error> {
    program(object, name)?.try_into().map_err(Error::program("using", name))
}

/// The XDP program called `name`.
pub fn xdp<'o>(object: &'o mut Ebpf, name: &str) -> Result<&'o mut Xdp, Error> {
    program(object, name)?.try_into().map_err(Error::program("using", name))
}

fn program<'o>(object: &'o mut Ebpf, name: &str) -> Result<&'o mut Program, Error> {
    object.program_mut(name).ok_or_else(|| Error::ObjectLacks { what: "program", name: name.into() })
}

fn object_error(error: EbpfError) -> Error {
    Error::ObjectBad { reason: chain(&error) }
}

/// A verifier log is never the first thing that is said.
fn load_error(program: &str, error: ProgramError) -> Error {
    let (program, kernel) = (program.to_owned(), kernel::release());
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            Error::Verifier { program, kernel, reason: io_error, log: verifier_log.to_string(), file: None }
        }
        error => Error::Load { program, kernel, error: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::LOG_LINES;
    use super::*;

    #[test]
    fn a_verifier_log_comes_last_and_short() {
        let log: String = (0..100).map(|line| format!("{line}: r0 = 0\n")).collect();
        let error = ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(libc::EACCES),
            verifier_log: aya_obj::VerifierLog::new(log),
        };
        let text = load_error("xdp_inside", error).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("refused program `xdp_inside`"), "{text}");
        assert!(lines[0].contains("Linux "), "{text}");
        assert_eq!(lines.len(), 1 + LOG_LINES);
        assert_eq!(lines[1], "80: r0 = 0");
    }

    #[test]
    fn a_whole_verifier_log_is_kept_in_a_file() {
        let error = ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(libc::EACCES),
            verifier_log: aya_obj::VerifierLog::new(
                (0..100).map(|line| format!("{line}: r0 = 0\n")).collect(),
            ),
        };
        let directory = std::env::temp_dir().join(format!("vpnat-verifier-{}", std::process::id()));
        let text = load_error("xdp_inside", error).with_log_in(&directory).to_string();
        let file = directory.join("verifier-xdp_inside.log");
        assert!(text.contains(&file.display().to_string()), "{text}");
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 100);
        fs::remove_dir_all(directory).unwrap();
    }
}
