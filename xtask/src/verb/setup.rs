//! `setup`: installs what is missing, and says what before it does.

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail};
use xtask::bpf::{self, NoToolchain, Target, Toolchain, linker, toolchain};
use xtask::lookup;

use super::lint::bpf_clippy;
use crate::apt::{self, Apt};
use crate::needs::{self, Need};
use crate::run::{self, output};

/// Packages of Debian's compiler with a `core` for BPF.
const COMPILER_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Install what building, linting, tests and the demo need.
#[derive(clap::Args)]
pub struct Args {
    /// Install nothing, only say what is missing
    #[arg(long)]
    check: bool,
}

/// What a set-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Compiling the programs and the agent.
    Build,
    /// Checking the sources.
    Lint,
    /// Running tests and the demo in namespaces.
    Lab,
    /// Running the documentation's commands.
    Pages,
    /// Making packages and trying them.
    Package,
}

const EVERYTHING: [Scope; 5] = [Scope::Build, Scope::Lint, Scope::Lab, Scope::Pages, Scope::Package];

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.check {
        return Ok(report());
    }
    ensure(&EVERYTHING)?;
    let missing = needs::missing(needs_of(&EVERYTHING), Need::is_met);
    if !missing.is_empty() {
        let list: Vec<_> = missing.iter().map(|need| listed(need)).collect();
        bail!("still missing:\n{}", list.join("\n"));
    }
    println!("setup: everything needed is there");
    Ok(ExitCode::SUCCESS)
}

/// Installs what the given scopes lack. Quiet and quick if that is nothing.
pub fn ensure(scopes: &[Scope]) -> Result<()> {
    let mut apt = Apt::default();
    ensure_packages(scopes, &mut apt)?;
    if scopes.contains(&Scope::Lint) {
        ensure_host_lints()?;
    }
    let toolchain = ensure_toolchain(&mut apt)?;
    if scopes.contains(&Scope::Lint) {
        try_bpf_clippy(&toolchain, &mut apt);
    }
    Ok(())
}

fn needs_of(scopes: &[Scope]) -> impl Iterator<Item = &'static Need> {
    let lab = if scopes.contains(&Scope::Lab) { needs::LAB } else { &[] };
    let pages = if scopes.contains(&Scope::Pages) { needs::PAGES } else { &[] };
    let package = if scopes.contains(&Scope::Package) { needs::PACKAGE } else { &[] };
    needs::BUILD.iter().chain(lab).chain(pages).chain(package)
}

fn ensure_packages(scopes: &[Scope], apt: &mut Apt) -> Result<()> {
    let missing = needs::missing(needs_of(scopes), Need::is_met);
    if missing.is_empty() {
        return Ok(());
    }
    if !apt::available() {
        let list: Vec<_> = missing.iter().map(|need| listed(need)).collect();
        bail!(
            "this machine has no apt, so install these by its own means and try again:\n{}",
            list.join("\n")
        );
    }
    let mut packages = needs::packages(&missing);
    // Not every descendant of Debian has a cloud's tools. Without one its own tests fail, and say so; the others need not.
    for need in missing.iter().filter(|need| needs::PAGES.contains(need)) {
        if apt.candidate(need.package)?.is_none() {
            eprintln!("setup: apt knows no package {}: install {} by other means", need.package, need.what);
            packages.retain(|package| *package != need.package);
        }
    }
    if packages.is_empty() { Ok(()) } else { apt.install(&packages) }
}

fn listed(need: &Need) -> String {
    format!("  {} (for {}; Debian's package is {})", need.what, need.purpose, need.package)
}

/// Finds the toolchain for the BPF programs, or makes one.
fn ensure_toolchain(apt: &mut Apt) -> Result<Toolchain> {
    let target = Target::host();
    let missing = match bpf::find(&target) {
        Ok(toolchain) => return Ok(toolchain),
        Err(missing) => missing,
    };
    // A compiler that the user has named is not to be replaced by another one.
    let named = env::var_os(toolchain::RUSTC_ENV).is_some();
    if !missing.compilers.is_empty() && !named {
        install_compiler(&missing, apt)?;
    }
    if missing.linker.is_some() && env::var_os(linker::LINKER_ENV).is_none() {
        println!("setup: installing bpf-linker with cargo (a minute or two)");
        let mut words = linker::INSTALL.split_whitespace();
        words.next();
        // Its own build folder: nothing in it is of use to anybody later.
        run::run(run::cargo(&words.collect::<Vec<_>>()).env_remove("CARGO_TARGET_DIR"))?;
    }
    Ok(bpf::find(&target)?)
}

/// Debian's packages first: they are small, signed, and do not change from night to night.
fn install_compiler(missing: &NoToolchain, apt: &mut Apt) -> Result<()> {
    if apt::available() {
        let [_, core] = COMPILER_PACKAGES;
        match apt.candidate(core)? {
            Some(version) if toolchain::is_recent(&version) => match apt.install(&COMPILER_PACKAGES) {
                Ok(()) => return Ok(()),
                Err(error) => eprintln!("setup: {error:#}; trying rustup"),
            },
            Some(version) => {
                eprintln!("setup: apt offers {core} {version} only, which is too old; trying rustup")
            }
            None => eprintln!("setup: apt knows no package {core}; trying rustup"),
        }
    }
    let Some(rustup) = lookup::command("rustup") else { bail!("{missing}") };
    println!("setup: installing a nightly toolchain with the sources of `core`, with rustup");
    let install = ["toolchain", "install", "nightly", "--component", "rust-src", "--profile", "minimal"];
    run::run(std::process::Command::new(rustup).args(install))
}

/// Formatter and clippy of the toolchain that builds the agent.
fn ensure_host_lints() -> Result<()> {
    for (verb, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if has_cargo_verb(verb) {
            continue;
        }
        let Some(rustup) = lookup::command("rustup") else {
            bail!(
                "`cargo {verb}` does not work, and there is no rustup to install {component} with: install it"
            );
        };
        println!("setup: installing {component} with rustup");
        run::run(std::process::Command::new(rustup).args(["component", "add", component]))?;
    }
    Ok(())
}

fn has_cargo_verb(verb: &str) -> bool {
    run::cargo(&[verb, "--version"]).output().is_ok_and(|out| out.status.success())
}

/// Clippy of the BPF toolchain is welcome, but `lint` does without.
fn try_bpf_clippy(toolchain: &Toolchain, apt: &mut Apt) {
    if bpf_clippy(toolchain).is_ok() {
        return;
    }
    let rustup = lookup::command("rustup");
    let installed = if toolchain.sysroot.as_os_str() == "/usr" {
        // Only beside Debian's own compiler; it is linked to that one's library.
        let ours = output("dpkg-query", &["--show", COMPILER_PACKAGES[1]]).is_some();
        if ours { apt.install(&["rust-web-clippy"]) } else { Ok(()) }
    } else if let Some(rustup) = rustup.filter(|_| env::var_os(toolchain::RUSTC_ENV).is_none()) {
        println!("setup: installing clippy for the nightly toolchain, with rustup");
        run::run(std::process::Command::new(rustup).args([
            "component",
            "add",
            "clippy",
            "--toolchain",
            "nightly",
        ]))
    } else {
        Ok(())
    };
    if let Err(error) = installed {
        eprintln!("setup: {error:#}; the BPF programs are linted for this machine's CPU instead");
    }
}

fn report() -> ExitCode {
    let mut complete = true;
    for need in needs_of(&EVERYTHING) {
        if need.is_met() {
            println!("present  {}", need.what);
        } else {
            complete = false;
            println!("MISSING  {}", listed(need).trim_start());
        }
    }
    for (verb, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let present = has_cargo_verb(verb);
        complete &= present;
        println!("{}  {component}", if present { "present" } else { "MISSING" });
    }
    match bpf::find(&Target::host()) {
        Ok(toolchain) => {
            println!("present  rustc {} for BPF ({})", toolchain.release, toolchain.rustc.display());
            println!(
                "present  bpf-linker ({}, with {})",
                toolchain.linker.display(),
                toolchain.llvm.display()
            );
            match bpf_clippy(&toolchain) {
                Ok(path) => println!("present  clippy for BPF ({})", path.display()),
                Err(reason) => println!("optional clippy for BPF: {reason}"),
            }
        }
        Err(missing) => {
            complete = false;
            println!("MISSING  a BPF toolchain\n{missing}");
        }
    }
    if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_needs_nothing_of_the_lab() {
        let what = |scopes: &[Scope]| needs_of(scopes).map(|need| need.what).collect::<Vec<_>>();
        assert!(!what(&[Scope::Build]).contains(&"swanctl"));
        assert!(what(&[Scope::Build, Scope::Lab]).contains(&"swanctl"));
        // The demo has no use for a cloud's tools.
        assert!(!what(&[Scope::Build, Scope::Lab]).contains(&"aws"));
        assert!(what(&[Scope::Build, Scope::Lab, Scope::Pages]).contains(&"aws"));
    }
}
