//! Maps as bytes, of whatever layout, by bpf(2).

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use super::super::sys::{self, bpf};

// Commands, linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_BTF_GET_FD_BY_ID: libc::c_long = 19;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Only if there is no such key.
pub const NOEXIST: u64 = 1;
/// Only if there is such a key.
pub const EXIST: u64 = 2;
/// Either way.
pub const ANY: u64 = 0;

/// Entries read at a time from a hash.
const SLICE: usize = 4096;

/// Map types, linux/bpf.h.
pub mod kind {
    pub const HASH: u32 = 1;
    pub const ARRAY: u32 = 2;
    pub const PERCPU_HASH: u32 = 5;
    pub const PERCPU_ARRAY: u32 = 6;
    pub const LRU_HASH: u32 = 9;
    pub const LRU_PERCPU_HASH: u32 = 10;
    pub const LPM_TRIE: u32 = 11;
    pub const DEVMAP: u32 = 14;
}

/// `struct bpf_map_info`, as far as Linux 6.1 has it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    btf_vmlinux_value_type_id: u32,
    netns_dev: u64,
    netns_ino: u64,
    btf_id: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
    pad: u32,
}

/// `struct bpf_btf_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
    name: u64,
    name_len: u32,
    kernel_btf: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// What is done with each key and value.
pub type See<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<()> + 'a;

/// A map.
#[derive(Debug)]
pub struct RawMap {
    fd: OwnedFd,
    /// One of [`kind`], or another.
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: usize,
    /// Bytes of a value; of a per-CPU map, of one CPU's.
    pub value_size: usize,
    /// Entries that fit.
    pub capacity: u32,
    /// Identifiers of its types: the blob's, the key's, the value's; 0 if it has none.
    pub types: (u32, u32, u32),
    cpus: usize,
}

fn info_of<T: Copy + Default>(fd: &OwnedFd, mut info: T) -> io::Result<T> {
    let mut attr = InfoAttr {
        fd: fd.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the kernel reads and writes at most `length` bytes of `info`, which outlives the call; addresses in it are
    // the caller's, who has filled them in with memory of the length it states.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

impl RawMap {
    /// Opens a pinned map.
    pub fn open(pin: &Path, cpus: usize) -> io::Result<Self> {
        let fd = sys::open_pin(pin)?;
        let info = info_of(&fd, MapInfo::default())?;
        Ok(Self {
            fd,
            kind: info.kind,
            key_size: info.key_size as usize,
            value_size: info.value_size as usize,
            capacity: info.max_entries,
            types: (info.btf_id, info.btf_key_type_id, info.btf_value_type_id),
            cpus,
        })
    }

    /// Whether each CPU has values of its own.
    pub fn is_per_cpu(&self) -> bool {
        matches!(self.kind, kind::PERCPU_HASH | kind::PERCPU_ARRAY | kind::LRU_PERCPU_HASH)
    }

    /// Bytes that a lookup returns: a per-CPU map's values lie one after the other, each padded to 8.
    pub fn stride(&self) -> usize {
        if self.is_per_cpu() { self.value_size.next_multiple_of(8) * self.cpus } else { self.value_size }
    }

    /// The blob of its types. Takes CAP_SYS_ADMIN.
    pub fn btf(&self) -> io::Result<Vec<u8>> {
        let mut attr = IdAttr { id: self.types.0, next_id: 0, open_flags: 0 };
        // SAFETY: this command takes a number and no addresses.
        let fd = unsafe { bpf(BPF_BTF_GET_FD_BY_ID, &mut attr) }?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let size = info_of(&fd, BtfInfo::default())?.btf_size;
        let mut blob = vec![0u8; size as usize];
        info_of(&fd, BtfInfo { btf: blob.as_mut_ptr() as u64, btf_size: size, ..BtfInfo::default() })?;
        Ok(blob)
    }

    fn element(&self, command: libc::c_long, key: &[u8], value: u64, flags: u64) -> io::Result<()> {
        assert_eq!(key.len(), self.key_size, "a key of this map's size");
        let mut attr = ElementAttr {
            map_fd: self.fd.as_raw_fd() as u32,
            pad: 0,
            key: key.as_ptr() as u64,
            value,
            flags,
        };
        // SAFETY: the kernel reads `key_size` bytes of the key and reads or writes as many of the value as the map's
        // values have, which the callers have allocated; both outlive the call.
        unsafe { bpf(command, &mut attr) }.map(drop)
    }

    /// The value of `key`.
    pub fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.stride()];
        match self.element(BPF_MAP_LOOKUP_ELEM, key, value.as_mut_ptr() as u64, 0) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a value; whether it was, `flags` being [`NOEXIST`], [`EXIST`] or [`ANY`].
    pub fn update(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<bool> {
        assert_eq!(value.len(), self.stride(), "a value of this map's size");
        match self.element(BPF_MAP_UPDATE_ELEM, key, value.as_ptr() as u64, flags) {
            Ok(()) => Ok(true),
            Err(error) if flags == NOEXIST && error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) if flags == EXIST && error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a key, if it is there.
    pub fn delete(&self, key: &[u8]) -> io::Result<()> {
        match self.element(BPF_MAP_DELETE_ELEM, key, 0, 0) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// Shows every entry to `see`.
    pub fn for_each(&self, see: &mut See<'_>) -> io::Result<()> {
        match self.kind {
            kind::HASH | kind::LRU_HASH => self.for_each_in_batches(see),
            _ => self.for_each_key(see),
        }
    }

    fn for_each_key(&self, see: &mut See<'_>) -> io::Result<()> {
        let mut keys = Vec::new();
        let mut next = vec![0u8; self.key_size];
        loop {
            let last = keys.last().map_or(0, |key: &Vec<u8>| key.as_ptr() as u64);
            let mut attr = ElementAttr {
                map_fd: self.fd.as_raw_fd() as u32,
                pad: 0,
                key: last,
                value: next.as_mut_ptr() as u64,
                flags: 0,
            };
            // SAFETY: the kernel reads `key_size` bytes of the last key, if there is one, and writes as many to `next`.
            match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) } {
                Ok(_) => keys.push(next.clone()),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
                Err(error) => return Err(error),
            }
            // A key that is removed meanwhile makes the kernel begin anew.
            if keys.len() > self.capacity as usize {
                break;
            }
        }
        for key in keys {
            if let Some(value) = self.lookup(&key)? {
                see(&key, &value)?;
            }
        }
        Ok(())
    }

    fn for_each_in_batches(&self, see: &mut See<'_>) -> io::Result<()> {
        let (mut slice, mut cursor) = (SLICE, None::<u32>);
        loop {
            let (mut keys, mut values) =
                (vec![0u8; slice * self.key_size], vec![0u8; slice * self.value_size]);
            let mut next = 0u32;
            let mut attr = BatchAttr {
                in_batch: cursor.as_ref().map_or(0, |cursor| std::ptr::from_ref(cursor) as u64),
                out_batch: std::ptr::from_mut(&mut next) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: slice as u32,
                map_fd: self.fd.as_raw_fd() as u32,
                elem_flags: 0,
                flags: 0,
            };
            let mut done = false;
            // SAFETY: the kernel writes at most `count` keys and values of the map's own sizes, for which there is room,
            // and four bytes through `out_batch` (a hash's cursor is a u32); all outlive the call.
            if let Err(error) = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
                match error.raw_os_error() {
                    Some(libc::ENOENT) => done = true,
                    // One bucket holds more than a slice.
                    Some(libc::ENOSPC) => {
                        slice *= 2;
                        continue;
                    }
                    Some(libc::EINTR | libc::EAGAIN) => continue,
                    _ => return Err(error),
                }
            }
            let count = (attr.count as usize).min(slice);
            let pairs = keys.chunks_exact(self.key_size).zip(values.chunks_exact(self.value_size));
            for (key, value) in pairs.take(count) {
                see(key, value)?;
            }
            if done {
                return Ok(());
            }
            cursor = Some(next);
        }
    }
}
