//! TUN devices: a tunnel without Ethernet header, and without encryption, joined by a thread.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::Namespace;

/// Makes a TUN device in the namespace. It is there as long as the file is open.
pub fn open(namespace: &Namespace, name: &str) -> File {
    namespace.enter(|| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .unwrap_or_else(|error| panic!("the lab needs /dev/net/tun: {error}"));
        // SAFETY: ifreq is plain data, for which zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        // SAFETY: the descriptor is open and the request outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &request) };
        assert!(result == 0, "TUN device {name}: {}", std::io::Error::last_os_error());
        file
    })
}

/// Two TUN devices in two namespaces, each packet that goes into one coming out of the other.
/// Dropping it takes both devices away.
pub struct TunPair {
    stop: Arc<AtomicBool>,
    carried: Arc<AtomicU64>,
    relay: Option<JoinHandle<()>>,
}

impl TunPair {
    /// Makes both devices, down and without addresses, and starts carrying packets.
    pub fn new(a: (&Namespace, &str), b: (&Namespace, &str)) -> Self {
        let files = [open(a.0, a.1), open(b.0, b.1)];
        let stop = Arc::new(AtomicBool::new(false));
        let carried = Arc::new(AtomicU64::new(0));
        let relay = std::thread::spawn({
            let (stop, carried) = (Arc::clone(&stop), Arc::clone(&carried));
            move || carry(&files, &stop, &carried)
        });
        Self { stop, carried, relay: Some(relay) }
    }

    /// How many packets have passed, both ways together.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for TunPair {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(relay) = self.relay.take() {
            let _ = relay.join();
        }
    }
}

fn carry(files: &[File; 2], stop: &AtomicBool, carried: &AtomicU64) {
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [
            PollFd::new(files[0].as_fd(), PollFlags::POLLIN),
            PollFd::new(files[1].as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut fds, PollTimeout::from(50u16)).is_err() {
            continue;
        }
        for (from, to) in [(0, 1), (1, 0)] {
            // A bounded burst, so that neither direction starves the other.
            for _ in 0..64 {
                let Ok(length @ 1..) = (&files[from]).read(&mut buffer) else { break };
                // A device that is down refuses the packet: a real tunnel would lose it as well.
                if (&files[to]).write(&buffer[..length]).is_ok() {
                    carried.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}
