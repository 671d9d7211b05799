//! Short TCP connections from many addresses to one endpoint, as fast as so many clients at a time can.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Namespace;

/// Who ends the connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum First {
    /// The client closes first, and remembers.
    Client,
    /// The server closes first, and remembers.
    Server,
}

/// What became of the connections.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tally {
    /// Carried their byte and closed.
    pub good: u64,
    /// Failed: refused, reset, timed out.
    pub failed: u64,
    /// Needed a second to be opened, which is how long a SYN waits for its answer before it is sent again.
    pub retried: u64,
    /// For how long they were made.
    pub took: Duration,
}

impl Tally {
    /// Good connections per second.
    pub fn rate(&self) -> f64 {
        self.good as f64 / self.took.as_secs_f64()
    }
}

/// A server of one byte a connection, in the namespace in which it was started, until dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens at `at`.
    pub fn start(namespace: &Namespace, at: SocketAddrV4, first: First) -> Self {
        let listener = namespace.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
            socket.set_reuse_address(true).expect("SO_REUSEADDR");
            socket.bind(&at.into()).unwrap_or_else(|error| panic!("{at}: {error}"));
            socket.listen(4096).expect("listening");
            TcpListener::from(socket)
        });
        listener.set_nonblocking(false).expect("a blocking listener");
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..16)
            .map(|_| {
                let (listener, stop) = (listener.try_clone().expect("a second handle"), Arc::clone(&stop));
                std::thread::spawn(move || serve(&listener, first, &stop))
            })
            .collect();
        Self { stop, threads }
    }
}

fn serve(listener: &TcpListener, first: First, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        if !crate::sockets::readable(listener, Duration::from_millis(200)) {
            continue;
        }
        listener.set_nonblocking(true).expect("a listener that does not block");
        let Ok((mut stream, _)) = listener.accept() else { continue };
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let mut byte = [0];
        match first {
            First::Server => {
                if stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {
                    let _ = stream.shutdown(Shutdown::Write);
                    let _ = stream.read(&mut byte);
                }
            }
            First::Client => {
                if stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {
                    let _ = stream.read(&mut byte);
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[derive(Default)]
struct Counts {
    good: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
}

/// Connects to `to` from `addresses` in turn, `at_once` at a time and each client at most once in `pace`, until `most`
/// connections are made or the time is up.
pub fn connect(
    namespace: &Namespace,
    addresses: &[Ipv4Addr],
    to: SocketAddrV4,
    first: First,
    (at_once, pace): (usize, Duration),
    (most, time): (u64, Duration),
) -> Tally {
    let counts = Arc::new(Counts::default());
    let begun = Instant::now();
    let threads: Vec<_> = (0..at_once)
        .map(|client| {
            let (counts, addresses) = (Arc::clone(&counts), addresses.to_vec());
            namespace.thread(move || {
                for turn in client.. {
                    if begun.elapsed() > time || counts.good.load(Relaxed) >= most {
                        break;
                    }
                    let opened = Instant::now();
                    match one(addresses[turn % addresses.len()], to, first, &counts, opened) {
                        Ok(()) => counts.good.fetch_add(1, Relaxed),
                        Err(error) => {
                            eprintln!("a connection failed after {:?}: {error}", opened.elapsed());
                            counts.failed.fetch_add(1, Relaxed)
                        }
                    };
                    std::thread::sleep(pace.saturating_sub(opened.elapsed()));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a client");
    }
    Tally {
        good: counts.good.load(Relaxed),
        failed: counts.failed.load(Relaxed),
        retried: counts.retried.load(Relaxed),
        took: begun.elapsed(),
    }
}

/// Leaves the port to `connect`, which knows the other end: a port can then serve towards several.
fn bind_address_only(socket: &Socket) -> std::io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the socket is open; pointer and length describe `on`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn one(
    from: Ipv4Addr,
    to: SocketAddrV4,
    first: First,
    counts: &Counts,
    begun: Instant,
) -> std::io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    bind_address_only(&socket)?;
    socket.bind(&SocketAddrV4::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    if begun.elapsed() >= Duration::from_millis(950) {
        counts.retried.fetch_add(1, Relaxed);
    }
    let mut stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [42];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    if first == First::Client {
        stream.shutdown(Shutdown::Write)?;
    }
    // The other end's FIN.
    if stream.read(&mut byte)? != 0 {
        return Err(std::io::Error::other("more than was sent"));
    }
    Ok(())
}
