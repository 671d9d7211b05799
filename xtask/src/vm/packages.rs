//! Debian's kernels: which package is the newest of a series, and where it lies once it is unpacked. What the machine's
//! own apt does not offer is looked for in another suite.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::series::Series;
use super::suite::{self, Apt};
use crate::run;

/// Downloads the newest kernel of a series, and unpacks it into the folder `into`.
pub fn fetch(series: Series, into: &Path) -> Result<()> {
    suite::ensure().context("no kernel")?;
    let own = Apt::default();
    if let Some(package) = newest(&own, series)? {
        match download(&own, &package, into) {
            Ok(()) => return Ok(()),
            // Lists that are old name packages that mirrors have dropped.
            Err(error) => eprintln!("vm: {error:#}"),
        }
    }
    let suite = series.suite();
    println!("vm: this machine's apt has no kernel {series}: looking in Debian's {suite}");
    let other = Apt::of_suite(suite, &into.join("apt"))?;
    match newest(&other, series)? {
        Some(package) => download(&other, &package, into),
        None => bail!("Debian's {suite} has no kernel {series} (any more)"),
    }
}

fn download(apt: &Apt, package: &str, into: &Path) -> Result<()> {
    let archives = into.join("archives");
    fs::create_dir_all(&archives).with_context(|| format!("cannot make {}", archives.display()))?;
    let mut packages = parts(apt, package)?;
    packages.push(package.to_owned());
    println!("vm: downloading {} (25 to 50 MB)", packages.join(" "));
    let mut command = apt.command("apt-get");
    command.current_dir(&archives).args(["download", "-qq"]).args(&packages);
    run::run(&mut command).context("apt cannot download the kernel: is there a network?")?;
    suite::unpack(&archives, into)
}

/// The newest kernel for virtual machines in a series.
fn newest(apt: &Apt, series: Series) -> Result<Option<String>> {
    let pattern = format!(r"^linux-image-{}\.{}\.[0-9].*-cloud-amd64$", series.major, series.minor);
    Ok(newest_in(&apt.read(&["search", "--names-only", &pattern])?))
}

/// What a kernel's package has been split into, if it has.
fn parts(apt: &Apt, package: &str) -> Result<Vec<String>> {
    let text = apt.read(&["depends", "--important", package])?;
    Ok(parts_in(&text, package))
}

fn newest_in(search: &str) -> Option<String> {
    let names = search.lines().filter_map(|line| line.split_whitespace().next());
    names.max_by_key(|name| numbers(name)).map(str::to_owned)
}

/// The numbers in a name, by which versions are ordered.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn parts_in(depends: &str, package: &str) -> Vec<String> {
    let release = package.trim_start_matches("linux-image-");
    let parts = ["binary", "modules"].map(|part| format!("linux-{part}-{release}"));
    let named = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    named.filter(|name| parts.iter().any(|part| part == name)).map(str::to_owned).collect()
}

/// The folders of modules in an unpacked package, wherever it keeps them: `…/modules/RELEASE`.
pub fn module_folders(unpacked: &Path) -> Vec<PathBuf> {
    let above = ["lib/modules", "usr/lib/modules"].map(|folder| unpacked.join(folder));
    let entries = above.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    entries.flatten().map(|entry| entry.path()).filter(|path| path.join("kernel").is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_chosen_by_number_and_not_by_letter() {
        let search = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 (signed)\n\
            linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 (signed)\n\
            linux-image-6.1.0-49-cloud-amd64 - Linux 6.1 (signed)\n";
        assert_eq!(newest_in(search).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        let search = "linux-image-6.18.9+deb13-cloud-amd64 - x\nlinux-image-6.18.15+deb13-cloud-amd64 - x\n";
        assert_eq!(newest_in(search).as_deref(), Some("linux-image-6.18.15+deb13-cloud-amd64"));
        assert_eq!(newest_in(""), None);
    }

    #[test]
    fn a_split_package_brings_its_parts() {
        let depends = "linux-image-7.3.4-cloud-amd64\n  PreDepends: linux-base\n |Depends: <dracut>\n  \
            Depends: linux-binary-7.3.4-cloud-amd64\n  Depends: linux-modules-7.3.4-cloud-amd64\n  \
            Depends: linux-base-7.3.4-cloud-amd64\n";
        let parts = parts_in(depends, "linux-image-7.3.4-cloud-amd64");
        assert_eq!(parts, ["linux-binary-7.3.4-cloud-amd64", "linux-modules-7.3.4-cloud-amd64"]);
        assert!(parts_in("linux-image-6.1\n  Depends: kmod\n", "linux-image-6.1").is_empty());
    }
}
