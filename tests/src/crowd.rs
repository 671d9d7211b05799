//! Many TCP connections at once, all open and mostly idle, that can be asked whether they are still there.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, FromRawFd as _, IntoRawFd as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::flag::Flag;
use crate::netns::Namespace;
use crate::pod::Pod;
use crate::sockets::{lost_segments, tcp_connect};

/// How long a byte may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Questions under way at a time: fewer than what the queue of a veth device takes from XDP, 256 frames, so that nothing is lost
/// but by who is tested.
const AT_ONCE: usize = 64;

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(300);

/// Of all crowds.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// Connections from pods to a port of the vendor's, until dropped.
pub struct Crowd {
    clients: Vec<TcpStream>,
    /// Segments that were lost before all connections stood.
    lost_at_first: u32,
    /// The server serves until it goes.
    stop: Option<Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Opens `count` connections from the pods in turn to `port` of the vendor's host, and sees each of them answer: a handshake
    /// that found the listener's backlog full is over then.
    pub fn connect(pods: &[Pod], vendor: &Namespace, to: SocketAddrV4, count: usize) -> Self {
        more_descriptors(count as u64);
        let listener = vendor
            .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, to.port())))
            .unwrap_or_else(|error| panic!("the vendor's port {}: {error}", to.port()));
        let (stop, stopped) = channel();
        // Its own handle, by number: the thread has a table of descriptors of its own.
        let listener = listener.into_raw_fd();
        let (taken, took) = channel();
        let server = std::thread::spawn(move || {
            let listener = alone_with(listener);
            taken.send(()).expect("who waits for the server");
            serve(&listener, count, &stopped);
        });
        took.recv().expect("the crowd's server");
        // SAFETY: the descriptor is this table's own copy, and nobody else has it.
        drop(unsafe { TcpListener::from_raw_fd(listener) });
        let mut clients = Vec::with_capacity(count);
        for pod in pods {
            let share = count.div_ceil(pods.len()).min(count - clients.len());
            clients.extend(pod.ns.enter(|| {
                let connect = |_| tcp_connect(0, to, PATIENCE);
                (0..share)
                    .map(connect)
                    .collect::<Result<Vec<_>, _>>()
                    .unwrap_or_else(|error| panic!("one of {share} connections of {}: {error}", pod.name()))
            }));
        }
        let mut crowd = Self { clients, lost_at_first: 0, stop: Some(stop), server: Some(server) };
        assert_eq!(crowd.answering(), count, "connections as soon as they stand");
        crowd.lost_at_first = crowd.lost();
        crowd
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Sends a byte over each connection and back, some at a time; how many connections answered.
    pub fn answering(&mut self) -> usize {
        let mut answered = 0;
        for some in self.clients.chunks_mut(AT_ONCE) {
            let asked: Vec<bool> = some.iter_mut().map(|client| client.write_all(b"?").is_ok()).collect();
            let answers = some.iter_mut().zip(asked);
            answered += answers
                .map(|(client, asked)| asked && client.read_exact(&mut [0]).is_ok())
                .filter(|alive| *alive)
                .count();
        }
        answered
    }

    /// Asks all, again and again, while `work` is under way, and once more when it is done; how often all have
    /// answered. Panics with `what` if one does not.
    pub fn during(&mut self, what: &str, work: impl FnOnce()) -> u32 {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asker = scope.spawn(|| {
                for round in 1.. {
                    let last = done.load(Ordering::Relaxed);
                    assert_eq!(self.answering(), self.len(), "connections in round {round}: {what}");
                    if last {
                        return round;
                    }
                    std::thread::sleep(PAUSE);
                }
                unreachable!("the rounds have no end")
            });
            // Raised also if the work panics.
            let flag = Flag(&done);
            work();
            drop(flag);
            asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Segments of the pods that were lost and sent again, once all connections stood.
    pub fn lost(&self) -> u32 {
        self.clients.iter().map(lost_segments).sum::<u32>() - self.lost_at_first
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop = None;
        CONNECTIONS.fetch_sub(self.clients.len() as u64, Ordering::Relaxed);
        self.clients.clear();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Gives the calling thread a table of descriptors of its own with this one in it and the first three, so that the limit on
/// descriptors holds for each side of the crowd by itself, and nothing of the lab is kept open.
fn alone_with(listener: i32) -> TcpListener {
    unshare(CloneFlags::CLONE_FILES).expect("a table of descriptors");
    let close = |first: u32, last: u32| {
        // SAFETY: the thread has no descriptor but the listener's; those that are closed here are copies.
        let result = unsafe { libc::close_range(first, last, 0) };
        assert_eq!(result, 0, "close_range: {}", io::Error::last_os_error());
    };
    let number = u32::try_from(listener).expect("a descriptor");
    assert!(number > 2, "the standard descriptors are open");
    if number > 3 {
        close(3, number - 1);
    }
    close(number + 1, u32::MAX);
    // SAFETY: the descriptor is this table's own copy, and nobody else has it.
    unsafe { TcpListener::from_raw_fd(listener) }
}

/// Accepts all, and sends back what comes on each, until nobody is there to ask.
fn serve(listener: &TcpListener, count: usize, stop: &Receiver<()>) {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let Ok((stream, _)) = listener.accept() else { return };
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_nodelay(true);
        streams.push(stream);
    }
    let mut wanted: Vec<PollFd<'_>> =
        streams.iter().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)).collect();
    while stop.try_recv() == Err(TryRecvError::Empty) {
        if poll(&mut wanted, PollTimeout::from(50u8)).is_err() {
            continue;
        }
        for (place, mut stream) in streams.iter().enumerate() {
            if wanted[place].any() != Some(true) {
                continue;
            }
            let mut bytes = [0; 16];
            match stream.read(&mut bytes) {
                Ok(length @ 1..) if stream.write_all(&bytes[..length]).is_ok() => {}
                // Closed or broken: what its client finds out by itself.
                _ => wanted[place].set_events(PollFlags::empty()),
            }
        }
    }
}

/// For `count` connections more, besides those of other crowds and what else is open.
fn more_descriptors(count: u64) {
    let wanted = CONNECTIONS.fetch_add(count, Ordering::Relaxed) + count + 1024;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).expect("more descriptors");
    }
}
