//! `vpnat reload`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{say, say_json};
use crate::config::Config;
use crate::control::{self, Answer, Request};
use crate::waiting::Waiting;

/// The shape of the JSON. A test compares it with what is printed.
const JSON_HELP: &str =
    "Print JSON. Fields are added over time; `version` is raised when one is renamed or removed.

{ version, applied, file, changes: [text], notes: [text], errors: [text] }

`applied`: the running agent works by the file now. `changes`: what changes from what was there before.";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Configuration file; the agent reads the one that it was started with.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Open the prefixes that stay closed since their vendor was removed: whatever the routes say goes there again, untranslated.
    #[arg(long)]
    open_removed: bool,
    /// Print JSON; its shape is in --help.
    #[arg(long, long_help = JSON_HELP)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    version: u32,
    applied: bool,
    #[serde(flatten)]
    answer: Answer,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    // A file that is wrong is told from here, agent or not: nobody gets to apply it.
    let config = Config::load(&options.config)?;
    let request = Request { dry_run: options.dry_run, open_removed: options.open_removed };
    let waiting = Waiting::of("the agent reads its configuration");
    let answer = control::call(&config.run_dir, &request)?;
    drop(waiting);
    let good = answer.errors.is_empty();
    if options.json {
        say_json(&Document { version: 1, applied: good && !options.dry_run, answer })?;
        return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if answer.file.canonicalize().ok() != options.config.canonicalize().ok() {
        say(format_args!("note: the agent was started with {}, and reads that", answer.file.display()))?;
    }
    for line in answer.changes.iter().chain(&answer.notes) {
        say(line)?;
    }
    if !good {
        for error in &answer.errors {
            eprintln!("vpnat: error: {error}");
        }
        eprintln!("vpnat: nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    say(match (options.dry_run, answer.changes.is_empty()) {
        (true, _) => "nothing was changed (--dry-run)",
        (false, true) => "reloaded: nothing has changed in the file",
        (false, false) => "reloaded",
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::assert_help_names;

    #[test]
    fn help_names_every_field() {
        assert_help_names(JSON_HELP, &Document { version: 1, applied: true, answer: Answer::default() });
    }
}
