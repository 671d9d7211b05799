//! Clients that keep talking while something happens, and say afterwards what they lost.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::packet;
use crate::patience::patient;
use crate::pod::Pod;
use crate::sockets::{all_acknowledged, icmp, lost_segments, readable, tcp_connect};
use crate::vendor::{self, pattern};

/// How long the last answer may take after the last request.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Work in a thread inside a pod until it is told to stop.
struct Task<T> {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Task<T> {
    fn start(pod: &Pod, work: impl FnOnce(&AtomicBool, &AtomicU64) -> T + Send + 'static) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = pod.ns.thread({
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            move || work(&stop, &done)
        });
        Self { stop, done, thread: Some(thread) }
    }

    fn stop(mut self) -> T {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("a task is stopped once");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Waits for `more` units of work beyond what is done now, ten seconds at most ([`patient`]).
    fn wait_for(&self, more: u64) -> bool {
        let target = self.done.load(Ordering::Relaxed) + more;
        let until = Instant::now() + patient(Duration::from_secs(10));
        while self.done.load(Ordering::Relaxed) < target && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.done.load(Ordering::Relaxed) >= target
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Echo requests at a steady rate.
pub struct Pinger(Task<PingerReport>);

/// What a [`Pinger`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PingerReport {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub received: u64,
}

impl PingerReport {
    /// Requests without answer.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

impl Pinger {
    /// Starts sending an echo request every `interval` ([`patient`]).
    pub fn start(pod: &Pod, to: Ipv4Addr, id: u16, interval: Duration) -> Self {
        let (from, interval) = (pod.address, patient(interval));
        Self(Task::start(pod, move |stop, done| ping(from, to, id, interval, stop, done)))
    }

    /// Waits until that many more answers have come.
    pub fn wait_for(&self, answers: u64) -> bool {
        self.0.wait_for(answers)
    }

    /// Stops, waits for answers under way, and reports.
    pub fn stop(self) -> PingerReport {
        self.0.stop()
    }
}

fn ping(
    from: Ipv4Addr,
    to: Ipv4Addr,
    id: u16,
    interval: Duration,
    stop: &AtomicBool,
    done: &AtomicU64,
) -> PingerReport {
    let socket = icmp().expect("a raw ICMP socket");
    socket.connect(&SocketAddrV4::new(to, 0).into()).expect("a way to the vendor");
    let mut answered = vec![false; 1 << 16];
    let (mut sent, mut received) = (0u64, 0u64);
    let mut next = Instant::now();
    let mut last = None;
    loop {
        let now = Instant::now();
        if stop.load(Ordering::Relaxed) {
            let since = *last.get_or_insert(now);
            if received == sent || now - since > patient(LAST_ANSWER) {
                return PingerReport { sent, received };
            }
        } else if now >= next {
            let request = packet::echo_request(from, to, id, sent as u16);
            answered[usize::from(sent as u16)] = false;
            // A refusal by the own stack counts as lost, like any other.
            let _ = socket.send(&request[20..]);
            sent += 1;
            next += interval;
            continue;
        }
        let wait =
            next.saturating_duration_since(now).clamp(Duration::from_millis(1), Duration::from_millis(20));
        if !readable(&socket, wait) {
            continue;
        }
        let mut buffer = [0; 2048];
        let Ok(length) = (&socket).read(&mut buffer) else { continue };
        let Some(reply) = packet::Packet::new(&buffer[..length]) else { continue };
        let payload = reply.payload();
        if reply.icmp_type() == Some((0, 0)) && payload[4..6] == id.to_be_bytes() {
            let sequence = usize::from(u16::from_be_bytes([payload[6], payload[7]]));
            if !std::mem::replace(&mut answered[sequence], true) {
                received += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A TCP connection that is never silent for long.
pub struct Conversation(Task<ConversationReport>);

/// What a [`Conversation`] came to.
#[derive(Debug)]
pub struct ConversationReport {
    /// Questions answered.
    pub exchanges: u64,
    /// The longest wait for an answer.
    pub longest: Duration,
    /// Segments of the pod that were lost and sent again.
    pub lost: u32,
    /// Why it ended before it was told to.
    pub broken: Option<io::Error>,
}

impl Conversation {
    /// Connects from `port` to the vendor's echo and exchanges a few bytes every `interval` ([`patient`]). An
    /// answer that takes more than ten seconds ends it.
    pub fn start(pod: &Pod, port: u16, to: Ipv4Addr, interval: Duration) -> io::Result<Self> {
        let (patience, interval) = (Duration::from_secs(10), patient(interval));
        let mut stream = pod.ns.enter(|| tcp_connect(port, SocketAddrV4::new(to, vendor::ECHO), patience))?;
        Ok(Self(Task::start(pod, move |stop, done| {
            let (mut exchanges, mut longest, mut broken) = (0u64, Duration::ZERO, None);
            while !stop.load(Ordering::Relaxed) && broken.is_none() {
                let start = Instant::now();
                let question = exchanges.to_be_bytes();
                let mut answer = [0; 8];
                let outcome = stream.write_all(&question).and_then(|()| stream.read_exact(&mut answer));
                match outcome {
                    Ok(()) if answer == question => exchanges += 1,
                    Ok(()) => broken = Some(io::Error::other("not the bytes that were sent")),
                    Err(error) => broken = Some(error),
                }
                longest = longest.max(start.elapsed());
                done.store(exchanges, Ordering::Relaxed);
                std::thread::sleep(interval);
            }
            ConversationReport { exchanges, longest, lost: lost_segments(&stream), broken }
        })))
    }

    /// Waits until that many more questions have been answered.
    pub fn wait_for(&self, answers: u64) -> bool {
        self.0.wait_for(answers)
    }

    /// Ends the conversation and reports.
    pub fn stop(self) -> ConversationReport {
        self.0.stop()
    }
}

/// Bytes to the vendor over TCP, as fast as they go or as fast as asked.
pub struct Upload(Task<io::Result<UploadReport>>);

/// What an [`Upload`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UploadReport {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes that the vendor received and found right.
    pub right: u64,
    /// Segments that were lost and sent again, once the path MTU was known.
    pub lost: u32,
}

/// Bytes after which a connection has learnt how large a segment may be, from losing some that were larger.
const PATH_MTU_KNOWN: u64 = 1 << 17;

/// The most that is sent and not acknowledged, as the kernel accounts for it: memory, about twice the payload.
const IN_FLIGHT: usize = 64 << 10;

impl Upload {
    /// Connects from `port` to the vendor's sink and sends blocks of 16 KiB with `pause` ([`patient`]) in between. No more
    /// is under way at a time than the queue of a veth device takes from XDP (256 frames).
    pub fn start(pod: &Pod, port: u16, to: Ipv4Addr, pause: Duration) -> io::Result<Self> {
        let (patience, pause) = (Duration::from_secs(10), patient(pause));
        let mut stream = pod.ns.enter(|| tcp_connect(port, SocketAddrV4::new(to, vendor::SINK), patience))?;
        SockRef::from(&stream).set_send_buffer_size(IN_FLIGHT)?;
        Ok(Self(Task::start(pod, move |stop, done| {
            let mut block = vec![0; 16384];
            let (mut sent, mut lost_at_first) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                pattern(sent, &mut block);
                stream.write_all(&block)?;
                sent += block.len() as u64;
                done.store(sent, Ordering::Relaxed);
                std::thread::sleep(pause);
                if sent <= PATH_MTU_KNOWN {
                    lost_at_first = lost_segments(&stream);
                }
            }
            if !all_acknowledged(&stream) {
                return Err(io::Error::other("segments stay unacknowledged"));
            }
            let lost = lost_segments(&stream) - lost_at_first;
            stream.shutdown(Shutdown::Write)?;
            let mut right = [0; 8];
            stream.read_exact(&mut right)?;
            Ok(UploadReport { sent, right: u64::from_be_bytes(right), lost })
        })))
    }

    /// Waits until that many more bytes have been sent.
    pub fn wait_for(&self, bytes: u64) -> bool {
        self.0.wait_for(bytes)
    }

    /// Ends the transfer and reports.
    pub fn stop(self) -> io::Result<UploadReport> {
        self.0.stop()
    }
}

/// Downloads `bytes` from the vendor's source, from `port` (0: any), and returns how many were right.
pub fn download(pod: &Pod, port: u16, from: Ipv4Addr, bytes: u64) -> io::Result<u64> {
    pod.ns.enter(|| {
        let mut stream = tcp_connect(port, SocketAddrV4::new(from, vendor::SOURCE), Duration::from_secs(10))?;
        stream.write_all(&bytes.to_be_bytes())?;
        let (mut right, mut buffer, mut expected) = (0, vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            let count = stream.read(&mut buffer)?;
            pattern(right, &mut expected[..count]);
            if count == 0 || buffer[..count] != expected[..count] {
                return Ok(right);
            }
            right += count as u64;
        }
    })
}
