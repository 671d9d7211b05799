//! Runs cargo and `bpf-linker` on the package of the BPF programs.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::inspect::{self, Summary};
use super::toolchain::{Core, Toolchain};

/// The package, which is also the name of its binary.
pub const PACKAGE: &str = "vpnat-ebpf";

/// A built object that has passed [`inspect`].
#[derive(Debug)]
pub struct Object {
    /// The ELF file.
    pub path: PathBuf,
    /// What it contains.
    pub summary: Summary,
}

/// Variables that say how *another* build is to be done: the one that this code may be running
/// in as a build script, or the user's ordinary ones. None of them is meant for the BPF target.
const FOREIGN: [&str; 12] = [
    "RUSTFLAGS",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTUP_TOOLCHAIN",
    "CARGO_INCREMENTAL",
    "CARGO_CRATE_NAME",
    "CARGO_BIN_NAME",
    "CARGO_PRIMARY_PACKAGE",
    "TARGET",
    "HOST",
    "OUT_DIR",
    "PROFILE",
];

/// Like [`FOREIGN`], families of them. Those on registries, network and jobs stay.
const FOREIGN_PREFIXES: [&str; 7] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_FEATURE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
];

/// Builds the programs of the workspace at `root`, with `features` of their package, and checks the object.
///
/// Everything is written below `target_dir`, which must not be the folder of a build that waits
/// for this one: both would want its lock.
pub fn build(toolchain: &Toolchain, root: &Path, target_dir: &Path, features: &[&str]) -> Result<Object> {
    let mut command = cargo(toolchain, root, target_dir, "build", &[])?;
    command.args(["--bin", PACKAGE, "--features", &features.join(",")]);
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!(
            "the BPF programs do not build (see the messages above; {} from {} was used)",
            toolchain.release,
            toolchain.rustc.display()
        );
    }
    let path = target_dir.join(toolchain.target.triple()).join("bpf").join(PACKAGE);
    let data = fs::read(&path).with_context(|| format!("cannot read the BPF object {}", path.display()))?;
    let summary = inspect::inspect(&data)
        .with_context(|| format!("the BPF object {} would not load", path.display()))?;
    Ok(Object { path, summary })
}

/// A cargo call on the package for the BPF target, with nothing of the environment's own settings.
///
/// `lints` are further arguments for rustc, such as `-Dwarnings`.
pub fn cargo(
    toolchain: &Toolchain,
    root: &Path,
    target_dir: &Path,
    verb: &str,
    lints: &[&str],
) -> Result<Command> {
    let mut command = Command::new(cargo_program(toolchain));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_foreign) {
            command.env_remove(name);
        }
    }
    command
        .current_dir(root)
        .env("RUSTC", &toolchain.rustc)
        // Build-std is unstable, and so are the intrinsics that BPF atomics are made of.
        .env("RUSTC_BOOTSTRAP", "1")
        // Empty rather than absent: this also overrules wrappers set in a configuration file.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain, lints))
        .env("LD_LIBRARY_PATH", library_path(toolchain, target_dir)?)
        .args([verb, "--package", PACKAGE, "--profile", "bpf", "--target", toolchain.target.triple()])
        .arg("--target-dir")
        .arg(target_dir);
    if toolchain.core == Core::BuildStd {
        command.arg("-Zbuild-std=core");
    }
    Ok(command)
}

/// Building `core` takes the cargo that knows its sources; otherwise the one in use will do.
fn cargo_program(toolchain: &Toolchain) -> PathBuf {
    let own = toolchain.sysroot.join("bin/cargo");
    if toolchain.core == Core::BuildStd && own.is_file() {
        return own;
    }
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

fn is_foreign(name: &str) -> bool {
    FOREIGN.contains(&name) || FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn rustflags(toolchain: &Toolchain, lints: &[&str]) -> OsString {
    let target = &toolchain.target;
    // Not `allows-misaligned-mem-access`: it would make loads from packets shorter, but also accesses to the
    // stack, where the verifier refuses them.
    let mut flags: Vec<OsString> = vec![
        format!("--cfg=bpf_target_arch=\"{}\"", target.arch).into(),
        // BTF is made from the debug information: without either of these two there is none.
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // 32-bit arithmetic and jumps (Linux 5.1). Rustc hands the choice on as `--cpu`, which the
        // linker refuses to take twice, so it cannot be a link argument.
        "-Ctarget-cpu=v3".into(),
    ];
    let mut linker = OsString::from("-Clinker=");
    linker.push(&toolchain.linker);
    flags.push(linker);
    flags.extend(lints.iter().map(OsString::from));
    flags.join("\x1f".as_ref())
}

/// A search path whose first folder holds the one library that the linker shall open.
///
/// Cargo puts the folder of the *host's* toolchain on the path of build scripts, and a system
/// folder may hold several versions; neither can be left to win.
fn library_path(toolchain: &Toolchain, target_dir: &Path) -> Result<OsString> {
    let name = toolchain.llvm.file_name().context("the LLVM library has no file name")?;
    let dir = target_dir.join("llvm").join(name);
    let link = dir.join(name);
    let wanted = fs::canonicalize(&toolchain.llvm)
        .with_context(|| format!("cannot find the LLVM library {}", toolchain.llvm.display()))?;
    if fs::canonicalize(&link).ok().as_ref() != Some(&wanted) {
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        // Renaming replaces a stale link in one step, should another build be using the folder.
        let fresh = dir.join(format!(".new-{}", std::process::id()));
        std::os::unix::fs::symlink(&wanted, &fresh)
            .and_then(|()| fs::rename(&fresh, &link))
            .with_context(|| format!("cannot link {} to {}", link.display(), wanted.display()))?;
    }
    let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let inherited = env::split_paths(&inherited).filter(|dir| !dir.as_os_str().is_empty());
    env::join_paths(std::iter::once(dir.clone()).chain(inherited))
        .with_context(|| format!("{} cannot stand in LD_LIBRARY_PATH", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::target::Target;
    use crate::bpf::toolchain::testing::Folder;

    fn toolchain(folder: &Folder) -> Toolchain {
        Toolchain {
            rustc: "/opt/rust/bin/rustc".into(),
            release: "1.96.0".into(),
            sysroot: folder.path().to_path_buf(),
            core: Core::Prebuilt,
            linker: "/opt/bin/bpf-linker".into(),
            llvm: folder.path().join("lib/libLLVM.so.22.1"),
            target: Target { arch: "x86_64".into(), big_endian: false },
        }
    }

    #[test]
    fn flags_carry_btf_and_the_linker() {
        let folder = Folder::new("flags");
        let flags = rustflags(&toolchain(&folder), &["-Dwarnings"]).into_string().expect("plain text");
        let flags: Vec<_> = flags.split('\x1f').collect();
        for flag in [
            "--cfg=bpf_target_arch=\"x86_64\"",
            "-Cdebuginfo=2",
            "-Clink-arg=--btf",
            "-Clinker=/opt/bin/bpf-linker",
            "-Dwarnings",
        ] {
            assert!(flags.contains(&flag), "{flag} is not in {flags:?}");
        }
    }

    #[test]
    fn settings_of_the_outer_build_do_not_reach_the_inner_one() {
        for name in
            ["RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO_PKG_NAME", "CARGO_CFG_TARGET_ARCH", "CARGO_TARGET_DIR"]
        {
            assert!(is_foreign(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_OFFLINE", "PATH", "HOME"] {
            assert!(!is_foreign(name), "{name}");
        }
    }

    #[test]
    fn the_right_llvm_comes_first_and_alone() {
        let folder = Folder::new("library-path");
        folder.write("lib/libLLVM.so.22.1", b"\x7fELF");
        folder.write("lib/libLLVM-14.so.1", b"\x7fELF");
        let target_dir = folder.path().join("target");
        for _ in 0..2 {
            let path = library_path(&toolchain(&folder), &target_dir).expect("a search path");
            let first = env::split_paths(&path).next().expect("a first folder");
            let names: Vec<_> = fs::read_dir(first)
                .expect("read the folder")
                .map(|entry| entry.expect("an entry").file_name())
                .collect();
            assert_eq!(names, ["libLLVM.so.22.1"]);
        }
    }
}
