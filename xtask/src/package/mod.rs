//! Packages: one tree of files, wrapped for Debian, for RPM, and as an archive.

pub mod archive;
pub mod deb;
pub mod debian;
pub mod rpm;
pub mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xtask::workspace_root;

use crate::run::output;

/// What a package is named by.
#[derive(Clone, Debug)]
pub struct Version {
    /// The workspace's version.
    pub upstream: String,
    /// Counts the packages of one version, from 1.
    pub release: u32,
    /// The machine's architecture as Rust names it.
    pub arch: &'static str,
}

impl Version {
    /// The workspace's version on this machine.
    pub fn new(release: u32) -> Self {
        Self { upstream: env!("CARGO_PKG_VERSION").to_owned(), release, arch: std::env::consts::ARCH }
    }

    /// Debian's name of the architecture.
    pub fn deb_arch(&self) -> &'static str {
        match self.arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }

    /// `template` with what stands between `@` filled in.
    pub fn fill(&self, template: &str, more: &[(&str, &str)]) -> String {
        let release = self.release.to_string();
        let own = [
            ("VERSION", self.upstream.as_str()),
            ("RELEASE", &release),
            ("DEB_ARCH", self.deb_arch()),
            ("RPM_ARCH", self.arch),
        ];
        own.iter()
            .chain(more)
            .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
    }
}

/// The text of a file under `packaging/`.
pub fn template(path: &str) -> Result<String> {
    let path = workspace_root().join("packaging").join(path);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// When the sources were last changed, seconds since 1970: what packages bear as their time, so that the
/// same sources make the same package.
pub fn source_time() -> String {
    let root = workspace_root();
    let logged = output("git", &["-C", &root.to_string_lossy(), "log", "-1", "--format=%ct"]);
    logged.map_or_else(|| "0".to_owned(), |time| time.trim().to_owned())
}

/// Every file below `dir`, as absolute paths on the machine that installs them, sorted.
pub fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(Path::new("/").join(entry.path().strip_prefix(dir)?));
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled() {
        let version = Version { upstream: "1.2.3".into(), release: 4, arch: "aarch64" };
        let text = version.fill("@VERSION@-@RELEASE@ @DEB_ARCH@ @RPM_ARCH@ @MORE@ @", &[("MORE", "x")]);
        assert_eq!(text, "1.2.3-4 arm64 aarch64 x @");
    }

    #[test]
    fn every_template_is_there_and_leaves_nothing_open() {
        let version = Version::new(1);
        let more = [("INSTALLED_KIB", "1"), ("TREE", "/tree"), ("FILES", "/usr/bin/vpnat")];
        for path in ["debian/control", "debian/postinst", "debian/prerm", "debian/postrm", "rpm/vpnat.spec"] {
            let text = version.fill(&template(path).unwrap(), &more);
            assert!(!text.contains('@') || !text.contains("@VERSION@"), "{path}: {text}");
        }
    }
}
