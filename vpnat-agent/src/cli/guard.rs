//! `vpnat guard`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::say;
use crate::config::Config;
use crate::guard::{Guarded, guard};
use crate::stop::Stop;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Configuration file, vpnat.toml(5).
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let config = Config::load(&options.config)?;
    match guard(&config, &Stop::on_signals()?)? {
        Guarded::Already => say("nothing to do: the datapath works, and guards by itself")?,
        Guarded::Closed { prefixes, devices } => {
            for prefix in prefixes {
                say(format_args!("closed {prefix} until `vpnat run` is ready"))?;
            }
            for device in devices {
                say(format_args!("guarded {device}"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
