//! `vpnat run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Configuration file, vpnat.toml(5).
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let config = Config::load(&options.config)?;
    crate::run::run(config, &options.config)?;
    Ok(ExitCode::SUCCESS)
}
