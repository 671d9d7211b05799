//! The vendor's servers, inside the vendor's namespace: real sockets of the real stack.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::netns::Namespace;
use crate::patience::patient;
use crate::sockets::{make_room, readable};

/// HTTP.
pub const HTTP: u16 = 80;
/// Echo, over TCP and UDP (RFC 862). Over UDP the answer starts with the address and port that was seen.
pub const ECHO: u16 = 7;
/// Takes everything, checks that it is [`pattern`], and answers how many bytes were right.
pub const SINK: u16 = 9;
/// Sends as many bytes of [`pattern`] as the first eight bytes ask for.
pub const SOURCE: u16 = 19;

/// What every byte of a transfer must be, by its place: 251 is prime to every block size.
pub fn pattern(start: u64, buffer: &mut [u8]) {
    for (place, byte) in buffer.iter_mut().enumerate() {
        *byte = ((start + place as u64) % 251) as u8;
    }
}

/// What the servers have seen so far.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Seen {
    /// HTTP requests answered 200.
    pub admitted: u64,
    /// HTTP requests answered 403.
    pub refused: u64,
    /// How often each address has come, over any protocol.
    pub sources: BTreeMap<Ipv4Addr, u64>,
}

struct Shared {
    admit: Ipv4Addr,
    seen: Mutex<Seen>,
    stop: AtomicBool,
}

impl Shared {
    fn saw(&self, source: Ipv4Addr) {
        *self
            .seen
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .sources
            .entry(source)
            .or_default() += 1;
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// The vendor's servers, until dropped.
pub struct VendorServer {
    address: Ipv4Addr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl VendorServer {
    /// Starts all servers on `address`. HTTP admits requests from `admit` only.
    pub fn start(namespace: &Namespace, address: Ipv4Addr, admit: Ipv4Addr) -> Self {
        let shared = Arc::new(Shared { admit, seen: Mutex::default(), stop: AtomicBool::new(false) });
        let mut threads = Vec::new();
        for (port, serve) in [(HTTP, http as fn(_, _, &_)), (ECHO, echo), (SINK, sink), (SOURCE, source)] {
            let listener = namespace
                .enter(|| TcpListener::bind((address, port)))
                .unwrap_or_else(|error| panic!("vendor's TCP port {port}: {error}"));
            let shared = Arc::clone(&shared);
            threads.push(std::thread::spawn(move || accept(&listener, serve, &shared)));
        }
        let udp = namespace
            .enter(|| UdpSocket::bind((address, ECHO)))
            .unwrap_or_else(|error| panic!("vendor's UDP port {ECHO}: {error}"));
        make_room(&udp).expect("a larger buffer");
        threads.push(std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || udp_echo(&udp, &shared)
        }));
        Self { address, shared, threads }
    }

    /// The servers' address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// One server's address and port.
    pub fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, port)
    }

    /// What the servers have seen so far.
    pub fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl Drop for VendorServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, serve: fn(TcpStream, SocketAddrV4, &Shared), shared: &Arc<Shared>) {
    while shared.running() {
        if !readable(listener, Duration::from_millis(50)) {
            continue;
        }
        let Ok((stream, SocketAddr::V4(peer))) = listener.accept() else { continue };
        shared.saw(*peer.ip());
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let _ = stream.set_read_timeout(Some(patient(Duration::from_secs(30))));
            let _ = stream.set_write_timeout(Some(patient(Duration::from_secs(30))));
            serve(stream, peer, &shared);
        });
    }
}

/// Answers with the address and port that it saw. `/slow` takes a while, so that connections overlap.
fn http(mut stream: TcpStream, peer: SocketAddrV4, shared: &Shared) {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") && request.len() < 16384 {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => request.extend(&buffer[..count]),
            _ => return,
        }
    }
    if request.starts_with(b"GET /slow ") {
        std::thread::sleep(Duration::from_millis(100));
    }
    let admitted = *peer.ip() == shared.admit;
    {
        let mut seen = shared.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *(if admitted { &mut seen.admitted } else { &mut seen.refused }) += 1;
    }
    let status = if admitted { "200 OK" } else { "403 Forbidden" };
    let body = format!("{peer}\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes());
}

fn echo(mut stream: TcpStream, _: SocketAddrV4, shared: &Shared) {
    let mut buffer = [0; 16384];
    while shared.running() {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) if stream.write_all(&buffer[..count]).is_ok() => {}
            _ => return,
        }
    }
}

fn sink(mut stream: TcpStream, _: SocketAddrV4, shared: &Shared) {
    let mut buffer = vec![0; 1 << 16];
    let mut expected = vec![0; 1 << 16];
    let mut right = 0u64;
    while shared.running() {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => {
                pattern(right, &mut expected[..count]);
                if buffer[..count] != expected[..count] {
                    break;
                }
                right += count as u64;
            }
            Ok(0) => break,
            _ => return,
        }
    }
    let _ = stream.write_all(&right.to_be_bytes());
    let _ = stream.shutdown(Shutdown::Write);
}

fn source(mut stream: TcpStream, _: SocketAddrV4, shared: &Shared) {
    let mut wanted = [0; 8];
    if stream.read_exact(&mut wanted).is_err() {
        return;
    }
    let (mut sent, wanted) = (0, u64::from_be_bytes(wanted));
    let mut buffer = vec![0; 1 << 16];
    while shared.running() && sent < wanted {
        let count = (wanted - sent).min(1 << 16) as usize;
        pattern(sent, &mut buffer[..count]);
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
        sent += count as u64;
    }
}

fn udp_echo(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = vec![0; 1 << 16];
    while shared.running() {
        if !readable(socket, Duration::from_millis(50)) {
            continue;
        }
        let Ok((length, SocketAddr::V4(peer))) = socket.recv_from(&mut buffer) else { continue };
        shared.saw(*peer.ip());
        let mut answer = format!("{peer} ").into_bytes();
        answer.extend(&buffer[..length]);
        let _ = socket.send_to(&answer, peer);
    }
}
