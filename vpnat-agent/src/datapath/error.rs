//! What can go wrong between the agent and the kernel. Every message reads `what: where: what to do`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::programs::ProgramError;

use super::features::Feature;

/// An error of the datapath.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum Error {
    #[error(
        "missing privilege {missing}: this process: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Privilege { missing: &'static str },
    /// A filter of system calls stands before the kernel: container runtimes bring one.
    #[error(
        "bpf(2) is refused although the capabilities are there: this process: in a container, let its seccomp profile allow it \
         (`--security-opt seccomp=unconfined`, or a profile that lets CAP_BPF)"
    )]
    Filtered,
    #[error("kernel too old: {found}: vpnat needs Linux {needed} or newer{}", lacking(missing))]
    KernelVersion { found: String, needed: &'static str, missing: Vec<Feature> },
    #[error("the kernel has no type information: {}: use a kernel built with CONFIG_DEBUG_INFO_BTF=y", path.display())]
    NoBtf { path: PathBuf },
    #[error(
        "the kernel lacks {}: Linux {kernel}: run Linux 6.1 or newer, or one that is built with them",
        named(missing)
    )]
    Features { kernel: String, missing: Vec<Feature> },
    #[error(
        "the flow table takes {needed} MiB of kernel memory, and this process's control group may have {limit}: {}: raise MemoryMax= \
         of the unit, or lower [datapath] max_flows", path.display()
    )]
    MemoryLimit { path: PathBuf, needed: u64, limit: u64 },
    #[error("not on a BPF file system: {}: run `mount -t bpf bpf DIRECTORY` there, or set [agent] bpffs", path.display())]
    NotBpffs { path: PathBuf },
    #[error("cannot mount a BPF file system ({error}): {}: mount it before vpnat starts", path.display())]
    MountBpffs { path: PathBuf, error: io::Error },
    #[error(
        "built without a BPF toolchain, so there are no programs in it: this vpnat binary: build it with `cargo xtask build`"
    )]
    NoObject,
    #[error("another vpnat runs with the same pins: {}: stop it first, or set another [agent] bpffs", path.display())]
    Locked { path: PathBuf },
    #[error("may not be read: {}: run as root", path.display())]
    Unreadable { path: PathBuf },
    #[error("nothing is pinned: {}: start `vpnat run`, or name the directory with --pin-dir", path.display())]
    NothingPinned { path: PathBuf },
    #[error("{action} failed ({error}): {}: {}", path.display(), remedy(error))]
    File { action: &'static str, path: PathBuf, error: io::Error },
    #[error("no such device: {name}: create it first, or correct [datapath] {list}")]
    NoDevice { name: String, list: &'static str },
    #[error("device of an unknown kind (ARPHRD {kind}): {name}: use an Ethernet or IP tunnel device")]
    DeviceKind { name: String, kind: u16 },
    #[error("{action} failed ({error}): netlink: {}", remedy(error))]
    Netlink { action: &'static str, error: io::Error },
    #[error(
        "pinned map has another {property} (found {found}, expected {expected}): {name} in {}: \
         run `vpnat detach`, which ends all flows, then start again", path.display()
    )]
    MapShape { name: String, path: PathBuf, property: &'static str, found: String, expected: String },
    #[error(
        "the pinned maps are another build's: {}: use the `vpnat` that runs, or start this one's agent, which takes them over",
        path.display()
    )]
    OtherBuild { path: PathBuf },
    #[error("the object lacks {what} `{name}`: this vpnat binary: build it again with `cargo xtask build`")]
    ObjectLacks { what: &'static str, name: String },
    #[error(
        "the object cannot be used ({reason}): this vpnat binary: build it again with `cargo xtask build`"
    )]
    ObjectBad { reason: String },
    #[error(
        "the kernel's verifier refused program `{program}` ({reason}): Linux {kernel}: run a kernel that vpnat was tested \
         with (6.1, 6.12, 6.18), or report this with {}\n{}",
        file.as_ref().map_or("the lines below".into(), |file| file.display().to_string()), last_lines(log)
    )]
    Verifier { program: String, kernel: String, reason: io::Error, log: String, file: Option<PathBuf> },
    #[error("loading program `{program}` failed ({}): Linux {kernel}: {}", chain(error.as_ref()), remedy(error.as_ref()))]
    Load { program: String, kernel: String, error: Box<ProgramError> },
    #[error("{action} failed ({}): map {name}: {}", chain(error), remedy(error))]
    Map { action: &'static str, name: &'static str, error: MapError },
    #[error("{action} failed ({}): program {name}: {}", chain(error), remedy(error))]
    Program { action: &'static str, name: String, error: ProgramError },
    #[error("attaching `{program}` failed ({reason}): {device} {point}: {remedy}")]
    Attach { program: String, device: String, point: &'static str, reason: String, remedy: String },
    #[error(
        "cannot set net.ipv4.{} = {value} ({error}): this network namespace: set it before vpnat starts, \
         and enable_forwarding = false in [agent]", name.replace('/', ".")
    )]
    Sysctl { name: String, value: &'static str, error: io::Error },
    #[error(
        "the hook was attached and is not there: {device} {point}: look for another tool that removes BPF programs"
    )]
    Vanished { device: String, point: &'static str },
    #[error(
        "another XDP program (id {program}) holds the device: {device}: remove it (`ip link set dev {device} xdp off`) or set xdp = \"off\""
    )]
    ForeignXdp { device: String, program: u32 },
    #[error("{reason}: {device}: {remedy}")]
    XdpUnfit { device: String, reason: String, remedy: String },
    #[error(
        "cannot tell the kernel's tick rate ({0}): clock_getres of CLOCK_MONOTONIC_COARSE: report this with your kernel's CONFIG_HZ"
    )]
    Clock(String),
    #[error(
        "the kernel gives no random numbers ({reason}): this machine: without them ports could be guessed; start again when getrandom(2) works"
    )]
    NoRandom { reason: String },
    #[error("told to end before everything was attached: this process: start it again when that is wanted")]
    Stopped,
    #[error(
        "no slot is free for vendor `{name}`: map VENDORS: remove vendors, or run `vpnat detach` to forget old ones"
    )]
    NoVendorSlot { name: String },
}

/// Lines of a verifier log that are shown: what was refused stands at the end.
pub const LOG_LINES: usize = 20;

fn named(missing: &[Feature]) -> String {
    let each = missing.iter().map(|one| format!("{} (Linux {}: {})", one.name, one.since, one.for_what));
    each.collect::<Vec<_>>().join(", ")
}

/// What an old kernel lacks, as the end of a sentence; a distribution may have added it all.
fn lacking(missing: &[Feature]) -> String {
    if missing.is_empty() { String::new() } else { format!("; this kernel lacks {}", named(missing)) }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// The system's number (errno) of an error, or of what caused it.
pub fn number(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let own = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    own.or_else(|| number(error.source()?))
}

/// What to do about an error of the system when nothing more particular is known.
pub fn remedy(error: &(dyn std::error::Error + 'static)) -> &'static str {
    match number(error) {
        Some(libc::EPERM | libc::EACCES) => "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        Some(libc::ENOENT) => "look whether another tool removes pins or files; `vpnat run` makes them anew",
        Some(libc::ENODEV | libc::ENXIO) => "create the device again, or remove it from [datapath]",
        Some(libc::EROFS) => "mount this file system writable",
        Some(libc::ENOMEM) => "free memory, or lower [datapath] max_flows",
        Some(libc::ENOSPC | libc::E2BIG) => "the table is full: list fewer vendors, prefixes or addresses",
        Some(libc::EMFILE | libc::ENFILE) => {
            "raise the limit on open files (`ulimit -n`, or LimitNOFILE= in the unit)"
        }
        Some(libc::EBUSY | libc::EEXIST) => {
            "look for another tool that uses it (`bpftool net`, `bpftool link`) and remove what it attached"
        }
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => {
            "run a kernel that vpnat was tested with (6.1, 6.12, 6.18)"
        }
        _ => "try again, and report this with the kernel's messages (`dmesg`) if it stays",
    }
}

impl Error {
    /// Writes the log of a refusal by the verifier, whole, to a file in `directory`, and names it in the message.
    #[must_use]
    pub fn with_log_in(mut self, directory: &Path) -> Self {
        if let Self::Verifier { program, log, file, .. } = &mut self {
            let path = directory.join(format!("verifier-{program}.log"));
            if fs::create_dir_all(directory).and_then(|()| fs::write(&path, &*log)).is_ok() {
                *file = Some(path);
            }
        }
        self
    }

    /// Wraps a file operation's error.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { action, path, error }
    }

    /// Wraps a map operation's error.
    pub fn map(action: &'static str, name: &'static str) -> impl FnOnce(MapError) -> Self {
        move |error| Self::Map { action, name, error }
    }

    /// Wraps a program operation's error.
    pub fn program(action: &'static str, name: &str) -> impl FnOnce(ProgramError) -> Self {
        let name = name.to_owned();
        move |error| Self::Program { action, name, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_error_comes_with_something_to_do() {
        let error = |number| io::Error::from_raw_os_error(number);
        assert!(remedy(&error(libc::EACCES)).starts_with("run as root"));
        let inner = aya::sys::SyscallError { call: "bpf", io_error: error(libc::ENOMEM) };
        let map = Error::map("writing", "FLOWS")(MapError::SyscallError(inner)).to_string();
        assert!(map.starts_with("writing failed (") && map.contains("Cannot allocate memory"), "{map}");
        assert!(map.ends_with("): map FLOWS: free memory, or lower [datapath] max_flows"), "{map}");
        assert!(remedy(&io::Error::other("?")).starts_with("try again"));
    }
}
