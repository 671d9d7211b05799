//! `package`: what is handed to machines that do not build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::setup::{self, Scope};
use crate::package::{Version, archive, deb, debian, rpm, tree};
use crate::run;

/// Make packages: .deb, .rpm and an archive with a static binary, in `target/package`.
#[derive(clap::Args)]
pub struct Args {
    /// Make this kind only (may be given several times)
    #[arg(long, value_enum)]
    only: Vec<Kind>,
    /// Which package of this version it is, counted from 1
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    release: u32,
    /// Put this agent into the packages instead of building a static one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// For Debian and its descendants
    Deb,
    /// For Fedora, RHEL, Amazon Linux and the like
    Rpm,
    /// For everything else
    Tar,
}

/// The agent that the packages carry, once they are made.
pub fn agent_binary() -> PathBuf {
    directory().join("tree/usr/bin/vpnat")
}

/// Where packages are put.
pub fn directory() -> PathBuf {
    run::target_dir().join("package")
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Scope::Build, Scope::Package])?;
    let layout = lay_out(args.binary.as_deref())?;
    let wanted = |kind| args.only.is_empty() || args.only.contains(&kind);
    let version = Version::new(args.release);
    for kind in [Kind::Deb, Kind::Rpm, Kind::Tar].into_iter().filter(|kind| wanted(*kind)) {
        let file = kind.make(&layout, &version)?;
        let size = fs::metadata(&file).map_or(0, |meta| meta.len());
        println!("{} ({} KiB)", file.display(), size.div_ceil(1024));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the package tests install: each kind, and a second one of those that are upgraded.
pub fn for_tests() -> Result<()> {
    let layout = lay_out(None)?;
    for kind in [Kind::Deb, Kind::Rpm, Kind::Tar] {
        kind.make(&layout, &Version::new(1))?;
    }
    for kind in [Kind::Deb, Kind::Rpm] {
        kind.make(&layout, &Version::new(2))?;
    }
    debian::ensure()
}

/// Builds the agent unless one is given, and lays out what the packages carry.
fn lay_out(binary: Option<&Path>) -> Result<PathBuf> {
    let dir = directory();
    let (layout, manual) = (dir.join("tree"), dir.join("manual"));
    fs::create_dir_all(&manual).with_context(|| format!("cannot make {}", manual.display()))?;
    let agent = match binary {
        Some(file) => file.to_path_buf(),
        None => tree::static_agent()?,
    };
    tree::manual(&manual)?;
    tree::lay_out(&layout, &agent, &manual)?;
    Ok(layout)
}

impl Kind {
    fn make(self, layout: &Path, version: &Version) -> Result<PathBuf> {
        match self {
            Self::Deb => deb::build(layout, &directory(), version),
            Self::Rpm => rpm::build(layout, &directory(), version),
            Self::Tar => archive::build(layout, &directory(), version),
        }
    }
}
