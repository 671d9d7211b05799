//! One record when a flow starts and one when it ends: read from the datapath's event buffer, written as JSON lines and
//! sent as IPFIX, on a thread of its own. If it is too slow, the buffer fills and events are lost; the datapath counts
//! them, and a record says so. Packets never wait.

mod file;
mod ipfix;
pub mod record;
mod recorder;
mod sink;

pub use file::all_of;
pub use recorder::Recorder;

use std::collections::HashMap;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::FlowLog as Options;
use crate::datapath::Error;
use crate::datapath::maps::{self, StateMaps};
use crate::datapath::pins::Pins;
use ipfix::Exporter;
use record::{Event, Record, wall_offset};
use sink::Sink;

/// Events taken out of the buffer at a time.
const BATCH: usize = 4096;

/// Rest between two batches: bounds how often the datapath has to wake this thread.
const REST: Duration = Duration::from_millis(5);

/// How long an event may wait that nobody was woken for, and how often a synchronisation is thought of.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A complaint is repeated at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What became of the records since the agent started.
#[derive(Debug, Default)]
pub struct Stats {
    /// Lines written.
    pub written: AtomicU64,
    /// Records sent.
    pub sent: AtomicU64,
    /// Lines that could not be written.
    pub unwritten: AtomicU64,
    /// Records that could not be sent.
    pub unsent: AtomicU64,
    /// Events that this agent does not understand.
    pub unreadable: AtomicU64,
}

/// Shared with the metrics.
pub type SharedStats = Arc<Stats>;

/// The thread; ends when dropped, after it has written what was there.
#[derive(Debug)]
struct FlowLog {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// A log with everything open, and no thread yet.
struct Opened {
    work: Work,
    stop: UnixStream,
    stopped: UnixStream,
}

impl Opened {
    /// Opens what `options` names. The pinned maps are there.
    fn open(pins: &Pins, options: &Options, max_flows: u32, stats: SharedStats) -> Result<Self, Error> {
        let sink = options.json.as_ref().map(|target| Sink::open(target, options)).transpose()?;
        let exporter = options
            .ipfix
            .map(|collector| {
                Exporter::new(collector.into(), options.ipfix_domain, max_flows)
                    .map_err(Error::file("opening a socket to the IPFIX collector", collector.to_string()))
            })
            .transpose()?;
        let state = StateMaps::open(pins)?;
        let events = maps::events(pins)?;
        let channel = UnixStream::pair().map_err(Error::file("starting the flow log", "socket pair"));
        let (stop, stopped) = channel?;
        let work = Work {
            events,
            state,
            sink,
            exporter,
            stats,
            names: HashMap::new(),
            named: None,
            complained: HashMap::new(),
        };
        Ok(Self { work, stop, stopped })
    }

    /// Starts the thread. No other may read the event buffer.
    fn start(self) -> Result<FlowLog, Error> {
        let Self { work, stop, stopped } = self;
        let thread = std::thread::Builder::new()
            .name("flow-log".into())
            .spawn(move || work.run(&stopped))
            .map_err(Error::file("starting the flow log", "thread"))?;
        Ok(FlowLog { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for FlowLog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    events: RingBuf<MapData>,
    state: StateMaps,
    sink: Option<Sink>,
    exporter: Option<Exporter>,
    stats: SharedStats,
    /// Vendors by slot; a name stays for the flows that outlive their vendor.
    names: HashMap<u8, String>,
    named: Option<Instant>,
    complained: HashMap<&'static str, Instant>,
}

impl Work {
    fn run(mut self, stopped: &UnixStream) {
        loop {
            let full = self.batch();
            self.account_for_losses();
            let synced = self.sink.as_mut().map_or(Ok(()), |sink| sink.sync(false));
            if let Err(error) = synced {
                self.complain("sync", format_args!("the flow log could not be synchronised ({error})"));
            }
            let wait = if full { Duration::ZERO } else { LOOK_EVERY };
            let mut waiting = [
                PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
            ];
            let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
            let told = poll(&mut waiting, timeout);
            let [stop, _] = &waiting;
            if stop.any() == Some(true) {
                break;
            }
            if told.is_ok_and(|told| told > 0) && !full {
                std::thread::sleep(REST);
            }
        }
        while self.batch() {}
        self.account_for_losses();
        if let Some(Err(error)) = self.sink.as_mut().map(|sink| sink.sync(true)) {
            log::warn!("the flow log could not be synchronised ({error})");
        }
    }

    /// Handles what the buffer holds, a batch at most; whether there may be more.
    fn batch(&mut self) -> bool {
        let offset = wall_offset();
        let mut events = Vec::new();
        let mut taken = 0;
        while taken < BATCH
            && let Some(item) = self.events.next()
        {
            taken += 1;
            match Event::read(&item, offset) {
                Some(event) => events.push(event),
                None => {
                    self.stats.unreadable.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if !events.is_empty() {
            self.name_vendors();
            let records: Vec<Record> = events.iter().map(|event| event.record(&self.names)).collect();
            self.write(&records);
            self.send(&events);
        }
        taken == BATCH
    }

    fn name_vendors(&mut self) {
        if self.named.is_some_and(|named| named.elapsed() < LOOK_EVERY) {
            return;
        }
        self.named = Some(Instant::now());
        match self.state.vendors() {
            Ok(vendors) => self.names.extend(vendors.into_iter().map(|vendor| (vendor.slot, vendor.name))),
            Err(error) => self.complain("names", format_args!("the flow log has no vendor names: {error}")),
        }
    }

    fn write(&mut self, records: &[Record]) {
        let Some(sink) = &mut self.sink else { return };
        let (written, problem) = sink.write(records);
        self.stats.written.fetch_add(written, Ordering::Relaxed);
        let missing = records.len() as u64 - written;
        self.stats.unwritten.fetch_add(missing, Ordering::Relaxed);
        if let Some(error) = problem {
            let what = format!("{missing} records of the flow log could not be written ({error})");
            self.complain("write", format_args!("{what}: see to its file system or reader"));
        }
    }

    fn send(&mut self, events: &[Event]) {
        let Some(exporter) = &mut self.exporter else { return };
        let (lost, problem) = exporter.send(events);
        self.stats.sent.fetch_add(events.len() as u64 - lost, Ordering::Relaxed);
        self.stats.unsent.fetch_add(lost, Ordering::Relaxed);
        if let Some(error) = problem {
            let what = format!("{lost} records could not be sent to the IPFIX collector ({error})");
            self.complain("send", format_args!("{what}: see whether it runs and can be reached"));
        }
    }

    /// Says in the log that records are missing; also those that were lost while no agent ran.
    fn account_for_losses(&mut self) {
        let missing = match self.state.unreported_losses() {
            Ok(0) => return,
            Ok(missing) => missing,
            Err(error) => {
                self.complain("losses", format_args!("lost flow events cannot be counted: {error}"));
                return;
            }
        };
        self.write(&[Record::lost(missing)]);
        if let Err(error) = self.state.report_losses(missing) {
            self.complain("losses", format_args!("lost flow events cannot be counted: {error}"));
        }
        self.complain(
            "lost",
            format_args!(
                "{missing} flow events were lost because the buffer was full: raise [flow_log] buffer_kib, or see why \
                 the log is slow"
            ),
        );
    }

    fn complain(&mut self, about: &'static str, what: std::fmt::Arguments<'_>) {
        let now = Instant::now();
        if self.complained.get(about).is_some_and(|last| now - *last < COMPLAIN_EVERY) {
            return;
        }
        self.complained.insert(about, now);
        log::warn!("{what}");
    }
}

/// A record as a line.
fn line(record: &Record, out: &mut Vec<u8>) {
    // Nothing in a record can fail to be serialised, and a vector takes everything.
    let _ = serde_json::to_writer(&mut *out, record);
    let _ = out.write_all(b"\n");
}
