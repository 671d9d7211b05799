//! The RPM package.

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
    let files: Vec<_> = files_below(tree)?.iter().map(|path| listed(path)).collect();
    let tree = fs::canonicalize(tree)?;
    let spec = version.fill(
        &template("rpm/vpnat.spec")?,
        &[("TREE", &tree.to_string_lossy()), ("FILES", &files.join("\n"))],
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

fn listed(path: &Path) -> String {
    let path = path.display().to_string();
    // Compressed or not, as the distribution's macros have it.
    let ending = if path.contains("/man/") { "*" } else { "" };
    format!("{path}{ending}")
}
