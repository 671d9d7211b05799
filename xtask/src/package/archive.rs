//! The archive for every other system: a static binary and what belongs beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Version, source_time};
use crate::run;

/// Wraps `tree` into an archive in `dir`; returns the file.
pub fn build(tree: &Path, dir: &Path, version: &Version) -> Result<PathBuf> {
    let top = format!("vpnat-{}-{}", version.upstream, version.arch);
    let file = dir.join(format!("{top}-linux.tar.gz"));
    // The binary on top, everything else where the packages have it.
    run::run(
        Command::new("tar")
            .args(["--create", "--gzip", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{}", source_time()))
            .arg(format!("--transform=s,^\\./usr/bin/vpnat$,{top}/vpnat,"))
            .arg(format!("--transform=s,^\\./,{top}/,"))
            .arg("--file")
            .arg(&file)
            .arg("--directory")
            .arg(tree)
            .arg("."),
    )?;
    Ok(file)
}
