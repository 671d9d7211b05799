//! `bpf-linker`, and the LLVM library that it loads.
//!
//! The linker has no LLVM of its own: it opens the first `libLLVM*` that it meets on
//! `LD_LIBRARY_PATH`, and reads bitcode that rustc wrote with *its* LLVM. Folders often hold
//! several versions, so the one of rustc's major version is looked up here and later offered alone.

use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lookup;

/// The release that `setup` installs, and the oldest one known to work.
pub const VERSION: (u32, u32, u32) = (0, 10, 3);

/// Set this to use a `bpf-linker` from another place.
pub const LINKER_ENV: &str = "VPNAT_BPF_LINKER";

/// Command that installs the linker.
pub const INSTALL: &str = "cargo install bpf-linker --version 0.10.3 --locked";

/// The `bpf-linker` to use, or why there is none.
pub fn find() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(LINKER_ENV).map(PathBuf::from) {
        return recent_enough(path).map_err(|reason| format!("{LINKER_ENV}: {reason}"));
    }
    recent_enough(lookup::command("bpf-linker").ok_or("bpf-linker: not found on PATH")?)
}

fn recent_enough(path: PathBuf) -> Result<PathBuf, String> {
    let shown = path.display();
    let out = Command::new(&path)
        .arg("--version")
        .output()
        .map_err(|error| format!("{shown}: cannot be run: {error}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let Some(version) = text.split_whitespace().find_map(parse_version) else {
        return Err(format!("{shown}: `--version` says no version, but {:?}", text.trim()));
    };
    if version < VERSION {
        let ((a, b, c), (x, y, z)) = (version, VERSION);
        return Err(format!("{shown}: version {a}.{b}.{c} is older than {x}.{y}.{z}"));
    }
    Ok(path)
}

/// `1.96.0` or `1.97.0-nightly` as numbers that compare.
pub(super) fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let release = text.split(['-', '+']).next()?;
    let mut parts = release.split('.').map(|part| part.parse().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    Some((major, minor, parts.next().unwrap_or(Some(0))?))
}

/// The LLVM library of major version `major` that belongs to the compiler at `sysroot`.
pub fn find_llvm(sysroot: &Path, major: u32) -> Result<PathBuf, String> {
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    let dirs = [
        sysroot.join("lib"),
        sysroot.join("lib64"),
        sysroot.join(multiarch),
        PathBuf::from(format!("/usr/lib/llvm-{major}/lib")),
    ];
    dirs.iter().find_map(|dir| llvm_in(dir, major)).ok_or_else(|| {
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        format!("no libLLVM of version {major} for bpf-linker to load in {}", dirs.join(", "))
    })
}

fn llvm_in(dir: &Path, major: u32) -> Option<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| llvm_major(path) == Some(major) && is_elf(path))
        .collect();
    // The order of a folder is arbitrary; two names of one library are not a reason to differ.
    files.sort();
    files.into_iter().next()
}

/// Major version in a name such as `libLLVM.so.22.1`, `libLLVM-22.so` or `libLLVM.so.22.1-rust-1.95.0-stable`.
fn llvm_major(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let rest = name.strip_prefix("libLLVM.so.").or_else(|| name.strip_prefix("libLLVM-"))?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Rust's own toolchains ship a linker script under the name of a library, too.
fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::toolchain::testing::Folder;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse_version("0.10.3"), Some((0, 10, 3)));
        assert_eq!(parse_version("1.97.0-nightly"), Some((1, 97, 0)));
        assert_eq!(parse_version("1.96"), Some((1, 96, 0)));
        assert_eq!(parse_version("bpf-linker"), None);
        assert!(parse_version("0.9.15") < parse_version("0.10.3"));
    }

    #[test]
    fn names_of_llvm_libraries() {
        let major = |name: &str| llvm_major(Path::new(name));
        assert_eq!(major("libLLVM.so.22.1"), Some(22));
        assert_eq!(major("libLLVM-22.so"), Some(22));
        assert_eq!(major("libLLVM.so.22.1-rust-1.95.0-stable"), Some(22));
        assert_eq!(major("libLLVM-14.0.6.so.1"), Some(14));
        assert_eq!(major("libLLVMSupport.a"), None);
    }

    #[test]
    fn takes_the_library_of_the_right_version_only() {
        let sysroot = Folder::new("llvm");
        sysroot.write("lib/libLLVM-14.so.1", b"\x7fELF 14");
        sysroot.write("lib/libLLVM-922-rust-stable.so", b"INPUT(libLLVM.so.922.1)");
        sysroot.write("lib/libLLVM.so.922.1-rust-stable", b"\x7fELF 922");
        let found = find_llvm(sysroot.path(), 922);
        assert_eq!(found, Ok(sysroot.path().join("lib/libLLVM.so.922.1-rust-stable")));
        let missing = find_llvm(sysroot.path(), 923);
        assert!(missing.is_err_and(|reason| reason.contains("no libLLVM of version 923")));
    }
}
