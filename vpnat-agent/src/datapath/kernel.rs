//! What the machine must offer before anything is touched.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};

use super::{Error, features, sys};

/// Where the BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// linux/capability.h.
const CAPABILITIES: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

/// Set to force clsact filters on kernels that have TCX; for tests.
pub const FORCE_CLSACT_ENV: &str = "VPNAT_FORCE_CLSACT";

/// How TC programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcMethod {
    /// Links, pinned (Linux 6.6).
    Tcx,
    /// Filters on a clsact qdisc.
    Clsact,
}

impl TcMethod {
    /// What this kernel offers.
    pub fn of_this_kernel() -> Self {
        let forced = std::env::var_os(FORCE_CLSACT_ENV).is_some_and(|value| value == "1");
        if !forced && version() >= (6, 6) { Self::Tcx } else { Self::Clsact }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "TCX",
            Self::Clsact => "clsact",
        }
    }
}

/// The kernel's release, as `uname -r` has it.
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "?".into(), |name| name.release().to_string_lossy().into_owned())
}

/// Major and minor number of the kernel's release.
fn version() -> (u32, u32) {
    parse_version(&release())
}

fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

/// The process may do what the agent does.
pub fn check_privileges() -> Result<(), Error> {
    let status = Path::new("/proc/self/status");
    let text = fs::read_to_string(status).map_err(Error::file("reading capabilities", status))?;
    let effective = text
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default();
    if let Some((_, missing)) = CAPABILITIES.iter().find(|(bit, _)| effective & (1 << bit) == 0) {
        return Err(Error::Privilege { missing });
    }
    // The kernel itself says that there is no such file.
    let refused = sys::open_pin(Path::new("/no-such-pin")).err().and_then(|error| error.raw_os_error());
    if refused == Some(libc::EPERM) { Err(Error::Filtered) } else { Ok(()) }
}

/// The kernel has what the programs need.
pub fn check_features() -> Result<(), Error> {
    if version() < (6, 1) {
        return Err(Error::KernelVersion {
            found: release(),
            needed: "6.1",
            missing: features::missing(false),
        });
    }
    let path = PathBuf::from("/sys/kernel/btf/vmlinux");
    if path.exists() { Ok(()) } else { Err(Error::NoBtf { path }) }
}

/// What the pin directory needs before it can be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Bpffs {
    /// It is on a BPF file system.
    Mounted,
    /// A BPF file system must be mounted here first.
    Mount(PathBuf),
}

/// Looks at the file system under `pin_root`.
pub fn check_bpffs(pin_root: &Path) -> Result<Bpffs, Error> {
    let existing = pin_root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = statfs(existing).map_err(|error| Error::file("statfs", existing)(error.into()))?;
    if found.filesystem_type() == FsType(BPF_FS_MAGIC as _) {
        Ok(Bpffs::Mounted)
    } else if pin_root.starts_with(BPFFS) && Path::new(BPFFS).is_dir() {
        Ok(Bpffs::Mount(BPFFS.into()))
    } else {
        Err(Error::NotBpffs { path: pin_root.into() })
    }
}

impl Bpffs {
    /// Mounts what is to be mounted, and says so.
    pub fn prepare(&self) -> Result<(), Error> {
        let Self::Mount(path) = self else { return Ok(()) };
        mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .map_err(|error| Error::MountBpffs { path: path.clone(), error: error.into() })?;
        log::info!("mounted a BPF file system at {}", path.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("6.1.0-13-cloud-amd64"), (6, 1));
        assert_eq!(parse_version("6.18.44-fc"), (6, 18));
        assert_eq!(parse_version("7.3-rc1"), (7, 3));
        assert_eq!(parse_version("?"), (0, 0));
    }
}
