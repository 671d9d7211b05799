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

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    /// Every call of this program in a page: lines of code, and what stands between backticks, where it may only be named.
    fn calls(page: &str) -> impl Iterator<Item = (&str, bool)> {
        let spans = page.split('`').skip(1).step_by(2).filter(|span| !span.contains('\n'));
        // Behind what it says to the environment.
        let spans = spans.filter_map(|span| span.find("cargo xtask ").map(|start| &span[start..]));
        let lines = page.lines().map(str::trim_start);
        let code =
            lines.map(|line| line.split(" # ").next().unwrap_or(line)).filter(|line| !line.contains('`'));
        let all = spans.map(|span| (span, true)).chain(code.map(|line| (line, false)));
        all.filter(|(text, _)| text.starts_with("cargo xtask "))
    }

    #[test]
    fn every_call_in_the_documentation_is_understood() {
        let root = xtask::workspace_root();
        let docs = package::files_below(&root.join("docs")).unwrap();
        let docs = docs.iter().map(|file| root.join("docs").join(file.strip_prefix("/").unwrap()));
        let top = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
        let pages = docs.chain(top).filter(|path| path.extension().is_some_and(|ending| ending == "md"));
        let mut found = 0;
        for page in pages {
            let text = std::fs::read_to_string(&page).unwrap();
            for (call, named) in calls(&text) {
                let words = call.split_whitespace().skip(1);
                match Cli::try_parse_from(words) {
                    Err(error) if !(named && error.kind() == ErrorKind::MissingRequiredArgument) => {
                        panic!("{}: `{call}`: {error}", page.display());
                    }
                    _ => found += 1,
                }
            }
        }
        assert!(found > 25, "only {found}");
    }
}
