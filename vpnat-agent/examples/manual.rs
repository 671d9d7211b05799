//! Writes the manual of `vpnat` as its command line describes itself: a man page for each verb, and completions for
//! bash, zsh and fish.
//!
//!     cargo run --example manual -- DIRECTORY

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap_complete::Shell;

fn main() -> Result<()> {
    let dir: PathBuf = std::env::args_os().nth(1).context("usage: manual DIRECTORY")?.into();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut command = vpnat_agent::cli::command();
    clap_mangen::generate_to(command.clone(), &dir)?;
    for (shell, ending) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, "vpnat", &mut text);
        fs::write(dir.join(format!("vpnat.{ending}")), text)?;
    }
    Ok(())
}
