//! The command line, one file per verb.

mod check;
mod detach;
mod doctor;
mod explain;
mod flows;
mod guard;
mod reference;
mod reload;
mod run;
mod status;
mod top;
mod trace;
mod who;

use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::config::{Config, DEFAULT_PIN_ROOT, DEFAULT_RUN_DIR};
use crate::datapath::pins::Pins;

/// Where the configuration lies unless it is named.
const DEFAULT_CONFIG: &str = "/etc/vpnat/vpnat.toml";

/// What is said about exit statuses in `--help`.
const EXIT_STATUSES: &str = "Exit status:
  0  done; for `check` and `status`: all is well
  1  an error, said on standard error as `vpnat: error: what: where: what to do`
  2  the command line is wrong
   3  `status`: vpnat is pinned but not in order (agent not running, or hooks missing);
      `doctor`: there are warnings
   4  `doctor`: something is broken; `who`: nobody had that address and port then";

/// The JSON of the verbs that print it, for the reference.
pub const JSON_SHAPES: &[(&str, &str)] = &[
    ("vpnat status --json", status::JSON_HELP),
    ("vpnat flows list --json", flows::list::JSON_HELP),
    ("vpnat flows ports --json", flows::ports::JSON_HELP),
    ("vpnat who --json", who::JSON_HELP),
    ("vpnat explain --json", explain::JSON_HELP),
    ("vpnat trace --json", trace::JSON_HELP),
];

/// Source NAT in the kernel: pods reach a vendor through one address, or not at all.
#[derive(Debug, Parser)]
#[command(name = "vpnat", version, after_help = EXIT_STATUSES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Load and attach the datapath, and look after it until SIGTERM. The datapath stays when this ends.
    Run(run::Options),
    /// Close the vendors' prefixes before networking is up, until `run` is ready. Ends at once; what it did stays.
    Guard(guard::Options),
    /// Have the running agent read its configuration again: all of it or nothing.
    Reload(reload::Options),
    /// Check everything that can be checked without changing anything.
    Check(check::Options),
    /// Show what is loaded, attached and counted. Works while the agent is down.
    Status(status::Options),
    /// Show vendors, pods, flows and drops as they are now, on a terminal. Works while the agent is down.
    Top(top::Options),
    /// List flows, end them, or see how far ports are used up. Works while the agent is down.
    #[command(subcommand)]
    Flows(flows::Verb),
    /// Say what would happen to a packet, and why. Runs the datapath's own code and changes nothing.
    Explain(explain::Options),
    /// Show decisions about packets as they are made: before and after, verdict and reason. Costs nothing while nobody asks.
    Trace(trace::Options),
    /// Look for what on this machine stands in the way of translation, and say what mends it. Changes nothing.
    Doctor(doctor::Options),
    /// Say which pod was behind an address and port that a vendor saw, from the flow log and the flow table.
    Who(who::Options),
    /// Write the pages of the reference that are made from the code.
    #[command(hide = true)]
    Reference(reference::Options),
    /// Remove every program, link, filter and pin of vpnat. All flows end.
    Detach(detach::Options),
}

/// Where the pins are.
#[derive(Debug, Args)]
struct PinOptions {
    /// Directory of the pins.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "config")]
    pin_dir: Option<PathBuf>,
    /// Configuration that names the directory of the pins.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl PinOptions {
    /// Where the agent with these pins keeps its control socket.
    fn run_dir(&self) -> anyhow::Result<PathBuf> {
        Ok(match &self.config {
            Some(file) => Config::load(file)?.run_dir,
            None => DEFAULT_RUN_DIR.into(),
        })
    }

    fn pins(&self) -> anyhow::Result<Pins> {
        Ok(Pins::new(match (&self.pin_dir, &self.config) {
            (Some(directory), _) => directory.clone(),
            (None, Some(file)) => Config::load(file)?.pin_root,
            (None, None) => DEFAULT_PIN_ROOT.into(),
        }))
    }
}

/// The command line as it describes itself: what man pages and completions are made from.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        Verb::Run(options) => {
            start_logging();
            run::run(&options)
        }
        Verb::Guard(options) => {
            start_logging();
            guard::run(&options)
        }
        Verb::Reload(options) => reload::run(&options),
        Verb::Check(options) => check::run(&options),
        Verb::Status(options) => status::run(&options),
        Verb::Top(options) => top::run(&options),
        Verb::Flows(verb) => flows::run(&verb),
        Verb::Explain(options) => explain::run(&options),
        Verb::Trace(options) => trace::run(&options),
        Verb::Doctor(options) => doctor::run(&options),
        Verb::Who(options) => who::run(&options),
        Verb::Reference(options) => reference::run(&options),
        Verb::Detach(options) => detach::run(&options),
    };
    result.unwrap_or_else(|error| {
        // A reader that closed its end has seen what it wanted.
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
        {
            return ExitCode::SUCCESS;
        }
        for line in complaints(&error) {
            eprintln!("vpnat: error: {line}");
        }
        ExitCode::FAILURE
    })
}

/// One line for each thing that is wrong with a configuration; other errors are one.
fn complaints(error: &anyhow::Error) -> Vec<String> {
    match error.downcast_ref::<crate::config::ConfigError>() {
        Some(crate::config::ConfigError::Wrong(all)) => all.iter().map(ToString::to_string).collect(),
        _ => vec![error.to_string()],
    }
}

fn start_logging() {
    let environment = env_logger::Env::new().filter_or("VPNAT_LOG", "info");
    let mut builder = env_logger::Builder::from_env(environment);
    if !std::io::stderr().is_terminal() {
        builder.format(|out, record| writeln!(out, "vpnat: {}: {}", level(record.level()), record.args()));
    }
    builder.init();
}

fn level(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "error",
        log::Level::Warn => "warning",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    }
}

/// The JSON of a reading verb: its outermost object, on one line per field.
fn say_json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    // A closed reader must stay recognisable as such.
    serde_json::to_writer_pretty(&mut out, document).map_err(std::io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

/// How wide the columns of `lines` are.
fn column_widths<const N: usize>(lines: &[[String; N]]) -> Vec<usize> {
    (0..N).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0)).collect()
}

/// Writes a line in columns.
fn write_columns<const N: usize>(
    out: &mut impl std::io::Write,
    line: &[String; N],
    widths: &[usize],
) -> std::io::Result<()> {
    let cells: Vec<String> =
        line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
    writeln!(out, "{}", cells.join("  ").trim_end())
}

/// Writes lines in columns to standard output.
fn columns<const N: usize>(lines: &[[String; N]]) -> std::io::Result<()> {
    let widths = column_widths(lines);
    let mut out = BufWriter::new(std::io::stdout().lock());
    lines.iter().try_for_each(|line| write_columns(&mut out, line, &widths))?;
    out.flush()
}

/// Writes a line to standard output.
fn say(line: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// Every key of `document`'s JSON stands in `help` as a word.
    pub(crate) fn assert_help_names(help: &str, document: &impl Serialize) {
        fn visit(help: &[&str], value: &serde_json::Value) {
            match value {
                serde_json::Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                    assert!(help.contains(&key.as_str()), "the help does not name `{key}`");
                    visit(help, value);
                }),
                serde_json::Value::Array(items) => items.iter().for_each(|item| visit(help, item)),
                _ => {}
            }
        }
        let words: Vec<&str> = help.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).collect();
        visit(&words, &serde_json::to_value(document).unwrap());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_says_the_exit_statuses() {
        assert!(Cli::command().render_help().to_string().contains("Exit status:"));
    }
}
