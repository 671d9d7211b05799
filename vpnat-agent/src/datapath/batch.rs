//! Walking a hash map many entries at a time, which aya does not offer.
//!
//! `BPF_MAP_LOOKUP_BATCH` copies whole buckets; entries that are added or removed meanwhile may or may not
//! be seen, and an entry is seen at most once unless it was removed and added again.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;

use super::sys::bpf;

/// Command of bpf(2), linux/bpf.h.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// Command of bpf(2), linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
/// Command of bpf(2), linux/bpf.h.
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;

/// The `batch` part of `union bpf_attr`.
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

/// A walk over a hash map.
#[derive(Debug)]
pub struct Walk<'map, K, V> {
    map: BorrowedFd<'map>,
    /// The kernel's cursor: the next bucket.
    cursor: Option<u32>,
    done: bool,
    keys: Vec<K>,
    values: Vec<V>,
}

impl<'map, K: Pod, V: Pod> Walk<'map, K, V> {
    /// A walk over `map`, about `slice` entries at a time.
    ///
    /// `K` and `V` must have the sizes that the map has; [`super::maps`] compares them before.
    pub fn new(map: BorrowedFd<'map>, slice: usize) -> Self {
        // SAFETY: `Pod` types are plain data for which the kernel may write any bytes, zeroes among them.
        let (key, value) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Self { map, cursor: None, done: false, keys: vec![key; slice], values: vec![value; slice] }
    }

    /// The next entries, or `None` at the end.
    pub fn next_slice(&mut self) -> io::Result<Option<(&[K], &[V])>> {
        while !self.done {
            let mut cursor = 0u32;
            let mut attr = BatchAttr {
                in_batch: self.cursor.as_ref().map_or(0, |cursor| std::ptr::from_ref(cursor) as u64),
                out_batch: std::ptr::from_mut(&mut cursor) as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: self.keys.len() as u32,
                map_fd: self.map.as_raw_fd() as u32,
                elem_flags: 0,
                flags: 0,
            };
            // SAFETY: the kernel writes at most `count` keys and values of the map's own sizes, which `K` and
            // `V` have, into vectors of that length, and four bytes through `out_batch` (a hash's cursor is
            // a u32); all outlive the call.
            if let Err(error) = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
                match error.raw_os_error() {
                    Some(libc::ENOENT) => self.done = true,
                    // One bucket holds more than a slice: the count is not valid then.
                    Some(libc::ENOSPC) => {
                        let (key, value) = (self.keys[0], self.values[0]);
                        self.keys.resize(self.keys.len() * 2, key);
                        self.values.resize(self.values.len() * 2, value);
                        continue;
                    }
                    Some(libc::EINTR | libc::EAGAIN) => continue,
                    _ => return Err(error),
                }
            }
            self.cursor = Some(cursor);
            let count = (attr.count as usize).min(self.keys.len());
            if count > 0 {
                return Ok(Some((&self.keys[..count], &self.values[..count])));
            }
        }
        Ok(None)
    }
}

/// The part of `union bpf_attr` for one element.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Looks one entry up; `None` if it is not there. `K` and `V` must have the map's sizes.
pub fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    // SAFETY: `Pod` types are plain data for which zeroes are a value.
    let mut value: V = unsafe { std::mem::zeroed() };
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        _pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads a key and writes a value of the map's own sizes, which `K` and `V` have.
    match unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) } {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes one entry. `K` must have the map's key size. An entry that is not there is no error.
pub fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        _pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: the kernel only reads the key, of the map's key size, which `K` has.
    match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) } {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}
