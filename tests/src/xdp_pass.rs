//! An XDP program that passes everything: with it on its peer, a veth device can transmit from XDP.
//!
//! A redirected frame needs a peer that polls, for which receive offload is enough. A frame sent back out of
//! the device it came in by (XDP_TX) needs more: veth wakes the peer only if that has a program of its own.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::netns::Namespace;

/// The program on its device, until dropped.
pub struct XdpPass {
    _link: OwnedFd,
}

/// The start of the kernel's `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    rest: [u64; 12],
}

/// The start of the kernel's `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 6],
}

impl XdpPass {
    /// Attaches the program to a device, in the driver.
    pub fn attach(ns: &Namespace, device: &str) -> Self {
        const XDP: u32 = 6;
        const BPF_XDP: u32 = 37;
        const XDP_FLAGS_DRV_MODE: u32 = 4;
        const LICENSE: &CStr = c"GPL";
        // r0 = XDP_PASS; exit
        let program: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
        let load = Load {
            program_type: XDP,
            instruction_count: program.len() as u32,
            instructions: program.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            rest: [0; 12],
        };
        let program = bpf(5, &load).unwrap_or_else(|error| panic!("load an XDP program: {error}"));
        let ifindex = ns.ifindex(device).unwrap_or_else(|| panic!("{}: no device {device}", ns.name()));
        let link = LinkCreate {
            program: program.as_raw_fd() as u32,
            ifindex,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
            rest: [0; 6],
        };
        let link =
            ns.enter(|| bpf(28, &link)).unwrap_or_else(|error| panic!("attach XDP to {device}: {error}"));
        Self { _link: link }
    }
}

/// A `bpf(2)` command that gives a descriptor.
fn bpf<T>(command: libc::c_int, attribute: &T) -> std::io::Result<OwnedFd> {
    // SAFETY: the attribute, and what it points to, outlive the call; its length is given.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
