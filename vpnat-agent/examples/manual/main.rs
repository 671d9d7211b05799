//! Writes the manual: of `vpnat` as its command line describes itself, a man page for each verb and completions for bash, zsh and
//! fish; of the configuration as its catalog has it, vpnat.toml(5).
//!
//!     cargo run --example manual -- DIRECTORY

mod configuration;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap_complete::Shell;
use roff::{Roff, bold, roman};

fn main() -> Result<()> {
    let dir: PathBuf = std::env::args_os().nth(1).context("usage: manual DIRECTORY")?.into();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut command = vpnat_agent::cli::command();
    clap_mangen::generate_to(command.clone(), &dir)?;
    let verbs: Vec<PathBuf> = fs::read_dir(&dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    for page in verbs.iter().filter(|path| path.extension().is_some_and(|ending| ending == "1")) {
        finish_verb(page)?;
    }
    let page = dir.join(format!("{}.5", configuration::NAME));
    fs::write(page, titled(&configuration::page().render(), configuration::NAME, 5))?;
    for (shell, ending) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, "vpnat", &mut text);
        fs::write(dir.join(format!("vpnat.{ending}")), text)?;
    }
    Ok(())
}

/// A verb's page with a title of its own, and with where to read on.
fn finish_verb(path: &Path) -> Result<()> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut text = titled(&fs::read_to_string(path)?, &name, 1);
    let others = [("vpnat", 1), (configuration::NAME, 5)];
    text += &see_also(others.into_iter().filter(|(other, _)| *other != name)).to_roff();
    Ok(fs::write(path, text)?)
}

/// The page with its name, its section, no date, and which program it is about: a crate writes an empty date as none at all.
fn titled(text: &str, name: &str, section: u8) -> String {
    let title =
        format!(".TH \"{name}\" \"{section}\" \"\" \"vpnat {}\" \"vpnat\"", env!("CARGO_PKG_VERSION"));
    let lines = text.lines().map(|line| if line.starts_with(".TH ") { &title } else { line.trim_end() });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Other pages.
fn see_also<'a>(pages: impl Iterator<Item = (&'a str, u8)>) -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["SEE ALSO"]);
    let mut words = Vec::new();
    for (name, number) in pages {
        words.extend((!words.is_empty()).then(|| roman(", ")));
        words.extend([bold(name), roman(format!("({number})"))]);
    }
    section.text(words);
    section
}
