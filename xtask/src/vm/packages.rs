//! Debian's kernel packages: found and downloaded by apt, unpacked without being installed.
//!
//! What the machine's own apt does not offer is looked for in another suite, with a configuration of its own
//! that leaves the machine's lists and packages alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::lookup;

use super::series::Series;
use crate::run;

/// What signs Debian's suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads the newest kernel of a series, and unpacks it into the folder `into`.
pub fn fetch(series: Series, into: &Path) -> Result<()> {
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        if lookup::command(program).is_none() {
            bail!("kernels are Debian's packages, and this machine has no `{program}` to fetch them with");
        }
    }
    let archives = into.join("archives");
    fs::create_dir_all(&archives).with_context(|| format!("cannot make {}", archives.display()))?;
    let (apt, package) = find(series, into)?;
    let mut packages = apt.parts(&package)?;
    packages.push(package);
    println!("vm: downloading {} (25 to 50 MB)", packages.join(" "));
    let mut command = apt.command("apt-get");
    command.current_dir(&archives).args(["download", "-qq"]).args(&packages);
    run::run(&mut command).context("apt cannot download the kernel: is there a network?")?;
    for entry in fs::read_dir(&archives)? {
        run::run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(into))?;
    }
    fs::remove_dir_all(&archives).context("cannot remove the downloaded archives")
}

fn find(series: Series, scratch: &Path) -> Result<(Apt, String)> {
    let own = Apt::default();
    if let Some(package) = own.newest(series)? {
        return Ok((own, package));
    }
    let suite = series.suite();
    println!("vm: this machine's apt has no kernel {series}: looking in Debian's {suite}");
    let other = Apt::of_suite(suite, &scratch.join("apt"))?;
    match other.newest(series)? {
        Some(package) => Ok((other, package)),
        None => bail!("Debian's {suite} has no kernel {series} (any more)"),
    }
}

/// Apt with the machine's configuration, or with options that give it one of its own.
#[derive(Default)]
struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// Apt that knows one suite only, with everything it writes below `dir`.
    fn of_suite(suite: &str, dir: &Path) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: install debian-archive-keyring");
        }
        let mirror = mirror()?;
        let (state, cache) = (dir.join("state"), dir.join("cache"));
        for folder in [state.join("lists/partial"), cache.join("archives/partial")] {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let (status, sources) = (state.join("status"), dir.join("sources.list"));
        fs::write(&status, "").context("cannot write apt's status file")?;
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .context("cannot write apt's sources")?;
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        let options = vec![
            option("Dir::State", &state),
            option("Dir::State::status", &status),
            option("Dir::Cache", &cache),
            option("Dir::Etc::sourcelist", &sources),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        let apt = Self { options };
        run::run(apt.command("apt-get").args(["update", "-qq"]))
            .with_context(|| format!("apt cannot read the list of Debian's {suite}: is there a network?"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The folder is not one that apt's own user may write.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command.args(self.options.iter().flat_map(|option| ["-o", option]));
        command
    }

    fn read(&self, args: &[&str]) -> Result<String> {
        let out = self.command("apt-cache").args(args).output().context("cannot run apt-cache")?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The newest kernel for virtual machines in a series.
    fn newest(&self, series: Series) -> Result<Option<String>> {
        let pattern = format!(r"^linux-image-{}\.{}\.[0-9].*-cloud-amd64$", series.major, series.minor);
        Ok(newest_in(&self.read(&["search", "--names-only", &pattern])?))
    }

    /// What a kernel's package has been split into, if it has.
    fn parts(&self, package: &str) -> Result<Vec<String>> {
        let text = self.read(&["depends", "--important", package])?;
        Ok(parts_in(&text, package))
    }
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

/// The mirror of Debian that this machine uses.
fn mirror() -> Result<String> {
    let format = "$(ORIGIN) $(LABEL) $(REPO_URI)";
    let list = run::output("apt-get", &["indextargets", "--format", format]).unwrap_or_default();
    mirror_in(&list).context("this machine's apt names no mirror of Debian (try `apt-get update` first)")
}

fn mirror_in(list: &str) -> Option<String> {
    list.lines().find_map(|line| line.strip_prefix("Debian Debian ")).map(|uri| uri.trim().to_owned())
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

    #[test]
    fn the_mirror_is_debians_own_archive() {
        let list = "Debian Debian-Security http://mirror.example/debian-security/\n\
            Other Other http://other.example/\nDebian Debian http://mirror.example/debian/\n";
        assert_eq!(mirror_in(list).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(mirror_in("Ubuntu Ubuntu http://mirror.example/ubuntu/\n"), None);
    }
}
