//! What the agent's build script does: put the object where `include_bytes!` finds it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::target::Target;
use super::{compile, linker, toolchain};
use crate::workspace_root;

/// Set this to `1` to make a missing toolchain an error and not a warning.
pub const REQUIRE_ENV: &str = "VPNAT_REQUIRE_BPF";

/// Name of the object in `OUT_DIR`.
pub const FILE_NAME: &str = "vpnat-ebpf.o";

/// Builds the BPF programs into `$OUT_DIR/vpnat-ebpf.o`.
///
/// On a machine that cannot build them the file is empty and cargo shows a warning, so that
/// `cargo check`, clippy and editors work everywhere; with [`REQUIRE_ENV`] that is an error.
/// Programs that *do not compile* are an error always. The agent has to refuse an empty object.
pub fn embed_for_build_script() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Printed here and not returned from `main`, which would add a backtrace of the build script.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<()> {
    let root = workspace_root();
    for path in ["vpnat-ebpf", "vpnat-common", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    for name in [toolchain::RUSTC_ENV, linker::LINKER_ENV] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out_dir = env::var_os("OUT_DIR").map(PathBuf::from);
    let out_dir = out_dir.context("OUT_DIR is not set: this function is for build scripts")?;
    let embedded = out_dir.join(FILE_NAME);

    match toolchain::find(&Target::of_build_script()) {
        Ok(toolchain) => {
            // The package's features that are the programs' as well. Another build, another folder.
            let next = env::var_os("CARGO_FEATURE_LAYOUT_NEXT").is_some();
            let (features, folder): (&[&str], _) =
                if next { (&["layout-next"], "bpf-next") } else { (&[], "bpf") };
            let target_dir = bpf_target_dir(&out_dir).with_file_name(folder);
            let object = compile::build(&toolchain, &root, &target_dir, features)?;
            fs::copy(&object.path, &embedded)
                .with_context(|| format!("cannot write the BPF object to {}", embedded.display()))?;
        }
        Err(missing) => {
            // Only here does the variable make a difference; elsewhere it would rebuild for nothing.
            println!("cargo::rerun-if-env-changed={REQUIRE_ENV}");
            if env::var_os(REQUIRE_ENV).is_some_and(|value| value == "1") {
                return Err(missing.into());
            }
            println!(
                "cargo::warning=built without the BPF programs, so `vpnat run` will not work \
                 (`cargo xtask setup` installs what is missing): {}",
                missing.brief()
            );
            fs::write(&embedded, b"")
                .with_context(|| format!("cannot write the empty BPF object {}", embedded.display()))?;
        }
    }
    Ok(())
}

/// The folder that `cargo xtask build` uses too, found from `<target>/<profile>/build/<package>/out`.
///
/// One that is not laid out so still works: it is only not shared.
fn bpf_target_dir(out_dir: &Path) -> PathBuf {
    let target = out_dir
        .ancestors()
        .find(|dir| dir.file_name().is_some_and(|name| name == "build"))
        .and_then(|build| build.parent()?.parent());
    target.unwrap_or(out_dir).join("bpf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_of_all_profiles_share_one_folder() {
        let dir = |path: &str| bpf_target_dir(Path::new(path));
        assert_eq!(dir("/src/target/debug/build/vpnat-agent-12/out"), Path::new("/src/target/bpf"));
        assert_eq!(dir("/src/target/release/build/vpnat-agent-34/out"), Path::new("/src/target/bpf"));
        assert_eq!(dir("/elsewhere/out"), Path::new("/elsewhere/out/bpf"));
    }
}
