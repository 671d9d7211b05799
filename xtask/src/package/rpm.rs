//! The RPM package.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Version, files_below, source_time, template};
use crate::run;

/// Wraps `tree` into a package in `dir`; returns the file.
pub fn build(tree: &Path, dir: &Path, version: &Version) -> Result<PathBuf> {
    let work = dir.join("rpm");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let files = files_below(tree)?;
    let lines: Vec<_> =
        own_folders(&files).into_iter().chain(files.iter().map(|path| listed(path))).collect();
    let tree = fs::canonicalize(tree)?;
    let spec = version.fill(
        &template("rpm/vpnat.spec")?,
        &[("TREE", &tree.to_string_lossy()), ("FILES", &lines.join("\n"))],
    );
    let path = work.join("vpnat.spec");
    fs::write(&path, spec)?;
    let work = fs::canonicalize(&work)?;
    run::run(
        Command::new("rpmbuild")
            .args(["--quiet", "-bb", "--define", &format!("_topdir {}", work.display())])
            .args(["--define", "use_source_date_epoch_as_buildtime 1", "--define", "_buildhost localhost"])
            .arg(&path)
            .env("SOURCE_DATE_EPOCH", source_time()),
    )?;
    let name = format!("vpnat-{}-{}.{}.rpm", version.upstream, version.release, version.arch);
    let file = dir.join(&name);
    fs::copy(work.join("RPMS").join(version.arch).join(&name), &file)?;
    fs::remove_dir_all(&work)?;
    Ok(file)
}

/// Folders that may be nobody else's on a machine: vpnat's own, and those of shells that may not be there.
const OWN: &[&str] = &["vpnat", "bash-completion", "fish", "zsh"];

/// Lines for those folders: rpm takes away with a package only those that it lists.
fn own_folders(files: &[PathBuf]) -> Vec<String> {
    let own = |folder: &&Path| folder.components().any(|part| OWN.iter().any(|own| part.as_os_str() == *own));
    let folders = files.iter().flat_map(|file| file.ancestors().skip(1).filter(own));
    let folders: BTreeSet<_> = folders.collect();
    folders.into_iter().map(|folder| format!("%dir {}", folder.display())).collect()
}

fn listed(path: &Path) -> String {
    let path = path.display().to_string();
    // Compressed or not, as the distribution's macros have it.
    let ending = if path.contains("/man/") { "*" } else { "" };
    format!("{path}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_its_own_are_listed_and_shared_ones_are_not() {
        let files = ["/usr/bin/vpnat", "/usr/share/vpnat/grafana/vpnat.json", "/usr/share/man/man1/vpnat.1"];
        let lines = own_folders(&files.map(PathBuf::from));
        assert_eq!(lines, ["%dir /usr/share/vpnat", "%dir /usr/share/vpnat/grafana"]);
    }
}
