//! Child processes that do not outlive the thread that started them.

use std::io::Read;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::patience::patient;

/// Debian's package for each tool that the lab calls, to say what to install.
const PACKAGES: &[(&str, &str)] = &[
    ("aws", "awscli"),
    ("bpftool", "bpftool"),
    ("buildah", "buildah"),
    ("charon-systemd", "charon-systemd"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("kubectl", "kubernetes-client"),
    ("mandoc", "mandoc"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("swanctl", "strongswan-swanctl"),
    ("ss", "iproute2"),
    ("tc", "iproute2"),
    ("tshark", "tshark"),
    ("turnserver", "coturn"),
    ("turnutils_natdiscovery", "coturn"),
    ("wg", "wireguard-tools"),
    ("wireguard-go", "wireguard-go"),
];

/// A command that runs in the network namespace `net` (if any) and is killed when the calling thread ends.
pub fn command(program: &str, net: Option<RawFd>) -> Command {
    let mut command = Command::new(program);
    // Tools live in sbin, which is not on everybody's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/lib/ipsec")).stdin(Stdio::null());
    let parent = std::process::id() as i32;
    // SAFETY: the closure runs between fork and exec and makes system calls only, no allocation.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // The parent may have ended before the line above.
            if libc::getppid() != parent {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            if let Some(fd) = net
                && libc::setns(fd, libc::CLONE_NEWNET) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command
}

/// What to say when `program` could not be started.
pub fn cannot_start(program: &str, error: &std::io::Error) -> String {
    if error.kind() != std::io::ErrorKind::NotFound {
        return format!("cannot start {program}: {error}");
    }
    match PACKAGES.iter().find(|(tool, _)| *tool == program) {
        Some((_, package)) => format!("the lab needs `{program}` (apt-get install {package})"),
        None => format!("the lab needs `{program}`, which is not there"),
    }
}

/// Runs the command to its end.
pub fn output(mut command: Command) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    command.output().unwrap_or_else(|error| panic!("{}", cannot_start(&program, &error)))
}

/// Runs the command to its end and returns what it printed; panics if it fails.
pub fn checked(command: Command) -> String {
    let line = describe(&command);
    let output = output(command);
    assert!(
        output.status.success(),
        "`{line}` failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A process in the background: its output is kept, and it is killed when dropped.
pub struct Background {
    name: String,
    child: Child,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    ended: Option<ExitStatus>,
    log_shown: bool,
}

impl Background {
    /// Starts the command. The calling thread must live as long as the process shall.
    pub fn start(name: &str, mut command: Command) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}", cannot_start(&program, &error)));
        let log = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            readers.push(collect(pipe, &log));
        }
        if let Some(pipe) = child.stderr.take() {
            readers.push(collect(pipe, &log));
        }
        Self { name: name.to_string(), child, log, readers, ended: None, log_shown: false }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process has printed so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// What the process has printed, for a message that is about to be shown: it is not shown again.
    pub fn last_words(&mut self) -> String {
        self.log_shown = true;
        self.log()
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("wait for a child");
        }
        self.ended
    }

    /// Sends a signal, if the process still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            kill(Pid::from_raw(self.child.id() as i32), signal)
                .unwrap_or_else(|error| panic!("signal {}: {error}", self.name));
        }
    }

    /// Waits for the end; `None` if it does not come within `limit` ([`patient`]).
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patient(limit);
        while self.ended().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = self.ended()?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Some(ended)
    }

    /// Asks the process to end, and kills it if it has not within five seconds.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        match self.wait(Duration::from_secs(5)) {
            Some(status) => status,
            None => self.kill(),
        }
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(10)).unwrap_or_else(|| panic!("{} survived SIGKILL", self.name))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() && !self.log_shown {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- last lines of {} ---", self.name);
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

fn collect(mut pipe: impl Read + Send + 'static, log: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            log.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push_str(&text);
        }
    })
}

/// Waits until `ready` holds; panics with `what` after `limit` ([`patient`]).
pub fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) {
    let limit = patient(limit);
    let until = Instant::now() + limit;
    while !ready() {
        assert!(Instant::now() < until, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
