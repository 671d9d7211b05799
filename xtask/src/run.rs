//! Commands: how they are shown, made and given root's rights.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::bpf::embed::REQUIRE_ENV;
use xtask::{lookup, workspace_root};

/// Shows a command, runs it, and makes a failure of it an error.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", shown(command));
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run `{program}`"))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// What a command prints, if it can be run and succeeds.
pub fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or(&program).to_owned();
    let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}

/// Cargo, at the root of the workspace.
///
/// `cargo run` has described this program in the environment; a cargo below it, and what it
/// builds, would take that for a description of itself.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if name.to_str().is_some_and(|name| own.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command.current_dir(workspace_root()).env("CARGO_TARGET_DIR", target_dir()).args(args);
    command
}

/// Cargo for builds that are of no use without the BPF programs.
pub fn cargo_with_bpf(args: &[&str]) -> Command {
    let mut command = cargo(args);
    command.env(REQUIRE_ENV, "1");
    command
}

/// The folder that cargo builds into: this program has been built there too.
pub fn target_dir() -> PathBuf {
    if let Some(dir) = env::var_os("CARGO_TARGET_DIR") {
        return env::current_dir().unwrap_or_default().join(dir);
    }
    // `<target>/<profile>/xtask`
    let own = env::current_exe().ok();
    let own = own.as_deref().and_then(|exe| exe.parent()?.parent());
    own.map_or_else(|| workspace_root().join("target"), PathBuf::from)
}

/// The agent, as `build` makes it.
pub fn agent_binary() -> PathBuf {
    target_dir().join("release/vpnat")
}

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    // The owner of a process's folder is its effective user.
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// What has to stand before a command to run it as root: nothing, or `sudo` that keeps the environment.
pub fn root_prefix() -> Result<Vec<String>> {
    if is_root() {
        return Ok(Vec::new());
    }
    match lookup::command("sudo") {
        Some(sudo) => Ok(vec![sudo.display().to_string(), "-E".to_owned()]),
        None => bail!("this needs root, and there is no sudo: run `cargo xtask` as root"),
    }
}

/// A command that runs as root.
pub fn as_root(program: impl Into<String>) -> Result<Command> {
    let mut words = root_prefix()?;
    words.push(program.into());
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("/usr/bin/apt-get");
        command.args(["install", "-y"]);
        assert_eq!(shown(&command), "apt-get install -y");
    }

    #[test]
    fn the_agent_lies_in_the_release_folder() {
        assert!(agent_binary().ends_with("release/vpnat") && agent_binary().is_absolute());
    }
}
