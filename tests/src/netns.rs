//! Network namespaces without a name: held by a file descriptor, gone with the process that made them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process;
use crate::sandbox::Sandbox;

/// A network namespace. It lives as long as this value, a process in it, or a name given by [`publish`].
///
/// [`publish`]: Namespace::publish
pub struct Namespace {
    name: String,
    fd: OwnedFd,
}

impl Namespace {
    /// A new namespace with its loopback up. `name` is for messages only.
    pub fn new(name: &str) -> Self {
        let fd = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            OwnedFd::from(File::open("/proc/thread-self/ns/net").expect("open the network namespace"))
        })
        .join()
        .expect("make a network namespace");
        let namespace = Self { name: name.to_string(), fd };
        // Neither IPv6 chatter nor address detection delays belong in the captures.
        namespace.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        // What comes twice is reported each time it comes: [`crate::sockets::lost_segments`] counts on it. Since 6.7 a kernel answers
        // a socket's backlog once, and the last report in it takes the place of the others.
        namespace.sysctl_if_known("net.ipv4.tcp_backlog_ack_defer", "0");
        namespace.ip("link set lo up");
        namespace
    }

    /// The name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path that names the namespace for tools such as `ip link set … netns PATH` and `nsenter --net=PATH`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()))
    }

    /// Runs `work` in a thread inside the namespace and waits for it. Sockets made there stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.fd, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread inside the namespace.
    pub fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let fd = self.fd.try_clone().expect("another descriptor of the namespace");
        std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                setns(&fd, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
                drop(fd);
                work()
            })
            .expect("a thread")
    }

    /// A command that will run inside the namespace, killed when the calling thread ends.
    pub fn command(&self, program: &str) -> Command {
        process::command(program, Some(self.fd.as_raw_fd()))
    }

    /// Runs a command line (split at blanks) inside; returns what it printed, panics if it fails.
    pub fn run(&self, line: &str) -> String {
        process::checked(self.words(line))
    }

    /// Runs a command line (split at blanks) inside and returns how it ended.
    pub fn try_run(&self, line: &str) -> Output {
        process::output(self.words(line))
    }

    fn words(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a command line has a command"));
        command.args(words);
        command
    }

    /// Runs `ip` commands inside, one per line, without the word `ip`. Stops at the first that fails.
    pub fn ip(&self, lines: &str) {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{}", process::cannot_start("ip", &error)));
        let trimmed: Vec<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut input = child.stdin.take().expect("ip's input");
        let written = input.write_all((trimmed.join("\n") + "\n").as_bytes());
        drop(input);
        let output = child.wait_with_output().expect("wait for ip");
        assert!(
            output.status.success(),
            "ip in {}: {}in:\n{}",
            self.name,
            String::from_utf8_lossy(&output.stderr),
            trimmed.join("\n")
        );
        written.expect("commands for ip");
    }

    /// Sets a sysctl of the namespace, named with dots.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.enter(|| {
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("sysctl {key}={value}: {error}"));
        });
    }

    /// The same, unless the kernel has no such sysctl.
    pub fn sysctl_if_known(&self, key: &str, value: &str) {
        if self.enter(|| Path::new("/proc/sys").join(key.replace('.', "/")).exists()) {
            self.sysctl(key, value);
        }
    }

    /// Reads a sysctl of the namespace, named with dots.
    pub fn read_sysctl(&self, key: &str) -> String {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.enter(|| std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("sysctl {key}: {error}")))
            .trim()
            .to_string()
    }

    /// The index of a device, `None` if there is no such device.
    pub fn ifindex(&self, device: &str) -> Option<u32> {
        self.enter(|| nix::net::if_::if_nametoindex(device).ok())
    }

    /// Makes the namespace visible to `ip netns` under `name`, outside the sandbox, until [`unpublish`] or
    /// the end of the returned guard.
    pub fn publish<'a>(&self, sandbox: &'a Sandbox, name: &str) -> Published<'a> {
        let target = Path::new(NAMES).join(name);
        let source = self.path();
        sandbox.on_host(|| {
            std::fs::create_dir_all(NAMES).expect("the directory of namespace names");
            File::create_new(&target)
                .unwrap_or_else(|error| panic!("the name {}: {error}", target.display()));
            mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .unwrap_or_else(|error| panic!("publish {}: {error}", target.display()));
        });
        Published { sandbox, name: name.to_string() }
    }
}

const NAMES: &str = "/run/netns";

/// A name under which a namespace is published. Dropping it takes the name away.
pub struct Published<'a> {
    sandbox: &'a Sandbox,
    name: String,
}

impl Published<'_> {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves the name for [`unpublish`] to take away.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        self.sandbox.on_host(|| unpublish(&self.name));
    }
}

/// Takes a published name away.
pub fn unpublish(name: &str) {
    let target = Path::new(NAMES).join(name);
    let _ = umount2(&target, MntFlags::MNT_DETACH);
    let _ = std::fs::remove_file(&target);
    // Only if it is empty, and nobody else's.
    let _ = std::fs::remove_dir(NAMES);
}

/// The published names that start with `prefix`.
pub fn published(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NAMES) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}
