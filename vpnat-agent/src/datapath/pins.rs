//! Where everything is pinned.
//!
//! `<root>/v<layout>/<MAP>` maps, `<root>/v<layout>/programs/<name>` the programs that reading verbs run,
//! `<root>/links/<device>-<hook>` links. Links are outside the version: a new agent replaces the program
//! under a link, whatever layout the old one had.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use vpnat_common::layout::LAYOUT_VERSION;

use super::{Error, sys};

/// The pin directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Pins under `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of this layout's maps.
    pub fn maps(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    /// Every directory of maps that are pinned: this layout's, others', and such as were set aside.
    pub fn layouts(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_layout = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_prefix("old-").unwrap_or(name).strip_prefix('v').unwrap_or_default();
            number.starts_with(|c: char| c.is_ascii_digit())
        };
        let holds_maps = |path: &PathBuf| {
            fs::read_dir(path).into_iter().flatten().flatten().any(|entry| !entry.path().is_dir())
        };
        let mut found: Vec<_> = entries.filter(is_layout).filter(holds_maps).collect();
        found.sort();
        found
    }

    /// Pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Directory of the pinned programs.
    pub fn programs(&self) -> PathBuf {
        self.maps().join("programs")
    }

    /// Pin of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// Directory of the links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Pin of the link that attaches at `point` of `device`.
    pub fn link(&self, device: &str, point: &str) -> PathBuf {
        self.links().join(format!("{}-{point}", escape(device)))
    }

    /// Every link pin, as device and hook.
    pub fn pinned_links(&self) -> Vec<(String, String)> {
        let names = fs::read_dir(self.links()).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut links: Vec<_> = names.filter_map(split_link_name).collect();
        links.sort();
        links
    }

    /// Makes the directories.
    pub fn create(&self) -> Result<(), Error> {
        for path in [self.programs(), self.links()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(Error::file("making the pin directory", &path))?;
        }
        Ok(())
    }

    /// Whether maps of any layout are pinned.
    pub fn hold_maps(&self) -> bool {
        !self.layouts().is_empty()
    }

    /// Takes the lock that an agent holds while it runs.
    pub fn lock(&self) -> Result<Flock<File>, Error> {
        let file = File::open(&self.root).map_err(Error::file("opening the pin directory", &self.root))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            nix::errno::Errno::EWOULDBLOCK => Error::Locked { path: self.root.clone() },
            error => Error::file("locking the pin directory", &self.root)(error.into()),
        })
    }

    /// Whether an agent runs with these pins.
    pub fn locked(&self) -> bool {
        matches!(self.lock(), Err(Error::Locked { .. }))
    }

    /// Removes directories that hold nothing, down to the root.
    pub fn remove_empty_directories(&self) {
        for path in [self.programs(), self.maps(), self.links(), self.root.clone()] {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Removes a pin; whether there was one.
pub fn unpin(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::file("unpinning", path)(error)),
    }
}

/// Takes a pinned link off its device and removes the pin; whether there was one.
pub fn unpin_link(path: &Path) -> Result<bool, Error> {
    if let Err(error) = sys::detach_pinned_link(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        // Its device may be gone; without the pin the kernel frees it in any case.
        log::debug!("{} could not be detached first: {error}", path.display());
    }
    unpin(path)
}

/// The BPF file system refuses names with dots; VLAN devices have them.
fn escape(device: &str) -> String {
    device.replace('%', "%25").replace('.', "%2e")
}

fn split_link_name(name: OsString) -> Option<(String, String)> {
    let name = name.into_string().ok()?;
    let (device, point) = name.rsplit_once('-')?;
    Some((device.replace("%2e", ".").replace("%25", "%"), point.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_survive_the_round_trip() {
        let pins = Pins::new("/sys/fs/bpf/vpnat");
        for device in ["eth0", "eth0.100", "br-1", "a%2eb"] {
            let path = pins.link(device, "egress");
            let name = path.file_name().unwrap().to_owned();
            assert!(!name.to_str().unwrap().contains('.'), "{name:?}");
            assert_eq!(split_link_name(name), Some((device.into(), "egress".into())));
        }
    }
}
