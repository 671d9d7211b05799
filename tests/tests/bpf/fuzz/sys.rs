//! bpf(2) as a fuzzer wants it: one call per packet, into buffers that are there already.

use std::io;
use std::os::fd::RawFd;

const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// The kernel's `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    returned: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// Runs a program once on `input`; what it returned. `output` is as long as the packet afterwards; `context` is
/// as the program left it.
pub fn test_run(program: RawFd, input: &[u8], output: &mut Vec<u8>, context: &mut [u8]) -> io::Result<u32> {
    output.resize(input.len() + 256, 0);
    let length = context.len() as u32;
    let mut attr = TestRun {
        program: program as u32,
        data_size_in: input.len() as u32,
        data_size_out: output.len() as u32,
        data_in: input.as_ptr() as u64,
        data_out: output.as_mut_ptr() as u64,
        repeat: 1,
        context_size_in: length,
        context_size_out: length,
        context_in: context.as_ptr() as u64,
        context_out: context.as_mut_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the attribute names buffers of the stated lengths that outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    output.truncate(attr.data_size_out as usize);
    Ok(attr.returned)
}

/// The kernel's `union bpf_attr` for batches.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}

/// Copies a whole array map out, in one call; how many elements were copied. `values` has as many for each key as
/// the kernel keeps per processor.
pub fn lookup_all<V: Copy>(map: RawFd, keys: &mut [u32], values: &mut [V]) -> usize {
    let mut cursor = 0u64;
    let mut attr = Batch {
        in_batch: 0,
        out_batch: (&raw mut cursor) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len() as u32,
        map: map as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel writes at most `count` keys, and values for each, into buffers that have room for them.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<Batch>()) };
    let end = result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT);
    assert!(result == 0 || end, "looking up a batch: {}", io::Error::last_os_error());
    attr.count as usize
}
