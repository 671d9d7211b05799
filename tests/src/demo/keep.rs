//! `--keep`: everything stays, owned by one process in the background, until `--remove` ends it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid, pipe, setsid};

use super::scenes::Stage;
use crate::agent;
use crate::netns::{published, unpublish};
use crate::pod::Pod;

/// Names of published namespaces start with this.
const PREFIX: &str = "vpnat-demo-";
/// Where the process that owns a kept demo is noted.
const NOTE: &str = "/run/vpnat-demo";
/// That process's name.
const OWNER: &std::ffi::CStr = c"vpnat-demo";

/// Runs the demo in a process that stays, and returns when it has been shown.
pub fn run() -> ExitCode {
    if owner().is_some() || !published(PREFIX).is_empty() {
        eprintln!("A demo is still there: remove it with `cargo xtask demo --remove`.");
        return ExitCode::FAILURE;
    }
    let parent = std::process::id();
    let (reader, writer) = pipe().expect("a pipe");
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }.expect("a process for the demo") {
        ForkResult::Parent { child } => {
            drop(writer);
            wait(reader, child)
        }
        ForkResult::Child => {
            drop(reader);
            die_with_parent(true);
            if getppid().as_raw() as u32 != parent {
                return ExitCode::FAILURE;
            }
            super::status(super::show(Some(&|stage, held| stay(stage, held, &writer))))
        }
    }
}

/// Waits until the demo says that it stays, or has ended.
fn wait(reader: OwnedFd, child: Pid) -> ExitCode {
    let mut said = [0];
    match File::from(reader).read(&mut said) {
        Ok(1) => super::status(said[0] == 1),
        _ => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        },
    }
}

fn die_with_parent(on: bool) {
    let signal = if on { libc::SIGKILL } else { 0 };
    // SAFETY: plain system call.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
}

/// Publishes the namespaces, says how to look inside, tells the waiting process and sleeps until it is ended.
fn stay(stage: &Stage<'_, '_>, held: bool, writer: &OwnedFd) {
    // From here on a Ctrl-C at the terminal is not for this process.
    setsid().expect("a session of its own");
    let lab = stage.lab;
    // What a viewer does from now on is not to fill the memory.
    lab.watch.end();
    let sandbox = &lab.site().sandbox;
    let namespaces = lab.pods.iter().chain([&lab.stranger]).map(|pod: &Pod| &pod.ns).chain([
        &lab.site().nat,
        &lab.site().vpc,
        &lab.site().gateway,
        &lab.site().vendors[0],
    ]);
    let names: Vec<_> = namespaces.map(|ns| ns.publish(sandbox, &format!("{PREFIX}{}", ns.name()))).collect();
    let me = std::process::id();
    sandbox.on_host(|| std::fs::write(NOTE, format!("{me}\n"))).expect("a note of the demo's process");
    // SAFETY: the name is a string that ends with a zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, OWNER.as_ptr()) };

    tell(stage, me);
    for name in names {
        name.keep();
    }
    die_with_parent(false);
    let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
    let _ = std::io::stdout().flush();
    let _ = nix::unistd::dup2_stdin(&null);
    let _ = nix::unistd::dup2_stdout(&null);
    let _ = nix::unistd::dup2_stderr(&null);
    nix::unistd::write(writer, &[u8::from(held)]).expect("tell the waiting process");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn tell(stage: &Stage<'_, '_>, me: u32) {
    let agent = stage.agent.pid().unwrap_or(me);
    let vpnat = agent::binary();
    let vpnat = vpnat.display();
    let config = stage.agent.file().display();
    let flows = stage.agent.pin("FLOWS").map(|pin| pin.display().to_string()).unwrap_or_default();
    println!(
        "\nIt is all still running (process {me}). To look inside, as root:
  ip netns exec {PREFIX}pod-a curl http://192.0.2.10/
  ip netns exec {PREFIX}vendor-a tcpdump -ni eth0
  nsenter -t {agent} -n -m {vpnat} status --config {config}
  nsenter -t {agent} -n -m {vpnat} flows list --config {config}
  nsenter -t {agent} -n -m bpftool map dump pinned {flows}
  nsenter -t {agent} -n curl -s http://127.0.0.1:9477/metrics
To remove it:
  cargo xtask demo --remove"
    );
}

/// The process that owns a kept demo, if there is one.
fn owner() -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(NOTE).ok()?.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    // The number may have passed to another process since.
    (name.trim().as_bytes() == OWNER.to_bytes()).then(|| Pid::from_raw(pid))
}

/// Ends a kept demo and takes its names away.
pub fn remove() -> ExitCode {
    let mut found = false;
    if let Some(owner) = owner() {
        found = true;
        if let Err(error) = kill(owner, Signal::SIGKILL) {
            eprintln!("cannot end process {owner}: {error}");
            return ExitCode::FAILURE;
        }
        let until = Instant::now() + Duration::from_secs(5);
        while Path::new(&format!("/proc/{owner}")).exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    for name in published(PREFIX) {
        found = true;
        unpublish(&name);
    }
    let _ = std::fs::remove_file(NOTE);
    println!("{}", if found { "The demo has been removed." } else { "There is no demo to remove." });
    ExitCode::SUCCESS
}
