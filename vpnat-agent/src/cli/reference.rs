//! `vpnat reference`, hidden: writes the pages that are made from the code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::say;
use crate::reference::PAGES;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where to write them.
    folder: PathBuf,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&options.folder)?;
    for page in PAGES {
        let path = options.folder.join(page.file);
        std::fs::write(&path, (page.write)()).map_err(|error| {
            anyhow::anyhow!("cannot write a page ({error}): {}: choose another folder", path.display())
        })?;
        say(format_args!("wrote {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
