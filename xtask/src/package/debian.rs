//! A clean Debian tree, as an archive, for the package tests to boot.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::run::{self, as_root, output};

/// What the tree has beside the essential packages; rpm, to install the .rpm by itself.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,iputils-ping,rpm";

/// A tree older than this is made anew: mirrors drop old versions.
const FRESH: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Where the archive is.
pub fn archive() -> PathBuf {
    run::target_dir().join("package/debian-tree.tar")
}

/// Makes the archive if there is none, an old one, or one of other packages.
pub fn ensure() -> Result<()> {
    let file = archive();
    let contents = file.with_extension("packages");
    let same = fs::read_to_string(&contents).is_ok_and(|packages| packages == PACKAGES);
    let age = fs::metadata(&file).and_then(|meta| meta.modified()).ok();
    let age = age.and_then(|time| SystemTime::now().duration_since(time).ok());
    if same && age.is_some_and(|age| age < FRESH) {
        return Ok(());
    }
    let suite =
        suite().context("this machine's distribution does not name its release in /etc/os-release")?;
    let sources = sources(&suite)?;
    println!("setup: making a clean tree of {suite} with mmdebstrap (some 200 MB, once a week)");
    let mut command = as_root("mmdebstrap")?;
    command.args(["--quiet", "--variant=minbase", "--mode=root", "--format=tar"]);
    command.arg(format!("--include={PACKAGES}")).arg(&suite).arg(&file).args(&sources);
    // The sources name mirrors: shown to nobody.
    let status = command.status().context("cannot run mmdebstrap")?;
    anyhow::ensure!(status.success(), "mmdebstrap could not make a tree of {suite} ({status})");
    fs::write(&contents, PACKAGES).with_context(|| format!("cannot write {}", contents.display()))
}

fn suite() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.trim_matches('"').to_owned())
}

/// The lines of sources that apt uses here for the distribution itself.
fn sources(suite: &str) -> Result<Vec<String>> {
    let format = "$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)";
    let listed = output("apt-get", &["indextargets", "--format", format, "Created-By: Packages"])
        .context("`apt-get indextargets` does not say where packages come from")?;
    let lines = distribution_of(&listed, suite);
    anyhow::ensure!(!lines.is_empty(), "apt knows no source of {suite}: run `apt-get update`");
    Ok(lines)
}

fn distribution_of(listed: &str, suite: &str) -> Vec<String> {
    let mut lines: Vec<String> = listed
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('|');
            let (origin, codename, component, uri) =
                (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let own = ["Debian", "Ubuntu"].contains(&origin) && codename == suite && component == "main";
            own.then(|| format!("deb {uri} {suite} main"))
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_distributions_own_sources_are_taken() {
        let listed = "Debian|bookworm|main|http://mirror.example/debian/\n\
                      Debian|bookworm-updates|main|http://mirror.example/debian/\n\
                      Debian|bookworm|main|http://mirror.example/debian/\n\
                      Other|bookworm|main|http://other.example/\n";
        assert_eq!(distribution_of(listed, "bookworm"), ["deb http://mirror.example/debian/ bookworm main"]);
    }
}
