//! Debian's packages without installing them: found, downloaded and checked by apt, then unpacked into a folder.
//!
//! Apt is given lists of its own for a suite that the machine does not use, so that the machine's lists and packages
//! stay as they are. None of it needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::lookup;

use crate::run;

/// What signs Debian's suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Says what is missing on a machine that cannot fetch Debian's packages.
pub fn ensure() -> Result<()> {
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        if lookup::command(program).is_none() {
            bail!("it is fetched as Debian's packages, and this machine has no `{program}` to do that with");
        }
    }
    Ok(())
}

/// Unpacks every package in the folder `archives` into the folder `into`, and removes the packages.
pub fn unpack(archives: &Path, into: &Path) -> Result<()> {
    for entry in fs::read_dir(archives).with_context(|| format!("cannot read {}", archives.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            // Not shown: there may be a hundred of them.
            let status = Command::new("dpkg-deb").arg("-x").arg(&path).arg(into).status();
            if !status.context("cannot run dpkg-deb")?.success() {
                bail!("dpkg-deb cannot unpack {} (is the disk full?)", path.display());
            }
        }
    }
    fs::remove_dir_all(archives).context("cannot remove the downloaded packages")
}

/// Apt with the machine's configuration, or with options that give it one of its own.
#[derive(Default)]
pub struct Apt {
    options: Vec<String>,
    /// Where it keeps all that it writes, if that is a folder of its own.
    dir: Option<PathBuf>,
}

impl Apt {
    /// Apt that knows one suite only, with everything it writes below `dir`.
    pub fn of_suite(suite: &str, dir: &Path) -> Result<Self> {
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
        let apt = Self { options, dir: Some(dir.to_owned()) };
        run::run(apt.command("apt-get").args(["update", "-qq"]))
            .with_context(|| format!("apt cannot read the list of Debian's {suite}: is there a network?"))?;
        Ok(apt)
    }

    /// Where it leaves what it was told to download only.
    pub fn archives(&self) -> PathBuf {
        self.dir.as_deref().unwrap_or(Path::new("/var")).join("cache/archives")
    }

    /// A program of apt's, told these options.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The folder is not one that apt's own user may write.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command.args(self.options.iter().flat_map(|option| ["-o", option]));
        command
    }

    /// What apt-cache says.
    pub fn read(&self, args: &[&str]) -> Result<String> {
        let out = self.command("apt-cache").args(args).output().context("cannot run apt-cache")?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

/// Its own folder is of no use without it.
impl Drop for Apt {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            // Left over, it costs some space only.
            let _ = fs::remove_dir_all(dir);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_debians_own_archive() {
        let list = "Debian Debian-Security http://mirror.example/debian-security/\n\
            Other Other http://other.example/\nDebian Debian http://mirror.example/debian/\n";
        assert_eq!(mirror_in(list).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(mirror_in("Ubuntu Ubuntu http://mirror.example/ubuntu/\n"), None);
    }
}
