//! Where a program lies, without asking a shell.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Folders of system programs, which an ordinary user's `PATH` often lacks.
const SYSTEM_DIRS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];

/// The first executable called `name` on `PATH`, in cargo's own folder or among the system programs.
pub fn command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin())
        .chain(SYSTEM_DIRS.into_iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo"))).map(|dir| dir.join("bin"))
}

/// Whether `file` is a regular file that somebody may execute.
pub fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_shell_and_no_nonsense() {
        assert!(command("sh").is_some_and(|sh| sh.is_absolute()));
        assert_eq!(command("no-such-program-anywhere"), None);
    }

    #[test]
    fn a_folder_is_not_a_program() {
        assert!(!is_executable(Path::new("/usr")));
    }
}
