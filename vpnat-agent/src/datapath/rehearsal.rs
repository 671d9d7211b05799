//! Running the engine on a made-up packet: the programs' own code over the pinned maps, which it does not change.

use std::collections::BTreeSet;

use aya::maps::{Array, HashMap};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, TestRun as _, TestRunOptions};
use vpnat_common::layout::flow::{FlowEntry, FlowKey};
use vpnat_common::layout::names;
use vpnat_common::layout::outcome::{Hook, OUTCOME_SLOTS, Outcome};
use vpnat_common::layout::rehearsal::Report;
use vpnat_common::layout::user::FlowEntryBytes;

use super::pins::Pins;
use super::{Error, object};

/// What a program may add to a packet, bytes.
const SLACK: usize = 256;

/// Where a packet is when a program sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Index of the device whose hook it is.
    pub device: u32,
    /// Index of the device that it came in by, 0 if this host made it.
    pub arrived: u32,
}

/// How a program left a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The program's own verdict (`TC_ACT_…`, `XDP_…`).
    pub returned: u32,
    /// The packet afterwards.
    pub data: Vec<u8>,
    /// How it ended.
    pub outcome: Outcome,
    /// Vendor slot, 0 if it is nobody's.
    pub vendor: u8,
    /// What the engine asked.
    pub report: Report,
}

/// Rehearsals that share what they would have written.
pub struct Rehearsal {
    object: Ebpf,
    loaded: BTreeSet<&'static str>,
    room: u32,
}

impl Rehearsal {
    /// A rehearsal over the maps in `pins`; `room` is how many entries the flow table still takes.
    pub fn new(pins: &Pins, room: u32) -> Result<Self, Error> {
        let object = object::load_rehearsals(pins, &[])?;
        Ok(Self { object, loaded: BTreeSet::new(), room })
    }

    /// Runs the rehearsal of `program` on `data`, as the hook gets it.
    pub fn run(&mut self, program: &'static str, data: &[u8], place: Place) -> Result<Run, Error> {
        if self.loaded.insert(program) {
            object::load_rehearsal(&mut self.object, program)?;
        }
        let error = |action| Error::map(action, names::REPORT);
        let map = self.object.map_mut(names::REPORT);
        let map = map.ok_or(Error::ObjectLacks { what: "map", name: names::REPORT.into() })?;
        let mut reports: Array<_, Report> = map.try_into().map_err(error("opening"))?;
        reports.set(0, Report { room: self.room, ..Report::default() }, 0).map_err(error("writing"))?;

        let mut out = vec![0; data.len() + SLACK];
        let name = object::rehearsal_of(program);
        let xdp = program.starts_with("xdp_");
        let context = if xdp { xdp_context(place, data.len()) } else { tc_context(place) };
        let options = TestRunOptions {
            data_in: Some(data),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = if xdp {
            let program: &Xdp = object::xdp(&mut self.object, &name)?;
            program.test_run(options)
        } else {
            let program: &SchedClassifier = object::classifier(&mut self.object, &name)?;
            program.test_run(options)
        };
        let result = result.map_err(Error::program("running", &name))?;
        out.truncate(result.data_size_out as usize);

        let map = self.object.map(names::REPORT);
        let map = map.ok_or(Error::ObjectLacks { what: "map", name: names::REPORT.into() })?;
        let reports: Array<_, Report> = map.try_into().map_err(error("opening"))?;
        let report = reports.get(&0, 0).map_err(error("reading"))?;
        self.room = report.room;
        let outcome = report.counter % OUTCOME_SLOTS;
        let outcome = Outcome::ALL.iter().find(|known| **known as u32 == outcome);
        Ok(Run {
            returned: result.return_value,
            data: out,
            outcome: outcome.copied().unwrap_or(Outcome::Unfinished),
            vendor: (report.counter / OUTCOME_SLOTS / Hook::ALL.len() as u32) as u8,
            report,
        })
    }

    /// The entry that `key` would have now.
    pub fn entry(&self, key: &FlowKey) -> Result<Option<FlowEntry>, Error> {
        let Some(map) = self.object.map(names::REHEARSED) else { return Ok(None) };
        let copies: HashMap<_, FlowKey, FlowEntryBytes> =
            map.try_into().map_err(Error::map("opening", names::REHEARSED))?;
        Ok(copies.get(key, 0).ok().and_then(|entry| entry.decode()))
    }
}

/// `struct __sk_buff` as a test run takes it: what is not named must be 0.
fn tc_context(place: Place) -> Vec<u8> {
    /// Length of the structure, and offsets of the two indices in it (`include/uapi/linux/bpf.h`).
    const LENGTH: usize = 192;
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    let mut context = vec![0; LENGTH];
    context[INGRESS_IFINDEX..IFINDEX].copy_from_slice(&place.arrived.to_ne_bytes());
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&place.device.to_ne_bytes());
    context
}

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
fn xdp_context(place: Place, length: usize) -> Vec<u8> {
    [0, length as u32, 0, place.device, 0, 0].map(u32::to_ne_bytes).concat()
}
