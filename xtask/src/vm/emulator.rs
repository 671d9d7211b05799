//! QEMU: the machine's own, or else Debian's, unpacked into the cache with every library that it needs.
//!
//! Unpacked rather than installed: it works without root, and where a package manager would have to remove something
//! for it (a machine with a newer `qemu-utils`, say). It is run by the C library's loader that was unpacked with it, so
//! nothing of it depends on what the machine has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::lookup;

use super::suite::{self, Apt};
use crate::run;

const QEMU: &str = "qemu-system-x86_64";

/// The suite whose QEMU it is: its version 10 runs guests with two processors, which 7.2 of the suite before does not.
const SUITE: &str = "trixie";

/// Its package.
const PACKAGE: &str = "qemu-system-x86";

/// A QEMU that runs.
pub struct Emulator {
    /// The folder that it was unpacked into; `None` is the machine's own.
    root: Option<PathBuf>,
    /// Its major version.
    major: u32,
}

impl Emulator {
    /// The machine's, or the one in the folder `cache`, fetched first if it is not there.
    pub fn get(cache: &Path) -> Result<Self> {
        if lookup::command(QEMU).is_some() {
            match Self::at(None) {
                Ok(own) => return Ok(own),
                Err(error) => eprintln!("vm: {error:#}"),
            }
        }
        let root = cache.join("qemu");
        if !root.exists() {
            fetch(&root).with_context(|| {
                format!(
                    "this machine has no {QEMU}, and {PACKAGE} cannot be fetched: install it, and try again"
                )
            })?;
        }
        let hint = || format!("{} is no use; remove it and try again", root.display());
        Self::at(Some(root.clone())).with_context(hint)
    }

    fn at(root: Option<PathBuf>) -> Result<Self> {
        let mut emulator = Self { root, major: 0 };
        let out =
            emulator.command().arg("--version").output().with_context(|| format!("cannot run {QEMU}"))?;
        let text = String::from_utf8_lossy(&out.stdout);
        match major(&text) {
            Some(major) if out.status.success() => emulator.major = major,
            _ => bail!(
                "{QEMU} does not work ({}): {}",
                out.status,
                String::from_utf8_lossy(&out.stderr).trim()
            ),
        }
        Ok(emulator)
    }

    /// The program, to be given its arguments.
    pub fn command(&self) -> Command {
        let Some(root) = &self.root else {
            let own = lookup::command(QEMU).unwrap_or_else(|| QEMU.into());
            return Command::new(own);
        };
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries).arg(root.join("usr/bin").join(QEMU));
        for firmware in ["qemu", "seabios"] {
            command.arg("-L").arg(root.join("usr/share").join(firmware));
        }
        command.env("QEMU_MODULE_DIR", libraries.join("qemu"));
        command
    }

    /// How many processors a guest may have. QEMU before version 10 lets guests with several die while they patch
    /// their own code.
    pub fn processors(&self) -> &'static str {
        if self.major >= 10 { "2" } else { "1" }
    }
}

fn fetch(root: &Path) -> Result<()> {
    suite::ensure()?;
    let unfinished = root.with_extension("part");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    println!(
        "vm: this machine has no QEMU; unpacking Debian's into {}, nothing is installed",
        root.display()
    );
    let apt = Apt::of_suite(SUITE, &unfinished.join("apt"))?;
    println!("vm: downloading {PACKAGE} and what it needs (about 40 MB)");
    // To this apt nothing is installed, so it brings all that is needed, the C library too.
    let options = ["install", "-y", "-qq", "--download-only", "--no-install-recommends", PACKAGE];
    run::run(apt.command("apt-get").args(options))
        .context("apt cannot download QEMU: is there a network?")?;
    suite::unpack(&apt.archives(), &unfinished)?;
    // Its folder goes before it is named anew.
    drop(apt);
    // A whole one or none: what is in the cache under its name is complete.
    fs::rename(&unfinished, root).with_context(|| format!("cannot make {}", root.display()))
}

fn major(version: &str) -> Option<u32> {
    version.split_once("version ")?.1.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_and_decides_on_processors() {
        assert_eq!(major("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright"), Some(7));
        assert_eq!(major("QEMU emulator version 10.0.2"), Some(10));
        assert_eq!(major(""), None);
        let processors = |major| Emulator { root: None, major }.processors();
        assert_eq!((processors(7), processors(10)), ("1", "2"));
    }

    #[test]
    fn an_unpacked_one_uses_nothing_of_the_machines() {
        let command = Emulator { root: Some("/cache/qemu".into()), major: 10 }.command();
        assert_eq!(command.get_program(), "/cache/qemu/usr/lib64/ld-linux-x86-64.so.2");
        assert!(command.get_args().all(|arg| {
            let arg = arg.to_string_lossy();
            arg.starts_with('-') || arg.starts_with("/cache/qemu/")
        }));
    }

    #[test]
    fn what_does_not_run_is_no_emulator() {
        assert!(Emulator::at(Some("/no/such/folder".into())).is_err());
    }
}
