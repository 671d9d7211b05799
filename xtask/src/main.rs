//! `cargo xtask`: set-up, build, lints, tests and the demo of vpnat, one file per verb.

mod apt;
mod needs;
mod package;
mod results;
mod run;
mod sources;
mod verb;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, build, lints, tests and the demo of vpnat.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Setup(verb::setup::Args),
    Build(verb::build::Args),
    Lint(verb::lint::Args),
    Test(verb::test::Args),
    Chaos(verb::chaos::Args),
    Demo(verb::demo::Args),
    Vm(verb::vm::Args),
    Bench(verb::bench::Args),
    Package(verb::package::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup(args) => verb::setup::run(&args),
        Verb::Build(args) => verb::build::run(&args),
        Verb::Lint(args) => verb::lint::run(&args),
        Verb::Test(args) => verb::test::run(&args),
        Verb::Chaos(args) => verb::chaos::run(&args),
        Verb::Demo(args) => verb::demo::run(&args),
        Verb::Vm(args) => verb::vm::run(&args),
        Verb::Bench(args) => verb::bench::run(&args),
        Verb::Package(args) => verb::package::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
