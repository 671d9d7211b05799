//! Hostile packets: the real programs on packets of any shape, against live maps.
//!
//! A run is made of rounds. A round begins with empty tables and conditions of its own, all drawn from its seed,
//! and runs some thousand packets, each on a random program of a random hook. For each packet, [`rules`] says
//! what must hold: a legal verdict; a packet that is passed is unchanged; one that is translated is itself but for
//! the fields that translation changes, its checksums follow, and it leaves from the vendor's egress address or
//! goes to the pod that the flow belongs to, as [`shadow`] has seen it opened; and [`tally`] compares the counters.
//!
//! Set by the environment: `VPNAT_FUZZ_SECONDS`, `VPNAT_FUZZ_PACKETS` (whichever ends first), `VPNAT_FUZZ_SEED`
//! (of the run; printed) and `VPNAT_FUZZ_ROUND` (that round alone, its counters compared after each packet).

mod headers;
mod make;
mod place;
pub mod random;
mod rules;
mod shadow;
mod sys;
mod tally;
mod turned;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::RawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vpnat_common::addr::Port;
use vpnat_common::layout::device::{Device, role};
use vpnat_common::layout::vendor::flag;

use crate::case::Course;
use crate::plan::{A, OUTSIDE_SLOT};
use crate::world::{World, tc_context, xdp_context};
use make::Maker;
use place::{Conditions, MARK, Place};
use random::Random;
use rules::{Ended, Ran, Rules};
use shadow::Shadow;
use tally::Tally;

const PACKETS_PER_ROUND: usize = 4096;
const PACKETS_PER_CHECK: usize = 256;
/// More findings than this say nothing new.
const ENOUGH: usize = 12;

/// What a run is told.
struct Orders {
    seed: u64,
    round: Option<u64>,
    packets: u64,
    time: Duration,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, and not {text:?}")))
}

impl Orders {
    fn from_environment() -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let packets = number("VPNAT_FUZZ_PACKETS");
        let seconds = number("VPNAT_FUZZ_SECONDS").unwrap_or(if packets.is_some() { 86400 } else { 20 });
        Self {
            seed: number("VPNAT_FUZZ_SEED").unwrap_or(clock.as_nanos() as u64 >> 10),
            round: number("VPNAT_FUZZ_ROUND"),
            packets: packets.unwrap_or(u64::MAX),
            time: Duration::from_secs(seconds),
        }
    }
}

/// Offsets in the kernel's `struct __sk_buff`.
const SKB_MARK: usize = 8;
const SKB_GSO_SEGMENTS: usize = 164;
const SKB_GSO_SIZE: usize = 176;

fn context_word(context: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([context[at], context[at + 1], context[at + 2], context[at + 3]])
}

/// Everything of a run.
struct Fuzzer {
    world: World,
    programs: BTreeMap<&'static str, RawFd>,
    tally: Tally,
    shadow: Shadow,
    ran: u64,
    refused: u64,
    translated: u64,
    findings: BTreeMap<String, String>,
}

impl Fuzzer {
    fn new() -> Self {
        let world = World::load_alone();
        let programs = world.program_fds();
        let processors = aya::util::nr_cpus().expect("the number of processors");
        let tally = Tally::new(world.counters_fd(), processors);
        let findings = BTreeMap::new();
        Self {
            world,
            programs,
            tally,
            shadow: Shadow::default(),
            ran: 0,
            refused: 0,
            translated: 0,
            findings,
        }
    }

    fn round(&mut self, seed: u64, number: u64, single: bool) {
        let mut maker = Maker::new(Random::new(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95)).next());
        let conditions = Conditions::draw(&mut maker.random);
        let site = if conditions.one_arm { &self.world.one_arm } else { &self.world.two_arms };
        let (namespace, places) = (site.namespace.clone(), Place::all(site));
        // The kernel looks devices and routes up in the namespace of the thread that runs a program.
        namespace.enter(|| {
            self.prepare(&conditions);
            self.packets(&mut maker, &conditions, &places, &format!("seed {seed} round {number}"), single);
        });
    }

    fn prepare(&mut self, conditions: &Conditions) {
        self.world.prepare(conditions.one_arm);
        self.shadow.clear();
        let outside =
            if conditions.one_arm { self.world.one_arm.outside } else { self.world.two_arms.outside };
        let maps = &mut self.world.maps;
        maps.change_settings(|settings| {
            settings.redirect_mark = if conditions.redirect { MARK } else { 0 };
            settings.ready = conditions.ready.into();
        })
        .expect("settings");
        if !conditions.guarded {
            let inside = if conditions.one_arm { role::INSIDE } else { 0 };
            let device =
                Device { roles: role::OUTSIDE | inside, xdp_slot: OUTSIDE_SLOT, ..Device::default() };
            maps.devices.insert(outside.0, device, 0).expect("a device");
        }
        let mut policy = maps.vendors.get(&A.into(), 0).expect("a vendor's policy");
        policy.mss = conditions.mss;
        policy.path_mtu = conditions.path_mtu;
        policy.flags = if conditions.pick_up { flag::TCP_PICK_UP } else { 0 };
        policy.port_max = Port::new((policy.port_min.number - 1).wrapping_add(conditions.ports));
        maps.vendors.set(A.into(), policy, 0).expect("a vendor's policy");
    }

    fn packets(
        &mut self,
        maker: &mut Maker,
        conditions: &Conditions,
        places: &[Place],
        title: &str,
        single: bool,
    ) {
        let (mut ip, mut frame, mut output) = (Vec::new(), Vec::new(), Vec::new());
        for count in 1..=PACKETS_PER_ROUND {
            let place = &places[maker.random.below(places.len())];
            let course =
                if maker.random.once_in(8) == place.may_be_outbound() { Course::Back } else { Course::Out };
            maker.make(course, &mut ip);
            place.frame(&mut maker.random, &ip, &mut frame);
            let (mut mark, mut gso_size) = (0, 0u32);
            let mut context = if place.is_xdp() {
                xdp_context(place.device, frame.len())
            } else {
                mark = maker.random.pick(&[0, 0, 0, 0, 0, MARK, 7]);
                gso_size = maker.random.pick(&[0, 0, 0, 0, 0, 0, 0, 1, 536, 1448, 9000]);
                let mut context = tc_context(place.device, place.came_by);
                context[SKB_MARK..SKB_MARK + 4].copy_from_slice(&mark.to_ne_bytes());
                context[SKB_GSO_SIZE..SKB_GSO_SIZE + 4].copy_from_slice(&gso_size.to_ne_bytes());
                let segments = u32::from(gso_size != 0) * 2;
                context[SKB_GSO_SEGMENTS..SKB_GSO_SEGMENTS + 4].copy_from_slice(&segments.to_ne_bytes());
                context
            };
            let Ok(returned) = sys::test_run(self.programs[place.program], &frame, &mut output, &mut context)
            else {
                self.refused += 1;
                continue;
            };
            let after = if place.is_xdp() { 0 } else { context_word(&context, SKB_MARK) };
            self.ran += 1;
            let ran = Ran { place, input: &frame, output: &output, returned, marks: (mark, after), gso_size };
            let site = if conditions.one_arm { &self.world.one_arm } else { &self.world.two_arms };
            let table = &self.world.flows;
            let mut rules = Rules { site, table, conditions: conditions.clone(), shadow: &mut self.shadow };
            match rules.judge(&ran) {
                Ok(end) => {
                    self.tally.saw(place.hook, end, frame.len() - place.link);
                    if let Ended::Translated(course) = end {
                        self.translated += 1;
                        // A redirect to a neighbour may have put room for a link layer's header in front.
                        let ip = frame.len() - place.link;
                        maker.keep(course, &frame[place.link..], &output[output.len() - ip..]);
                    }
                }
                Err(why) => {
                    let dropped = if place.is_xdp() { returned == 1 } else { returned == 2 };
                    let end = if dropped { Ended::Dropped } else { Ended::Unchanged };
                    self.tally.saw(place.hook, end, frame.len() - place.link);
                    self.found(&why, row(title, count, &ran, conditions, &why));
                }
            }
            if (single || count % PACKETS_PER_CHECK == 0)
                && let Err(why) = self.tally.check()
            {
                let last = if single { row(title, count, &ran, conditions, &why) } else { String::new() };
                self.found(&why.clone(), format!("{title} up to packet {count}: {why}\n{last}"));
            }
            if maker.random.once_in(512) {
                self.pass_time(maker);
            }
            if self.findings.len() >= ENOUGH {
                return;
            }
        }
        if let Err(why) = self.tally.check() {
            self.found(&why.clone(), format!("{title}: {why}"));
        }
    }

    /// Lets timers run out, or only the next stamp begin.
    fn pass_time(&mut self, maker: &mut Maker) {
        let seconds = maker.random.pick(&[4, 8, 70, 320, 8000]);
        self.shadow.epoch += 1;
        let change = self.world.maps.change_settings(|settings| {
            settings.clock_offset_s = settings.clock_offset_s.wrapping_add(seconds);
        });
        change.expect("the clock's offset");
    }

    /// Keeps the first finding of its kind: digits do not make another kind.
    fn found(&mut self, why: &str, row: String) {
        let kind = why.chars().filter(|char| !char.is_ascii_digit()).take(48).collect();
        self.findings.entry(kind).or_insert(row);
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string");
        text
    })
}

/// A finding as a row for the table of those that were found before.
fn row(title: &str, count: usize, ran: &Ran<'_>, conditions: &Conditions, why: &str) -> String {
    format!(
        "{title} packet {count}: {why}\n  {} from device {} by {}, mark {:#x}, segments of {}, verdict {}\n  {conditions:?}\n  \
         in  {}\n  out {}",
        ran.place.program,
        ran.place.came_by,
        ran.place.device,
        ran.marks.0,
        ran.gso_size,
        ran.returned as i32,
        hexadecimal(ran.input),
        hexadecimal(ran.output),
    )
}

#[test]
fn packets_of_any_shape() {
    let orders = Orders::from_environment();
    let mut fuzzer = Fuzzer::new();
    let start = Instant::now();
    if let Some(round) = orders.round {
        fuzzer.round(orders.seed, round, true);
    } else {
        let mut round = 0;
        while fuzzer.ran < orders.packets && start.elapsed() < orders.time && fuzzer.findings.len() < ENOUGH {
            fuzzer.round(orders.seed, round, false);
            round += 1;
        }
    }
    let outcomes = fuzzer.tally.outcomes();
    println!(
        "seed {}: {} packets in {:.1} s, {} of them translated, {} not taken by the kernel, {} findings\n{outcomes:?}",
        orders.seed,
        fuzzer.ran,
        start.elapsed().as_secs_f64(),
        fuzzer.translated,
        fuzzer.refused,
        fuzzer.findings.len(),
    );
    println!("chaos: fuzzed-packets={} findings={}", fuzzer.ran, fuzzer.findings.len());
    assert!(fuzzer.findings.is_empty(), "{}", fuzzer.findings.into_values().collect::<Vec<_>>().join("\n\n"));
    // A run that translates nothing, or that the kernel refuses, would prove nothing.
    assert!(
        fuzzer.translated * 50 > fuzzer.ran && fuzzer.refused * 10 < fuzzer.ran,
        "hardly anything was tried"
    );
    for outcome in
        ["outbound", "inbound", "unsolicited", "fragment-unknown", "table-full", "icmp-error-no-flow"]
    {
        assert!(orders.round.is_some() || outcomes.contains_key(outcome), "no packet ended as {outcome}");
    }
}
