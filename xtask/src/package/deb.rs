//! The Debian package.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Version, files_below, source_time, template};
use crate::run;

/// Wraps `tree` into a package in `dir`; returns the file.
pub fn build(tree: &Path, dir: &Path, version: &Version) -> Result<PathBuf> {
    let bytes: u64 = files_below(tree)?
        .iter()
        .map(|path| {
            fs::metadata(tree.join(path.strip_prefix("/").unwrap_or(path))).map_or(0, |meta| meta.len())
        })
        .sum();
    let control = tree.join("DEBIAN");
    fs::create_dir_all(&control).with_context(|| format!("cannot make {}", control.display()))?;
    let text =
        version.fill(&template("debian/control")?, &[("INSTALLED_KIB", &bytes.div_ceil(1024).to_string())]);
    fs::write(control.join("control"), text)?;
    for script in ["postinst", "prerm", "postrm"] {
        let path = control.join(script);
        fs::write(&path, template(&format!("debian/{script}"))?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let file = dir.join(format!("vpnat_{}-{}_{}.deb", version.upstream, version.release, version.deb_arch()));
    let built = run::run(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", "--build"])
            .arg(tree)
            .arg(&file)
            .env("SOURCE_DATE_EPOCH", source_time()),
    );
    // The tree serves the other packages too.
    fs::remove_dir_all(&control)?;
    built.map(|()| file)
}
