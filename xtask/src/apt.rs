//! Debian's package manager.
//!
//! Recommended packages stay out, nothing that is installed gets removed, and no service is
//! started or left to start at boot: vpnat's lab runs daemons in namespaces of its own, and the
//! machine's own network is nobody's to touch.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use xtask::lookup;

use crate::run::{self, as_root, output};

/// Packages of the lab that bring along an enabled unit.
const UNITS: [(&str, &str); 1] = [("charon-systemd", "strongswan.service")];

/// Package lists older than this name versions that mirrors have dropped.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether this machine has apt.
pub fn available() -> bool {
    lookup::command("apt-get").is_some() && lookup::command("apt-cache").is_some()
}

/// A session that refreshes the package lists once at most.
#[derive(Default)]
pub struct Apt {
    updated: bool,
}

impl Apt {
    /// The version that would be installed, after a refresh if the package is unknown.
    pub fn candidate(&mut self, package: &str) -> Result<Option<String>> {
        if let Some(version) = policy(package) {
            return Ok(Some(version));
        }
        self.update()?;
        Ok(policy(package))
    }

    /// Installs packages.
    pub fn install(&mut self, packages: &[&str]) -> Result<()> {
        println!("setup: installing with apt: {}", packages.join(" "));
        if lists_are_stale() || packages.iter().any(|package| policy(package).is_none()) {
            self.update()?;
        }
        let services = HeldServices::hold(packages)?;
        let mut installed = install_once(packages);
        if installed.is_err() && !self.updated {
            self.update()?;
            installed = install_once(packages);
        }
        services.release()?;
        installed.with_context(|| format!("apt cannot install {}", packages.join(" ")))
    }

    fn update(&mut self) -> Result<()> {
        if !self.updated {
            println!("setup: refreshing apt's package lists");
            run::run(as_root("apt-get")?.args(["update", "-qq"]))?;
            self.updated = true;
        }
        Ok(())
    }
}

fn install_once(packages: &[&str]) -> Result<()> {
    let options = ["install", "-y", "-qq", "--no-install-recommends", "--no-remove"];
    run::run(as_root("env")?.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(options).args(packages))
}

fn policy(package: &str) -> Option<String> {
    candidate_in(&output("apt-cache", &["policy", package])?)
}

fn candidate_in(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

fn lists_are_stale() -> bool {
    let modified = fs::metadata("/var/lib/apt/lists").and_then(|meta| meta.modified());
    modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).is_some_and(|age| age > STALE)
}

/// Units that are kept from starting while packages are configured.
///
/// Only units that are not there yet: a service that the machine already runs is its owner's.
struct HeldServices(Vec<&'static str>);

impl HeldServices {
    fn hold(packages: &[&str]) -> Result<Self> {
        let absent = |unit: &&str| {
            ["/lib/systemd/system", "/etc/systemd/system"]
                .iter()
                .all(|dir| !Path::new(dir).join(unit).exists())
        };
        let brought = UNITS.iter().filter(|(package, _)| packages.contains(package));
        let units: Vec<_> = brought.map(|&(_, unit)| unit).filter(absent).collect();
        if systemd_runs() && !units.is_empty() {
            run::run(as_root("systemctl")?.args(["--quiet", "--runtime", "mask"]).args(&units))?;
        }
        Ok(Self(units))
    }

    fn release(self) -> Result<()> {
        let units = self.0;
        if systemd_runs() && !units.is_empty() {
            run::run(as_root("systemctl")?.args(["--quiet", "--runtime", "unmask"]).args(&units))?;
        }
        // Works without a running systemd too: it is a matter of links in a folder.
        let installed: Vec<_> =
            units.into_iter().filter(|unit| Path::new("/lib/systemd/system").join(unit).exists()).collect();
        if !installed.is_empty() && lookup::command("systemctl").is_some() {
            run::run(as_root("systemctl")?.args(["--quiet", "disable"]).args(&installed))?;
        }
        Ok(())
    }
}

fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_from_the_policy() {
        let known =
            "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(candidate_in(known).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(candidate_in("purged:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_in(""), None);
    }
}
