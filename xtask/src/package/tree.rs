//! The tree that every package carries.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xtask::workspace_root;

use super::files_below;
use crate::run;

/// A file of the sources, where it is installed, and its permissions.
struct Place {
    from: &'static str,
    to: &'static str,
    mode: u32,
}

const fn place(from: &'static str, to: &'static str) -> Place {
    Place { from, to, mode: 0o644 }
}

/// What is installed as it stands in the sources.
const PLACES: &[Place] = &[
    place("packaging/systemd/vpnat.service", "usr/lib/systemd/system/vpnat.service"),
    place("packaging/systemd/vpnat-guard.service", "usr/lib/systemd/system/vpnat-guard.service"),
    place("packaging/copyright", "usr/share/doc/vpnat/copyright"),
    place("LICENSE-MIT", "usr/share/doc/vpnat/LICENSE-MIT"),
    place("LICENSE-APACHE", "usr/share/doc/vpnat/LICENSE-APACHE"),
    place("README.md", "usr/share/doc/vpnat/README.md"),
    place("CHANGELOG.md", "usr/share/doc/vpnat/CHANGELOG.md"),
    place("vpnat-agent/vpnat.example.toml", "usr/share/doc/vpnat/vpnat.example.toml"),
    place("packaging/prometheus/vpnat-alerts.yml", "usr/share/vpnat/prometheus/vpnat-alerts.yml"),
    place("packaging/prometheus/prometheus.example.yml", "usr/share/vpnat/prometheus/prometheus.example.yml"),
    place("packaging/grafana/vpnat.json", "usr/share/vpnat/grafana/vpnat.json"),
];

/// Where everything below `docs` goes.
const DOCS: &str = "usr/share/doc/vpnat/docs";

/// Where the manual's files go, by their ending.
const MANUAL: &[(&str, &str)] = &[
    (".1", "usr/share/man/man1"),
    (".5", "usr/share/man/man5"),
    (".bash", "usr/share/bash-completion/completions"),
    (".zsh", "usr/share/zsh/vendor-completions"),
    (".fish", "usr/share/fish/vendor_completions.d"),
];

/// The target that links the agent without any shared library of the machine that builds it.
fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Builds the agent as one static file; returns where it is.
pub fn static_agent() -> Result<PathBuf> {
    let target = target();
    let mut command =
        run::cargo_with_bpf(&["build", "--release", "--package", "vpnat-agent", "--bin", "vpnat"]);
    command.args(["--target", &target]).env("RUSTFLAGS", "-C target-feature=+crt-static");
    run::run(&mut command)?;
    Ok(run::target_dir().join(target).join("release/vpnat"))
}

/// Writes man pages and completions, as the agent's own command line describes itself, into `dir`.
pub fn manual(dir: &Path) -> Result<()> {
    let mut command =
        run::cargo_with_bpf(&["run", "--quiet", "--package", "vpnat-agent", "--example", "manual"]);
    command.arg("--").arg(dir);
    run::run(&mut command)
}

/// Lays the tree out in `dir`, which is made anew.
pub fn lay_out(dir: &Path, agent: &Path, manual: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    install(agent, &dir.join("usr/bin/vpnat"), 0o755)?;
    for place in PLACES {
        install(&workspace_root().join(place.from), &dir.join(place.to), place.mode)?;
    }
    for file in files_below(&workspace_root().join("docs"))? {
        let file = file.strip_prefix("/").unwrap_or(&file);
        install(&workspace_root().join("docs").join(file), &dir.join(DOCS).join(file), 0o644)?;
    }
    let etc = dir.join("etc/vpnat");
    fs::create_dir_all(&etc).with_context(|| format!("cannot make {}", etc.display()))?;
    for entry in fs::read_dir(manual)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((ending, folder)) = MANUAL.iter().find(|(ending, _)| name.ends_with(ending)) else {
            continue;
        };
        let stem = name.trim_end_matches(ending);
        // Each shell looks for its own form of the command's name.
        let name = match *ending {
            ".bash" => stem.to_owned(),
            ".zsh" => format!("_{stem}"),
            _ => name.clone(),
        };
        install(&path, &dir.join(folder).join(name), 0o644)?;
    }
    Ok(())
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_installed_is_in_the_sources() {
        for place in PLACES {
            assert!(workspace_root().join(place.from).is_file(), "{} is missing", place.from);
        }
    }
}
