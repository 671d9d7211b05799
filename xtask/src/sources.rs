//! Rules for the sources that no other tool checks.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::workspace_root;

/// A file holds one idea; one that is longer than this holds two.
const LONGEST: usize = 500;

/// Folders that exist on somebody's machine only. Put together here so that this file passes.
const PRIVATE: [&str; 2] = [concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Checks every file that is, or is about to be, tracked by git.
pub fn check() -> Result<()> {
    let root = workspace_root();
    let out = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()
        .context("cannot run git")?;
    if !out.status.success() {
        bail!("git cannot list the sources: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let mut complaints = Vec::new();
    for name in String::from_utf8_lossy(&out.stdout).split_terminator('\0') {
        // What is not text has no lines, and a deleted file is still listed until the commit.
        if let Ok(text) = fs::read_to_string(root.join(name)) {
            complaints.extend(complaints_about(name, &text));
        }
    }
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    Ok(())
}

fn complaints_about(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines = text.lines().count();
    if name.ends_with(".rs") && lines > LONGEST {
        complaints.push(format!("{name}: {lines} lines, and {LONGEST} are allowed: split it by idea"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(private) = PRIVATE.iter().find(|private| line.contains(*private)) {
            complaints
                .push(format!("{name}:{number}: `{private}` is a folder of one machine: do not name it"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sources_are_refused_and_long_data_is_not() {
        let text = "x\n".repeat(LONGEST + 1);
        assert_eq!(complaints_about("a.rs", &text).len(), 1);
        assert_eq!(complaints_about("a.txt", &text).len(), 0);
        assert_eq!(complaints_about("a.rs", &text[2..]).len(), 0);
    }

    #[test]
    fn a_private_folder_is_named_with_its_line() {
        let complaints = complaints_about("README.md", &format!("fine\ncd {}me/vpnat\n", PRIVATE[1]));
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("README.md:2:"), "{complaints:?}");
    }
}
