//! `vpnat doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{say, say_json};
use crate::config::Config;
use crate::datapath::kernel;
use crate::datapath::pins::Pins;
use crate::doctor::{Facts, Finding, Level, check};
use crate::waiting::Waiting;

/// Exit status when there are warnings and no errors.
const WARNINGS: u8 = 3;
/// Exit status when something is broken.
const ERRORS: u8 = 4;

/// The shape of the JSON. A test compares it with what is printed.
const JSON_HELP: &str =
    "Print JSON. Fields are added over time; `version` is raised when one is renamed or removed.

{ version, worst: ok|warning|error, findings: [{ check, level: ok|warning|error, found, why, fix }] }

`why`: empty, and `fix`: null where all is well.";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print JSON; its shape is in --help.
    #[arg(long, long_help = JSON_HELP)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    /// Raised when a field is renamed or removed.
    version: u32,
    worst: Level,
    findings: Vec<Finding>,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let config = Config::load(&options.config)?;
    kernel::check_privileges()?;
    let pins = Pins::new(&config.pin_root);
    let waiting = Waiting::of("looking at this machine");
    let findings = check(&Facts::gather(config, &pins)?);
    drop(waiting);
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    let document = Document { version: 1, worst, findings };
    if options.json {
        say_json(&document)?;
    } else {
        for finding in &document.findings {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Error => "error",
            };
            say(format_args!("{level:<9}{}: {}", finding.check, finding.found))?;
            if finding.level != Level::Ok {
                say(format_args!("         why: {}", finding.why))?;
            }
            if let Some(fix) = &finding.fix {
                say(format_args!("         fix: {fix}"))?;
            }
        }
    }
    Ok(match document.worst {
        Level::Ok => ExitCode::SUCCESS,
        Level::Warning => ExitCode::from(WARNINGS),
        Level::Error => ExitCode::from(ERRORS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::assert_help_names;

    #[test]
    fn help_names_every_field() {
        let finding = Finding {
            check: "kernel",
            level: Level::Ok,
            found: String::new(),
            why: "",
            fix: Some("x".into()),
        };
        assert_help_names(JSON_HELP, &Document { version: 1, worst: Level::Ok, findings: vec![finding] });
    }
}
