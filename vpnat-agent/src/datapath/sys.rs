//! bpf(2) for what aya does not offer.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

// Commands, linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Calls bpf(2).
///
/// # Safety
///
/// `attr` must be what `command` takes, and its addresses those of memory that lives as long as the call and
/// is as large as the command wants.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attr`; for the rest the caller answers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The part of `union bpf_attr` for pinned objects.
#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` for detaching.
#[repr(C)]
struct DetachAttr {
    link_fd: u32,
}

/// Takes a pinned link off its device before this returns. Without it, a link whose pin is removed stays
/// attached until the kernel comes to free it.
pub fn detach_pinned_link(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = PinAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the path is zero-terminated and outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let link = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let mut attr = DetachAttr { link_fd: link.as_raw_fd() as u32 };
    // SAFETY: this command takes a descriptor and no addresses.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
}
