//! A process of the lab's run step by step, to be killed between any two: ptrace(2), system call by system call.
//!
//! A step is a call by which the process changes something that outlives it: a BPF map, program, link or pin, or what is
//! sent over a socket (netlink is one).

use std::io;
use std::time::{Duration, Instant};

use libc::c_long;

/// How long the process may wait for events without having entered another step, until it is taken to be done.
const QUIET: Duration = Duration::from_millis(400);

/// How long it may take in all.
const LIMIT: Duration = Duration::from_secs(120);

/// Commands of bpf(2) that change what outlives the caller, as numbered in `linux/bpf.h`.
const CHANGES: [(u64, &str); 9] = [
    (0, "BPF_MAP_CREATE"),
    (2, "BPF_MAP_UPDATE_ELEM"),
    (3, "BPF_MAP_DELETE_ELEM"),
    (6, "BPF_OBJ_PIN"),
    (8, "BPF_PROG_ATTACH"),
    (9, "BPF_PROG_DETACH"),
    (26, "BPF_MAP_UPDATE_BATCH"),
    (28, "BPF_LINK_CREATE"),
    (29, "BPF_LINK_UPDATE"),
];

/// A system call that was entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Call {
    number: c_long,
    first: u64,
}

impl Call {
    /// What it changes, if it does.
    fn change(self) -> Option<&'static str> {
        match self.number {
            libc::SYS_bpf => {
                CHANGES.iter().find(|(command, _)| *command == self.first).map(|(_, name)| *name)
            }
            libc::SYS_sendto | libc::SYS_sendmsg => Some("send"),
            _ => None,
        }
    }

    fn waits(self) -> bool {
        [libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2].contains(&self.number)
    }
}

/// How far a process got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Got {
    /// It was killed as it entered this step; what it would have done.
    Killed(&'static str),
    /// It waits for events and has fewer steps; how many.
    Done(u32),
}

/// A child whose main thread's system calls are seen. It must be a child of the process, and everything is done by the thread
/// that has begun.
pub struct Traced(i32);

impl Traced {
    /// Takes hold of a running child.
    pub fn seize(pid: u32) -> Self {
        let pid = i32::try_from(pid).expect("a process id");
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        request(libc::PTRACE_SEIZE, pid, options as usize).expect("PTRACE_SEIZE");
        let traced = Self(pid);
        request(libc::PTRACE_INTERRUPT, pid, 0).expect("PTRACE_INTERRUPT");
        traced.next(LIMIT).expect("a process that stops");
        traced
    }

    /// Lets it run and kills it as it enters its step number `last`, from 1.
    pub fn run_to(self, last: u32) -> Got {
        let (mut steps, mut call, begun) = (0, None, Instant::now());
        let mut signal = 0;
        loop {
            request(libc::PTRACE_SYSCALL, self.0, signal).expect("PTRACE_SYSCALL");
            signal = 0;
            let wait = if call.is_some_and(Call::waits) { QUIET } else { LIMIT };
            let Some(status) = self.next(wait) else {
                assert!(call.is_some_and(Call::waits), "stuck in {call:?} after {steps} steps");
                self.let_go();
                return Got::Done(steps);
            };
            assert!(libc::WIFSTOPPED(status), "it ended by itself after {steps} steps ({status:#x})");
            assert!(begun.elapsed() < LIMIT, "still busy after {LIMIT:?} and {steps} steps");
            match libc::WSTOPSIG(status) {
                stop if stop == libc::SIGTRAP | 0x80 => {
                    call = entered(self.0);
                    if let Some(change) = call.and_then(Call::change) {
                        steps += 1;
                        if steps == last {
                            // SAFETY: plain system call on a child that has not been waited for.
                            unsafe { libc::kill(self.0, libc::SIGKILL) };
                            return Got::Killed(change);
                        }
                    }
                }
                // A stop of ptrace's own (an event in the upper bits), or a signal to be passed on.
                stop => signal = if status >> 16 == 0 { stop as usize } else { 0 },
            }
        }
    }

    /// The next stop; `None` if there is none for so long.
    fn next(&self, patience: Duration) -> Option<i32> {
        let until = Instant::now() + patience;
        loop {
            let mut status = 0;
            // SAFETY: the status outlives the call.
            let pid = unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG | libc::__WALL) };
            assert!(pid >= 0, "waitpid: {}", io::Error::last_os_error());
            if pid > 0 {
                return Some(status);
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn let_go(self) {
        request(libc::PTRACE_INTERRUPT, self.0, 0).expect("PTRACE_INTERRUPT");
        self.next(LIMIT).expect("a process that stops");
        request(libc::PTRACE_DETACH, self.0, 0).expect("PTRACE_DETACH");
    }
}

fn request(request: libc::c_uint, pid: i32, data: usize) -> io::Result<()> {
    // SAFETY: none of the requests made with it has the kernel write to memory of the caller's.
    let result = unsafe { libc::ptrace(request as _, pid, 0usize, data) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The system call at whose entry the process stands; `None` at an exit.
fn entered(pid: i32) -> Option<Call> {
    // SAFETY: plain data, for which zeros are a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: the kernel writes at most `size` bytes to `info`.
    let result = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO as _, pid, size, &raw mut info) };
    assert!(result > 0, "PTRACE_GET_SYSCALL_INFO: {}", io::Error::last_os_error());
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: the kernel says that it has filled the entry's part.
    let entry = unsafe { info.u.entry };
    Some(Call { number: entry.nr as c_long, first: entry.args[0] })
}
