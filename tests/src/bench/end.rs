//! One end of a path: it makes packets in the kernel, and it counts those that arrive from the other end.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::bpf::{self, Shared};
use super::programs::{self, Expected, FRAME, Learned, MOST_FLOWS, Seen, Template, Turn};
use crate::link::{Mac, mac};
use crate::netns::Namespace;

/// An end of a path.
pub struct End {
    /// Its namespace.
    pub ns: Namespace,
    device: String,
    next_hop: Mac,
    flows: Shared<Template>,
    turn: Shared<Turn>,
    seen: Shared<Seen>,
    learned: Shared<Learned>,
    generator: OwnedFd,
    sink: OwnedFd,
    attached: Option<OwnedFd>,
}

/// Packets sent in one go, and what became of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Burst {
    /// Packets handed to the path.
    pub sent: u64,
    /// Packets that arrived as expected.
    pub right: u64,
    /// Packets that arrived with another address.
    pub wrong: u64,
    /// Processor time of the sending thread and of its processor's interrupt thread.
    pub cpu: Duration,
}

impl Burst {
    /// Arrived packets per second of processor time.
    pub fn rate(&self) -> f64 {
        self.right as f64 / self.cpu.as_secs_f64()
    }

    /// Share of the packets that did not arrive as they should.
    pub fn loss(&self) -> f64 {
        1.0 - self.right as f64 / self.sent.max(1) as f64
    }
}

impl End {
    /// Takes the end `device` of a link for the bench. `next_hop` is what its packets go to, `expected` what
    /// arrives.
    pub fn new(ns: Namespace, device: &str, next_hop: Mac, expected: Expected) -> Self {
        let ifindex = ns.ifindex(device).expect("the device was made");
        let own = mac(&ns, device);
        let (flows, turn) = (Shared::new(MOST_FLOWS), Shared::new(1));
        let (seen, learned) = (Shared::new(1), Shared::new(MOST_FLOWS));
        let generator = programs::generator(ifindex, next_hop, own, &turn, &flows);
        let sink = programs::sink(expected, &seen, &learned);
        let mut end = Self {
            ns,
            device: device.into(),
            next_hop,
            flows,
            turn,
            seen,
            learned,
            generator,
            sink,
            attached: None,
        };
        end.count();
        end
    }

    /// Lets the sink count what arrives.
    pub fn count(&mut self) {
        self.attached = None;
        self.attached = Some(self.attach(&self.sink));
    }

    /// Lets another program take what arrives, until [`End::count`].
    pub fn take(&mut self, program: &OwnedFd) {
        self.attached = None;
        self.attached = Some(self.attach(program));
    }

    fn attach(&self, program: &OwnedFd) -> OwnedFd {
        let ifindex = self.ns.ifindex(&self.device).expect("the device is there");
        self.ns.enter(|| bpf::attach_xdp(program, ifindex))
    }

    /// The sink's program.
    pub fn sink(&self) -> &OwnedFd {
        &self.sink
    }

    /// The device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Where its packets go.
    pub fn next_hop(&self) -> Mac {
        self.next_hop
    }

    /// Sets the flow's packet.
    pub fn set_flow(&self, number: u32, template: Template) {
        self.flows.set(number as usize, template);
    }

    /// The flow's packet.
    pub fn flow(&self, number: u32) -> Template {
        self.flows.get(number as usize)
    }

    /// What the sink has learned of a flow of the other end, if it has come by since [`End::learn`].
    pub fn learned(&self, number: u32) -> Option<Learned> {
        let learned = self.learned.get(number as usize);
        (learned.seen != 0).then_some(learned)
    }

    /// Lets the sink note each flow's source from now on, or stops that.
    pub fn learn(&self, on: bool) {
        let seen = self.seen.get(0);
        self.seen.set(0, Seen { learn: u64::from(on), ..seen });
    }

    /// Forgets what was learned of a flow.
    pub fn forget(&self, number: u32) {
        self.learned.set(number as usize, Learned::default());
    }

    /// Packets that arrived so far, as expected and otherwise.
    pub fn arrived(&self) -> (u64, u64) {
        let seen = self.seen.get(0);
        (seen.right, seen.wrong)
    }

    /// Sends `count` packets, one of each of the flows in turn, round and round, to the end `to`.
    pub fn burst(&self, to: &Self, flows: std::ops::Range<u32>, count: u32) -> Burst {
        let turn = Turn { next: flows.start, first: flows.start, end: flows.end, padding: 0 };
        self.turn.set(0, turn);
        let frame = [0u8; FRAME];
        let before = to.arrived();
        let cpu = self.ns.enter(|| {
            let processor = pin();
            let softirq = SoftirqThread::of(processor);
            let started = (thread_time(), softirq.time());
            let sent = bpf::send_frames(&self.generator, &frame, count);
            let own = thread_time() - started.0;
            sent.expect("send frames");
            // What is still in a queue arrives meanwhile.
            std::thread::sleep(Duration::from_millis(2));
            own + softirq.time().saturating_sub(started.1)
        });
        let after = to.arrived();
        Burst { sent: u64::from(count), right: after.0 - before.0, wrong: after.1 - before.1, cpu }
    }
}

/// Pins the thread to the last processor that it may use, and says which.
pub fn pin() -> usize {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("the thread's processors");
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let last = last.expect("a thread has a processor");
    let mut only = CpuSet::new();
    only.set(last).expect("a processor's number");
    sched_setaffinity(this, &only).expect("pin a thread");
    last
}

/// Processor time of the calling thread.
pub fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the thread's clock").into()
}

/// The kernel thread that goes on with a processor's packets when its interrupts have had their share.
pub struct SoftirqThread {
    statistics: Option<std::path::PathBuf>,
}

impl SoftirqThread {
    /// That of a processor.
    pub fn of(processor: usize) -> Self {
        let name = format!("ksoftirqd/{processor}");
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let found = processes
            .map(|process| process.path())
            .find(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name));
        Self { statistics: found.map(|path| path.join("schedstat")) }
    }

    /// The processor time that it has used.
    pub fn time(&self) -> Duration {
        let text = self.statistics.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let nanos = text.and_then(|text| text.split_whitespace().next()?.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}
