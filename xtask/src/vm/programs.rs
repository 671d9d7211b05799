//! What guests run: the agent and the tests, linked statically so that they need nothing of the guest.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use xtask::bpf::{self, Target};
use xtask::workspace_root;

use super::image::Brought;
use super::lab_core;
use super::tier::Tier;
use crate::run;

/// Guests are of this kind only.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Cargo's profile for what runs on the guest's processor, which is emulated and built for in a hurry; the BPF programs
/// have their own in every build.
const PROFILE: &str = "guest";

/// Names of the programs in the guest.
pub const OBJECT: &str = "vpnat-ebpf.o";
/// The agent.
pub const AGENT: &str = "vpnat";
/// An agent of another layout, for the tests of taking flows over.
pub const NEXT_AGENT: &str = "vpnat-next";
/// The tests of single packets.
pub const BPF: &str = "bpf";
/// The tests of whole paths.
pub const LAB: &str = "lab";

/// Builds what the tiers run.
pub fn build(tiers: &[Tier]) -> Result<Vec<Brought>> {
    let mut brought = Vec::new();
    for tier in tiers {
        match tier {
            Tier::Load => brought.push(object()?),
            Tier::Bpf => brought.push(test(BPF)?),
            Tier::Lab => brought.extend([
                agent(AGENT, &[])?,
                agent(NEXT_AGENT, &["--features", "layout-next"])?,
                lab()?,
            ]),
        }
    }
    Ok(brought)
}

fn object() -> Result<Brought> {
    let object =
        bpf::build(&bpf::find(&Target::host())?, &workspace_root(), &run::target_dir().join("bpf"), &[])?;
    Ok(Brought { name: OBJECT, file: object.path })
}

/// The agent, moved away from where cargo would put another one.
fn agent(name: &'static str, features: &[&str]) -> Result<Brought> {
    let args = ["build", "--profile", PROFILE, "--package", "vpnat-agent", "--bin", AGENT];
    let built = cargo(&[&args[..], features].concat(), AGENT)?;
    let file = run::target_dir().join("vm").join(name);
    fs::copy(&built.file, &file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(Brought { name, file })
}

/// The tests of the lab. Each that the core names has to be there: a name that matches nothing would run nothing.
fn lab() -> Result<Brought> {
    let lab = test(LAB)?;
    let listed =
        run::output(&lab.file.to_string_lossy(), &["--list"]).context("the lab does not list its tests")?;
    let there: Vec<_> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let gone: Vec<_> = lab_core::names().into_iter().filter(|name| !there.contains(&name.as_str())).collect();
    if !gone.is_empty() {
        bail!("the core of the lab names tests that there are not: {}", gone.join(", "));
    }
    Ok(lab)
}

fn test(name: &'static str) -> Result<Brought> {
    cargo(&["test", "--no-run", "--profile", PROFILE, "--package", "tests", "--test", name], name)
}

fn cargo(args: &[&str], name: &'static str) -> Result<Brought> {
    let mut command = run::cargo_with_bpf(args);
    command
        .args(["--target", TARGET, "--message-format", "json-render-diagnostics"])
        // Of the guest's programs only: with a target named, cargo builds its own helpers without it.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    eprintln!("$ {}", run::shown(&command));
    let messages = stdout_of(&mut command)?;
    Ok(Brought { name, file: executable(&messages, name)? })
}

fn stdout_of(command: &mut Command) -> Result<String> {
    let out = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !out.status.success() {
        bail!("the programs for the guests do not build (see the messages above)");
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The file that cargo reports for the target called `name`.
fn executable(messages: &str, name: &str) -> Result<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut files = messages.filter_map(|message| {
        let named = message["target"]["name"] == name;
        message["executable"].as_str().filter(|_| named).map(PathBuf::from)
    });
    files.next().with_context(|| format!("cargo built no program called {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_by_their_targets() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"lab\"},\"executable\":\"/t/lab-1\"}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"bpf\"},\"executable\":null}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages, "lab").expect("a program"), PathBuf::from("/t/lab-1"));
        assert!(executable(messages, "bpf").is_err());
    }
}
