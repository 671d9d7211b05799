//! Any map of the programs, as bytes: what spoils entries needs to know no types.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{MapInfo, MapType};

const LOOKUP: libc::c_long = 1;
const UPDATE: libc::c_long = 2;
const DELETE: libc::c_long = 3;
const NEXT_KEY: libc::c_long = 4;

/// The start of the kernel's `union bpf_attr` for single elements.
#[repr(C)]
struct Element {
    map: u32,
    key: u64,
    /// Of the value, or of the next key.
    value: u64,
    flags: u64,
}

/// A map.
pub struct RawMap {
    /// Its name, cut at 15 bytes.
    pub name: String,
    /// Whether its entries are always there.
    pub is_array: bool,
    descriptor: aya::maps::MapFd,
    key_size: usize,
    /// Of what one lookup returns: a value for each processor where the map keeps one for each.
    value_size: usize,
}

impl RawMap {
    /// The map with the kernel's number `id`; `None` of kinds that cannot be written like others.
    pub fn open(id: u32) -> Option<Self> {
        let info = MapInfo::from_id(id).expect("a map");
        let kind = info.map_type().expect("its type");
        let (is_array, per_cpu) = match kind {
            MapType::Array | MapType::DevMap => (true, false),
            MapType::PerCpuArray => (true, true),
            MapType::Hash | MapType::LruHash | MapType::LpmTrie => (false, false),
            _ => return None,
        };
        let value_size = info.value_size() as usize;
        let value_size = if per_cpu { value_size.next_multiple_of(8) * processors() } else { value_size };
        Some(Self {
            name: info.name_as_str().expect("a name").to_owned(),
            is_array,
            descriptor: info.fd().expect("a descriptor"),
            key_size: info.key_size() as usize,
            value_size,
        })
    }

    fn call(&self, command: libc::c_long, key: *const u8, value: *mut u8) -> io::Result<()> {
        let mut element = Element {
            map: self.descriptor.as_fd().as_raw_fd() as u32,
            key: key as u64,
            value: value as u64,
            flags: 0,
        };
        // SAFETY: key and value are as long as the map's, see the callers, and outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut element, size_of::<Element>()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// At most `most` keys.
    pub fn keys(&self, most: usize) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while keys.len() < most {
            let mut next = vec![0; self.key_size];
            let before = keys.last().map_or(std::ptr::null(), |key| key.as_ptr());
            if self.call(NEXT_KEY, before, next.as_mut_ptr()).is_err() {
                break;
            }
            keys.push(next);
        }
        keys
    }

    /// The value at `key`.
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut value = vec![0; self.value_size];
        assert_eq!(key.len(), self.key_size);
        self.call(LOOKUP, key.as_ptr(), value.as_mut_ptr()).ok()?;
        Some(value)
    }

    /// A value of zeros.
    pub fn nothing(&self) -> Vec<u8> {
        vec![0; self.value_size]
    }

    /// Writes the value at `key`; the kernel refuses some of some maps.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!((key.len(), value.len()), (self.key_size, self.value_size));
        self.call(UPDATE, key.as_ptr(), value.as_ptr().cast_mut())
    }

    /// Removes the entry at `key`.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        assert_eq!(key.len(), self.key_size);
        self.call(DELETE, key.as_ptr(), std::ptr::null_mut())
    }
}

/// Processors that the kernel keeps values for.
fn processors() -> usize {
    aya::util::nr_cpus().expect("the number of processors")
}
