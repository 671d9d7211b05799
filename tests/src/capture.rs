//! Captures: every packet that passes a device, checked as it passes.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::netns::Namespace;
use crate::packet::{Packet, Sums, WrongChecksum};
use crate::patience::patient;

/// How much of a packet is kept. Checksums are verified over all of it before it is cut.
const KEPT: usize = 192;

/// Which way a packet passed the device, from the namespace's point of view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// It came in through the device.
    In,
    /// It went out through the device.
    Out,
}

/// A packet that passed.
#[derive(Clone, PartialEq, Eq)]
pub struct Captured {
    /// When, as the kernel stamped it.
    pub at: SystemTime,
    /// Which way.
    pub way: Way,
    /// EtherType.
    pub protocol: u16,
    /// Bytes of the packet without its link header.
    pub length: usize,
    /// What its checksums were.
    pub checksums: Result<(), WrongChecksum>,
    start: Vec<u8>,
}

impl Captured {
    /// The IPv4 packet, cut after its first bytes.
    pub fn ipv4(&self) -> Option<Packet<'_>> {
        (self.protocol == 0x0800).then(|| Packet::new(&self.start)).flatten()
    }

    /// The first bytes of the packet, from its IP header on.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// Whether the packet is IPv4 and `matches`.
    pub fn is(&self, matches: impl FnOnce(Packet<'_>) -> bool) -> bool {
        self.ipv4().is_some_and(matches)
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.way == Way::In { "in " } else { "out" };
        match self.ipv4() {
            Some(packet) => write!(f, "{way} {packet:?}"),
            None => write!(f, "{way} EtherType {:#06x}, {} bytes", self.protocol, self.length),
        }?;
        match &self.checksums {
            Ok(()) => Ok(()),
            Err(wrong) => write!(f, " ({wrong})"),
        }
    }
}

struct Shared {
    packets: Mutex<Vec<Captured>>,
    stop: AtomicBool,
}

/// A capture on one device, from its creation until it is stopped or dropped.
pub struct Capture {
    place: String,
    shared: Arc<Shared>,
    socket: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts a capture; every packet from now on is seen.
    pub fn start(namespace: &Namespace, device: &str) -> Self {
        let place = format!("{} of {}", device, namespace.name());
        let socket =
            namespace.enter(|| open(device)).unwrap_or_else(|error| panic!("capture on {place}: {error}"));
        let shared = Arc::new(Shared { packets: Mutex::default(), stop: AtomicBool::new(false) });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            let socket = socket.try_clone().expect("another descriptor of a socket");
            move || receive(&socket, &shared)
        });
        Self { place, shared, socket, thread: Some(thread) }
    }

    /// Where the capture is, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What has passed so far. Packets of the last milliseconds may still be on their way here; use
    /// [`Capture::settle`] first where that matters.
    pub fn packets(&self) -> Vec<Captured> {
        self.shared.packets.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Lets `look` see what has passed so far, without a copy.
    pub fn look<T>(&self, look: impl FnOnce(&[Captured]) -> T) -> T {
        look(&self.shared.packets.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Forgets what has passed so far.
    pub fn forget(&self) {
        self.shared.packets.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    }

    /// How many packets have passed so far.
    pub fn count(&self) -> usize {
        self.shared.packets.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).len()
    }

    /// The packets so far for which `matches` holds.
    pub fn matching(&self, matches: impl Fn(&Captured) -> bool) -> Vec<Captured> {
        self.packets().into_iter().filter(matches).collect()
    }

    /// Waits until no packet has come for 50 ms, two seconds at most ([`patient`]).
    pub fn settle(&self) {
        let mut before = self.count();
        for _ in 0..40 {
            std::thread::sleep(patient(Duration::from_millis(50)));
            let now = self.count();
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// The IPv4 sources seen, sorted, each once.
    pub fn sources(&self) -> Vec<Ipv4Addr> {
        let mut sources: Vec<Ipv4Addr> =
            self.packets().iter().filter_map(|packet| packet.ipv4().map(|packet| packet.source())).collect();
        sources.sort();
        sources.dedup();
        sources
    }

    /// Packets that the kernel could not hand over since the last call. A capture that has lost packets
    /// proves nothing.
    pub fn lost(&self) -> u32 {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the socket is open; pointer and length describe `stats`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0, "statistics of the capture on {}", self.place);
        stats.tp_drops
    }

    /// Stops and returns what has passed.
    pub fn stop(mut self) -> Vec<Captured> {
        self.settle();
        self.join();
        self.packets()
    }

    /// Ends the capture; what has passed so far stays.
    pub fn end(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    fn join(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.join();
    }
}

fn option<T>(socket: &OwnedFd, level: i32, name: i32, value: T) -> std::io::Result<()> {
    // SAFETY: the socket is open; pointer and length describe `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn open(device: &str) -> std::io::Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(device)?;
    // Protocol 0: nothing is received until the socket is bound to its device.
    // SAFETY: plain system call.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 128 << 20)?;
    option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
    option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    // So that the receiving thread looks at its stop flag.
    let wait = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, wait)?;
    // SAFETY: sockaddr_ll is plain data, for which zeros are a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: the socket is open; pointer and length describe `address`.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(socket) } else { Err(std::io::Error::last_os_error()) }
}

fn receive(socket: &OwnedFd, shared: &Shared) {
    let mut buffer = vec![0u8; 1 << 18];
    while !shared.stop.load(Ordering::Relaxed) {
        if let Some(captured) = receive_one(socket, &mut buffer) {
            shared.packets.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(captured);
        }
    }
}

fn receive_one(socket: &OwnedFd, buffer: &mut [u8]) -> Option<Captured> {
    // SAFETY: plain data, for which zeros are a value.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut control = [0u64; 32];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: as above.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to buffers that outlive the call, with their lengths.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    if length < 0 {
        return None;
    }
    let bytes = &buffer[..length as usize];
    let mut at = SystemTime::now();
    let mut sums = Sums::Complete;
    // SAFETY: the kernel has filled `message`, and its control buffer is aligned and alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the CMSG macros give a header inside the control buffer; the data of each type read below
        // is at least as large as that type.
        unsafe {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time = data.cast::<libc::timespec>().read_unaligned();
                    at = UNIX_EPOCH + Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
                }
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                    let aux = data.cast::<libc::tpacket_auxdata>().read_unaligned();
                    if aux.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0 {
                        sums = Sums::Partial;
                    }
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    let protocol = u16::from_be(from.sll_protocol);
    let ipv4 = (protocol == 0x0800).then(|| Packet::new(bytes)).flatten();
    Some(Captured {
        at,
        way: if from.sll_pkttype == libc::PACKET_OUTGOING { Way::Out } else { Way::In },
        protocol,
        length: bytes.len(),
        checksums: ipv4.map_or(Ok(()), |packet| packet.verify(sums)),
        start: bytes[..bytes.len().min(KEPT)].to_vec(),
    })
}
