//! A private view of the file system for one lab: its own `/run` and its own BPF file system.
//!
//! Both are mounts in a mount namespace of the calling thread (and of the threads and processes that it
//! starts), so pins, sockets and generated files vanish with them, however the lab ends.

use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// How many labs run at the same time in one process.
const LABS_AT_ONCE: usize = 2;

static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// One of the places for labs that run at the same time.
struct Place;

impl Place {
    fn take() -> Self {
        let mut running = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while *running >= LABS_AT_ONCE {
            running = FREED.wait(running).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *running += 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) -= 1;
        FREED.notify_one();
    }
}

/// The calling thread's private mounts. Drop it last: files of the lab are gone afterwards.
pub struct Sandbox {
    host: OwnedFd,
    dir: PathBuf,
    _place: Place,
    /// The mounts belong to the thread that made them.
    _not_send: PhantomData<*const ()>,
}

impl Sandbox {
    /// Moves the calling thread into a mount namespace of its own, with an empty `/run` and an empty BPF
    /// file system on `/sys/fs/bpf`. Waits while as many labs as may run at once are running.
    pub fn enter() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the lab makes namespaces and devices: run it as root");
        let place = Place::take();
        let host = File::open("/proc/thread-self/ns/mnt").expect("open the mount namespace").into();
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        mount(Some("lab"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .expect("a tmpfs on /run");
        let bpf = Self::bpffs();
        mount(Some("lab"), bpf, Some("bpf"), MsFlags::empty(), Some("mode=700"))
            .unwrap_or_else(|error| panic!("a BPF file system on {}: {error}", bpf.display()));
        let dir = PathBuf::from("/run/vpnat-lab");
        std::fs::create_dir_all(&dir).expect("a directory for the lab's files");
        Self { host, dir, _place: place, _not_send: PhantomData }
    }

    /// Where generated files and sockets of the lab lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lab's BPF file system.
    pub fn bpffs() -> &'static Path {
        Path::new("/sys/fs/bpf")
    }

    /// Runs `work` in the mount namespace that the lab was entered from, for what others shall see.
    pub fn on_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let host = self.host.as_fd();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // A thread may change mount namespace only if it shares its directories with no other.
                unshare(CloneFlags::CLONE_FS).expect("directories of this thread's own");
                setns(host, CloneFlags::CLONE_NEWNS).expect("back to the first mount namespace");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The thread may run another lab: this one's pins end here rather than with the thread.
        let _ = umount2(Self::bpffs(), MntFlags::MNT_DETACH);
        let _ = umount2("/run", MntFlags::MNT_DETACH);
    }
}
