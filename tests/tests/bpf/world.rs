//! The programs, loaded once as the agent loads them, their maps, and network namespaces to run them in.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{Program, SchedClassifier, Xdp};
use aya::{Ebpf, TestRun as _, TestRunOptions};
use tests::link;
use tests::netns::Namespace;
use tests::sandbox::Sandbox;
use vpnat_agent::datapath::clock;
use vpnat_agent::datapath::hooks::Needed;
use vpnat_agent::datapath::maps::ConfigMaps;
use vpnat_agent::datapath::object::{self, Sizes, TC_PROGRAMS, XDP_PROGRAMS};
use vpnat_agent::datapath::pins::Pins;
use vpnat_agent::stop::Stop;
use vpnat_agent::trace::event::Decided;
use vpnat_common::addr::Ip4;
use vpnat_common::engine::STAMP_SECONDS;
use vpnat_common::layout::account::{Account, AccountKey};
use vpnat_common::layout::clock::Settings;
use vpnat_common::layout::device::{Device, XdpPort, role};
use vpnat_common::layout::event::{FlowEvent, Tally};
use vpnat_common::layout::flow::{FlowKey, FragmentEntry, FragmentKey};
use vpnat_common::layout::names;
use vpnat_common::layout::outcome::{Count, Hook, counter_index};
use vpnat_common::layout::pool::{PoolKey, PortPool};
use vpnat_common::layout::recycling::{SetKey, WorkingSet};
use vpnat_common::layout::refusal::Answers;
use vpnat_common::layout::trace::{TraceCpu, TraceFilter};
use vpnat_common::layout::user::FlowEntryBytes;
use vpnat_common::layout::vendor::{
    EgressAddress, PrefixTarget, SOURCE_KEY_VENDOR_BITS, SourceKey, SourceRule, VendorPolicy,
};

use crate::plan::{
    A, ALLOWED, B, BOTH, EGRESS_A, EGRESS_B, EXEMPT, GATEWAY, INSIDE_ROUTER, INSIDE_SLOT, INSTANCE,
    INSTANCE_INSIDE, OUTSIDE_SLOT, PODS, PREFIX_A, PREFIX_B, STRANGER, mac_of,
};

/// Room of the flow table: small, so that a test can fill it.
pub const TABLE_ENTRIES: u32 = 128;

/// The event buffer: the least that every page size allows.
pub const EVENT_BYTES: u32 = 64 << 10;

/// A namespace with forwarding on, and the devices that the programs are told they run on.
pub struct Site {
    /// The namespace.
    pub namespace: Arc<Namespace>,
    /// Towards the pods: index and Ethernet address.
    pub inside: (u32, [u8; 6]),
    /// Towards the vendors, the same device if there is only one.
    pub outside: (u32, [u8; 6]),
    /// A device that plays no part.
    pub other: u32,
    /// The far ends of the devices.
    _far: Namespace,
}

impl Site {
    fn new(inside: &str, outside: &str) -> Self {
        let (namespace, far) = (Namespace::new("nat"), Namespace::new("far"));
        let mut devices = vec![inside, outside, "other0"];
        devices.dedup();
        for (number, device) in devices.iter().enumerate() {
            link::veth((&namespace, device), (&far, &format!("far{number}")));
        }
        namespace.sysctl("net.ipv4.ip_forward", "1");
        let mut lines = format!(
            "addr add {} dev {inside}\naddr add {} dev {outside}\naddr add 8.0.9.1/24 dev other0\n",
            INSTANCE[0], INSTANCE[1]
        );
        let mut neighbours = vec![(STRANGER, inside), (INSIDE_ROUTER, inside), (GATEWAY, outside)];
        neighbours.extend(PODS.map(|pod| (pod, inside)));
        for (address, device) in neighbours {
            let mac = mac_of(address).map(|byte| format!("{byte:02x}")).join(":");
            lines += &format!("neigh add {address} lladdr {mac} dev {device} nud permanent\n");
        }
        lines += &format!("route add default via {GATEWAY} dev {outside}");
        namespace.ip(&lines);
        let place = |device| {
            (namespace.ifindex(device).expect("a device that was made"), link::mac(&namespace, device))
        };
        let (inside, outside, other) = (place(inside), place(outside), place("other0").0);
        Self { namespace: Arc::new(namespace), inside, outside, other, _far: far }
    }

    /// Whether pods and vendors share a device.
    pub fn one_arm(&self) -> bool {
        self.inside.0 == self.outside.0
    }
}

/// What all tests share, one at a time.
pub struct World {
    /// With a device for each side.
    pub two_arms: Site,
    /// With one device for both.
    pub one_arm: Site,
    /// The configuration's maps.
    pub maps: ConfigMaps,
    /// The flow table.
    pub flows: HashMap<MapData, FlowKey, FlowEntryBytes>,
    fragments: HashMap<MapData, FragmentKey, [u8; size_of::<FragmentEntry>()]>,
    pools: HashMap<MapData, PoolKey, PortPool>,
    sets: HashMap<MapData, SetKey, WorkingSet>,
    /// What sources have.
    pub accounts: HashMap<MapData, AccountKey, Account>,
    counters: PerCpuArray<MapData, Count>,
    counters_map: MapData,
    answers: PerCpuArray<MapData, Answers>,
    budget: Array<MapData, u32>,
    tallies: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    programs: Ebpf,
    /// Whether programs run in their traced form.
    traced: bool,
}

/// Runs every case through the traced programs: `VPNAT_TRACED=1 cargo xtask test --tier bpf`.
const TRACED_ENV: &str = "VPNAT_TRACED";

/// The reading end of the traced programs.
pub struct Tracer {
    filter: Array<MapData, TraceFilter>,
    events: RingBuf<MapData>,
    counts: PerCpuArray<MapData, TraceCpu>,
}

impl Tracer {
    /// Tells the programs what is wanted.
    pub fn wants(&mut self, filter: TraceFilter) {
        self.filter.set(0, filter, 0).expect("the filter");
    }

    /// What was told since this was last asked for.
    pub fn told(&mut self) -> Vec<Decided> {
        let mut told = Vec::new();
        while let Some(item) = self.events.next() {
            told.push(Decided::read(&item).expect("an event"));
        }
        told
    }

    /// Events suppressed and lost; no arrival may be left without its verdict.
    pub fn missed(&self) -> (u64, u64) {
        let counts = self.counts.get(&0, 0).expect("the counts");
        assert!(counts.iter().all(|cpu| cpu.depth == 0));
        (counts.iter().map(|cpu| cpu.suppressed).sum(), counts.iter().map(|cpu| cpu.lost).sum())
    }
}

/// The one world of this process; whoever holds it has the maps to itself.
pub fn world() -> MutexGuard<'static, World> {
    static WORLD: OnceLock<Option<Mutex<World>>> = OnceLock::new();
    let world = WORLD.get_or_init(|| {
        // Pins are only needed to load; the mount namespace that they lie in ends with this thread. Loading
        // takes seconds: what failed once is not tried again by every test.
        std::thread::spawn(|| Mutex::new(World::load(STANDING))).join().ok()
    });
    let world = world.as_ref().expect("the programs and their surroundings; the first failure says why not");
    // A test that failed leaves nothing that the next one's `prepare` does not clear.
    world.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// So many ticks to a second that time stands still, but for the one that is full when the kernel's counter passes 2^32, five
/// minutes after it has started: time passes when a test says so, however long a busy machine keeps it waiting.
const STANDING: u32 = u32::MAX;

/// Runs what changes the namespaces of its thread.
fn in_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl World {
    /// A world beside the one that tests share, for a test that takes its time.
    pub fn load_alone() -> Self {
        in_a_thread(|| Self::load(STANDING))
    }

    /// One in which time passes by itself.
    pub fn with_a_running_clock() -> Self {
        in_a_thread(|| Self::load(clock::tick_rate().expect("the kernel's tick rate")))
    }

    /// Loads the traced forms, runs them from now on, and tells what `filter` wants. The most that the verifier has looked at.
    pub fn trace(&mut self, filter: TraceFilter) -> (Tracer, u32) {
        let mut most = 0;
        for name in TC_PROGRAMS.iter().chain(&XDP_PROGRAMS) {
            if !self.traced {
                object::load_traced(&mut self.programs, name).unwrap_or_else(|error| panic!("{error}"));
            }
            let info = match self.programs.program(&object::traced(name)) {
                Some(Program::Xdp(program)) => program.info(),
                Some(Program::SchedClassifier(program)) => program.info(),
                _ => panic!("no program traced_{name}"),
            };
            most = most.max(info.expect("a loaded program").verified_instruction_count().unwrap_or(0));
        }
        self.traced = true;
        let mut tracer = Tracer {
            filter: taken(&mut self.programs, names::TRACE_FILTER),
            events: taken(&mut self.programs, names::TRACE_EVENTS),
            counts: taken(&mut self.programs, names::TRACE_CPU),
        };
        tracer.wants(filter);
        (tracer, most)
    }

    /// Every program's descriptor, by its name.
    pub fn program_fds(&self) -> BTreeMap<&'static str, RawFd> {
        let fd = |name: &&'static str| {
            let program = self.programs.program(name).unwrap_or_else(|| panic!("no program {name}"));
            let fd = match program {
                Program::Xdp(program) => program.fd(),
                Program::SchedClassifier(program) => program.fd(),
                _ => panic!("{name} is neither XDP's nor TC's"),
            };
            (*name, fd.expect("a loaded program").as_fd().as_raw_fd())
        };
        TC_PROGRAMS.iter().chain(&XDP_PROGRAMS).map(fd).collect()
    }

    /// The kernel's numbers of all maps that any program uses.
    pub fn map_ids(&self) -> std::collections::BTreeSet<u32> {
        let infos = self.programs.programs().filter_map(|(_, program)| program.info().ok());
        infos.filter_map(|info| info.map_ids().expect("a program's maps")).flatten().collect()
    }

    /// The counters' descriptor.
    pub fn counters_fd(&self) -> RawFd {
        self.counters_map.fd().as_fd().as_raw_fd()
    }

    fn load(rate: u32) -> Self {
        let _sandbox = Sandbox::enter();
        let pins = Pins::new(Sandbox::bpffs().join("vpnat"));
        pins.create().expect("pin directories");
        let stop = Stop::default();
        let needed = Needed { tc: TC_PROGRAMS.into(), xdp: XDP_PROGRAMS.into() };
        let sizes = Sizes { flows: TABLE_ENTRIES, fragments: 1024, events: EVENT_BYTES };
        let mut programs =
            object::load(&pins, sizes, rate, &needed, &stop).unwrap_or_else(|error| panic!("{error}"));
        let traced = std::env::var_os(TRACED_ENV).is_some();
        if traced {
            for name in TC_PROGRAMS.iter().chain(&XDP_PROGRAMS) {
                object::load_traced(&mut programs, name).unwrap_or_else(|error| panic!("{error}"));
            }
        }
        Self {
            traced,
            two_arms: Site::new("in0", "out0"),
            one_arm: Site::new("arm0", "arm0"),
            maps: ConfigMaps::open(&pins).expect("the configuration's maps"),
            flows: taken(&mut programs, names::FLOWS),
            fragments: taken(&mut programs, names::FRAGMENTS),
            pools: taken(&mut programs, names::PORT_POOLS),
            sets: taken(&mut programs, names::WORKING_SETS),
            accounts: taken(&mut programs, names::ACCOUNTS),
            counters: taken(&mut programs, names::COUNTERS),
            answers: taken(&mut programs, names::ANSWERS),
            budget: taken(&mut programs, "ANSWER_BUDGET"),
            counters_map: MapData::from_pin(pins.map(names::COUNTERS)).expect("the pinned counters"),
            tallies: taken(&mut programs, names::TALLIES),
            events: taken(&mut programs, names::EVENTS),
            programs,
        }
    }

    /// Empties the tables and writes the configuration, for the site with one device or with two. The caller's
    /// thread is in the site's namespace.
    pub fn prepare(&mut self, one_arm: bool) {
        self.clear();
        let maps = &mut self.maps;
        for (slot, egress) in [(A, EGRESS_A), (B, EGRESS_B)] {
            let mut policy = VendorPolicy { egress_count: 1, ..VendorPolicy::FREE };
            policy.egress[0] = egress.into();
            maps.vendors.set(slot.into(), policy, 0).expect("a vendor's policy");
            let uses = EgressAddress { vendors: 1 << slot };
            maps.egress.insert(Ip4::from(egress), uses, 0).expect("an egress address");
            let allowed =
                Key::new(SOURCE_KEY_VENDOR_BITS + ALLOWED.1, SourceKey::new(slot, ALLOWED.0.into()));
            maps.sources.insert(&allowed, SourceRule::default(), 0).expect("an admitted source");
        }
        for ((address, length), vendor, exempt) in [(PREFIX_A, A, 0), (PREFIX_B, B, 0), (EXEMPT, A, 1)] {
            let target = PrefixTarget { vendor, exempt, _pad: [0; 2] };
            maps.prefixes.insert(&Key::new(length, address.into()), target, 0).expect("a prefix");
        }
        let site = if one_arm { &self.one_arm } else { &self.two_arms };
        let outside = role::OUTSIDE | role::GUARDED;
        let devices = if one_arm {
            vec![(site.outside, OUTSIDE_SLOT, BOTH | outside)]
        } else {
            vec![(site.inside, INSIDE_SLOT, role::INSIDE), (site.outside, OUTSIDE_SLOT, outside)]
        };
        for ((ifindex, mac), xdp_slot, roles) in devices {
            let device = Device { roles, xdp_slot, _pad: [0; 2], address: INSTANCE_INSIDE.into() };
            maps.devices.insert(ifindex, device, 0).expect("a device");
            let port = XdpPort { ifindex, mac, roles, _pad: 0 };
            maps.xdp_ports.set(xdp_slot.into(), port, 0).expect("an XDP slot");
            maps.xdp_devices.set(xdp_slot.into(), ifindex, None, 0).expect("a device of the device map");
        }
        // Nothing that the programs remember of the last case holds in this one.
        let route_generation = maps.settings.get(&0, 0).expect("settings").route_generation.wrapping_add(1);
        let settings = Settings { ready: 1, route_generation, ..Settings::default() };
        maps.settings.set(0, settings, 0).expect("settings");
        // Every case starts with a stamp, so that no case sees one end by chance.
        let offset = (STAMP_SECONDS - self.now() % STAMP_SECONDS) % STAMP_SECONDS;
        self.maps.change_settings(|settings| settings.clock_offset_s = offset).expect("the clock's offset");
    }

    fn clear(&mut self) {
        self.budget.set(0, 0, 0).expect("clear the budget of answers");
        for key in self.flows.keys().flatten().collect::<Vec<_>>() {
            self.flows.remove(&key).expect("remove a flow");
        }
        for key in self.fragments.keys().flatten().collect::<Vec<_>>() {
            self.fragments.remove(&key).expect("remove a fragment's decision");
        }
        // What they say of ports is about the flows that have just gone.
        for key in self.pools.keys().flatten().collect::<Vec<_>>() {
            self.pools.remove(&key).expect("remove a port pool");
        }
        for key in self.sets.keys().flatten().collect::<Vec<_>>() {
            self.sets.remove(&key).expect("remove a working set");
        }
        for key in self.accounts.keys().flatten().collect::<Vec<_>>() {
            self.accounts.remove(&key).expect("remove an account");
        }
        for key in self.maps.devices.keys().flatten().collect::<Vec<_>>() {
            self.maps.devices.remove(&key).expect("remove a device");
        }
        for key in self.maps.egress.keys().flatten().collect::<Vec<_>>() {
            self.maps.egress.remove(&key).expect("remove an egress address");
        }
        for slot in [INSIDE_SLOT, OUTSIDE_SLOT] {
            self.maps.xdp_ports.set(slot.into(), XdpPort::default(), 0).expect("free an XDP slot");
        }
    }

    /// The datapath's clock.
    pub fn now(&mut self) -> u32 {
        self.run("probe_clock", &[0; 64], &[]).0
    }

    /// Runs a program on `data` with `context`; what it returned, and the data afterwards.
    pub fn run(&mut self, program: &str, data: &[u8], context: &[u8]) -> (u32, Vec<u8>) {
        let (result, out, _) = self.run_repeatedly(program, data, context, 1);
        (result, out)
    }

    /// As [`World::run`], many times on the same packet; also nanoseconds per run.
    pub fn run_repeatedly(
        &mut self,
        program: &str,
        data: &[u8],
        context: &[u8],
        repeat: u32,
    ) -> (u32, Vec<u8>, u64) {
        let mut out = vec![0; data.len() + 256];
        let options = TestRunOptions {
            data_in: Some(data),
            data_out: Some(&mut out),
            ctx_in: (!context.is_empty()).then_some(context),
            repeat,
            ..TestRunOptions::default()
        };
        let form =
            match TC_PROGRAMS.iter().chain(&XDP_PROGRAMS).find(|known| self.traced && **known == program) {
                Some(known) => object::traced(known),
                None => program.to_owned(),
            };
        let loaded = self.programs.program_mut(&form).unwrap_or_else(|| panic!("no program {program}"));
        let result = if program.starts_with("xdp_") {
            let program: &mut Xdp = loaded.try_into().expect("an XDP program");
            program.test_run(options)
        } else {
            let program: &mut SchedClassifier = loaded.try_into().expect("a TC program");
            program.test_run(options)
        };
        let result = result.unwrap_or_else(|error| panic!("running {program}: {error:?}"));
        out.truncate(result.data_size_out as usize);
        (result.return_value, out, result.duration.as_nanos() as u64)
    }

    /// Every counter that is not zero, summed over the CPUs. Slots of vendors that no test has are left out.
    pub fn counts(&self) -> BTreeMap<u32, Count> {
        (0..counter_index(B + 2, Hook::Xdp, 0))
            .filter_map(|index| {
                let values = self.counters.get(&index, 0).expect("a counter");
                let sum = values.iter().fold(Count::default(), |sum, count| Count {
                    packets: sum.packets + count.packets,
                    bytes: sum.bytes + count.bytes,
                });
                (sum.packets != 0).then_some((index, sum))
            })
            .collect()
    }

    /// Answers to refusals so far, summed over the CPUs.
    pub fn answers(&self) -> Answers {
        let values = self.answers.get(&0, 0).expect("the answers' counters");
        values.iter().fold(Answers::default(), |sum, counts| Answers {
            sent: sum.sent + counts.sent,
            suppressed: sum.suppressed + counts.suppressed,
        })
    }

    /// The events that were written since this was last asked for.
    pub fn events(&mut self) -> Vec<FlowEvent> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            assert_eq!(item.len(), size_of::<FlowEvent>());
            // SAFETY: the length is compared, and `FlowEvent` takes any bytes.
            events.push(unsafe { item.as_ptr().cast::<FlowEvent>().read_unaligned() });
        }
        events
    }

    /// A tally of a vendor, summed over the CPUs.
    pub fn tally(&self, slot: u8, tally: Tally) -> u64 {
        self.tallies.get(&tally.index(slot), 0).expect("a tally").iter().sum()
    }

    /// How many datagrams' decisions are kept.
    pub fn fragments_kept(&self) -> usize {
        self.fragments.keys().flatten().count()
    }
}

fn taken<T: TryFrom<Map, Error = MapError>>(programs: &mut Ebpf, name: &str) -> T {
    let map = programs.take_map(name).unwrap_or_else(|| panic!("no map {name}"));
    T::try_from(map).unwrap_or_else(|error| panic!("map {name}: {error}"))
}

/// The context of a TC program: the device, and the one that the packet came in by.
pub fn tc_context(ifindex: u32, ingress_ifindex: u32) -> Vec<u8> {
    // `struct __sk_buff` of the kernel's uapi; what is not named must be 0.
    let mut context = vec![0; 192];
    context[36..40].copy_from_slice(&ingress_ifindex.to_ne_bytes());
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// The context of an XDP program that is given `length` bytes on a device.
pub fn xdp_context(ifindex: u32, length: usize) -> Vec<u8> {
    // `struct xdp_md` of the kernel's uapi: data, data_end, data_meta, ingress_ifindex, queue, egress.
    [0, length as u32, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat()
}

/// The key of the flow table for a packet of `protocol` from `source` to `destination`.
pub fn key(protocol: u8, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> FlowKey {
    use vpnat_common::addr::Port;
    FlowKey::new(
        source.0.into(),
        Port::new(source.1),
        destination.0.into(),
        Port::new(destination.1),
        protocol,
    )
}
