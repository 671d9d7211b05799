//! `bpf(2)`, as far as the bench needs it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Runs an attribute through the system call.
fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<i64> {
    // SAFETY: the attribute is alive, and as long as is said.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attribute, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: i64) -> OwnedFd {
    // SAFETY: the kernel has just made it, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(result as RawFd) }
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    rest: [u32; 12],
}

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const OBJ_GET: libc::c_int = 7;
const TEST_RUN: libc::c_int = 10;
const PROG_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const ENABLE_STATS: libc::c_int = 32;

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const DEVMAP: u32 = 14;
const MMAPABLE: u32 = 1 << 10;

/// An array map with a single value, shared with this process's memory: programs reach into it without a
/// lookup, and so does the bench.
pub struct Shared<T> {
    fd: OwnedFd,
    at: *mut T,
    length: usize,
}

// SAFETY: plain shared memory of integers, reached by volatile accesses only.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: likewise.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// Memory for `length` items, all bytes 0. `T` is plain integers.
    pub fn new(length: usize) -> Self {
        let bytes = length * size_of::<T>();
        let mut attribute = MapCreate {
            kind: ARRAY,
            key_size: 4,
            value_size: bytes as u32,
            max_entries: 1,
            flags: MMAPABLE,
            ..MapCreate::default()
        };
        let fd = descriptor(bpf(MAP_CREATE, &mut attribute).expect("an array map"));
        // SAFETY: a new mapping of the map's own pages.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        assert!(at != libc::MAP_FAILED, "map a BPF array: {}", io::Error::last_os_error());
        Self { fd, at: at.cast(), length }
    }

    /// The map.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Reads an item.
    pub fn get(&self, index: usize) -> T {
        assert!(index < self.length);
        // SAFETY: inside the mapping, which lives as long as `self`; any bytes are an item.
        unsafe { self.at.add(index).read_volatile() }
    }

    /// Writes an item.
    pub fn set(&self, index: usize, value: T) {
        assert!(index < self.length);
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { self.at.add(index).write_volatile(value) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`; no reference into it is ever given out.
        unsafe { libc::munmap(self.at.cast(), self.length * size_of::<T>()) };
    }
}

/// A hash map like vpnat's flow table: keys of 16 bytes, values of 64, all memory taken at once.
pub fn flow_table(entries: u32) -> OwnedFd {
    let mut attribute =
        MapCreate { kind: HASH, key_size: 16, value_size: 64, max_entries: entries, ..MapCreate::default() };
    descriptor(bpf(MAP_CREATE, &mut attribute).expect("a hash map"))
}

/// A device map whose only entry is `ifindex`. Make it inside the device's namespace.
pub fn devmap(ifindex: u32) -> OwnedFd {
    let mut attribute =
        MapCreate { kind: DEVMAP, key_size: 4, value_size: 4, max_entries: 1, ..MapCreate::default() };
    let fd = descriptor(bpf(MAP_CREATE, &mut attribute).expect("a device map"));
    let key = 0u32;
    let mut update =
        [u64::from(fd.as_raw_fd() as u32), (&raw const key) as u64, (&raw const ifindex) as u64, 0];
    bpf(MAP_UPDATE, &mut update).expect("put a device into the device map");
    fd
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    rest: [u64; 8],
}

const XDP: u32 = 6;

/// Loads an XDP program.
pub fn load_xdp(name: &str, code: &[u64]) -> OwnedFd {
    let mut log = vec![0u8; 1 << 16];
    let mut attribute = ProgLoad {
        kind: XDP,
        insn_count: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        rest: [0; 8],
    };
    attribute.name[..name.len()].copy_from_slice(name.as_bytes());
    match bpf(PROG_LOAD, &mut attribute) {
        Ok(fd) => descriptor(fd),
        Err(error) => {
            panic!(
                "load the program {name}: {error}\n{}",
                String::from_utf8_lossy(&log).trim_end_matches('\0')
            )
        }
    }
}

/// Attaches an XDP program in the driver, for as long as the result lives. Call it inside the device's
/// namespace.
pub fn attach_xdp(program: &OwnedFd, ifindex: u32) -> OwnedFd {
    const BPF_XDP: u32 = 37;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let mut attribute = [program.as_raw_fd() as u32, ifindex, BPF_XDP, XDP_FLAGS_DRV_MODE, 0, 0, 0, 0];
    descriptor(bpf(LINK_CREATE, &mut attribute).expect("attach an XDP program"))
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_size: u32,
    data_size_out: u32,
    data: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_sizes: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// Makes `count` frames like `frame` and lets the program send each where it will.
pub fn send_frames(program: &OwnedFd, frame: &[u8], count: u32) -> io::Result<()> {
    const LIVE_FRAMES: u32 = 1 << 1;
    let mut attribute = TestRun {
        program: program.as_raw_fd() as u32,
        data_size: frame.len() as u32,
        data: frame.as_ptr() as u64,
        repeat: count,
        flags: LIVE_FRAMES,
        batch: 64,
        ..TestRun::default()
    };
    bpf(TEST_RUN, &mut attribute).map(drop)
}

/// Runs a program once on `data`; what it returned, and how long it took.
pub fn run(program: &OwnedFd, data: &[u8]) -> io::Result<(u32, Duration)> {
    let mut attribute = TestRun {
        program: program.as_raw_fd() as u32,
        data_size: data.len() as u32,
        data: data.as_ptr() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    bpf(TEST_RUN, &mut attribute)?;
    Ok((attribute.result, Duration::from_nanos(attribute.duration.into())))
}

/// Changes the first value of an array map, `N` bytes long.
pub fn change_value<const N: usize>(map: &OwnedFd, change: impl FnOnce(&mut [u8; N])) -> io::Result<()> {
    let (key, mut value) = (0u32, [0u8; N]);
    let fd = u64::from(map.as_raw_fd() as u32);
    let mut attribute = [fd, (&raw const key) as u64, (&raw mut value) as u64, 0];
    bpf(MAP_LOOKUP, &mut attribute)?;
    change(&mut value);
    let mut attribute = [fd, (&raw const key) as u64, (&raw const value) as u64, 0];
    bpf(MAP_UPDATE, &mut attribute).map(drop)
}

/// Makes the kernel take every program's time while the result lives.
pub fn take_times() -> OwnedFd {
    let mut kind = 0u32;
    descriptor(bpf(ENABLE_STATS, &mut kind).expect("BPF statistics"))
}

/// The kernel's description of a program, link or map, as 64-bit words.
fn info(of: &OwnedFd) -> io::Result<[u64; 28]> {
    let mut info = [0u64; 28];
    let descriptor = u64::from(of.as_raw_fd() as u32);
    let mut attribute = [descriptor | (size_of_val(&info) as u64) << 32, info.as_mut_ptr() as u64];
    bpf(OBJ_GET_INFO, &mut attribute).map(|_| info)
}

/// What a program has taken in all, and how often it has run, as far as times were taken.
pub fn times(program: &OwnedFd) -> (Duration, u64) {
    // Offsets in `struct bpf_prog_info`.
    let info = info(program).expect("a program's statistics");
    (Duration::from_nanos(info[192 / 8]), info[200 / 8])
}

/// The program that a link holds in place, and its name.
pub fn linked_program(link: &OwnedFd) -> Option<(String, OwnedFd)> {
    // `struct bpf_link_info`: type, identifier, the program's identifier.
    let program = info(link).ok()?[1] & 0xffff_ffff;
    let mut attribute = [program, 0];
    let program = descriptor(bpf(PROG_BY_ID, &mut attribute).ok()?);
    let name: Vec<u8> = info(&program).ok()?[8..10].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_string();
    Some((name, program))
}

/// Opens what is pinned there.
pub fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attribute = [path.as_ptr() as u64, 0];
    bpf(OBJ_GET, &mut attribute).map(descriptor)
}

/// Bytes that a pinned map takes by the kernel's account, and how many entries it has room for.
pub fn map_memory(pin: &Path) -> (f64, f64) {
    let map = open(pin).expect("a pinned map");
    let text =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).expect("a map's account");
    let field = |name: &str| -> f64 {
        let found =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
        found.unwrap_or(f64::NAN)
    };
    (field("memlock"), field("max_entries"))
}
