//! The part of `xtask` that others use: [`bpf`] finds a compiler for the BPF programs, builds
//! them and checks the result. The agent's build script calls it, so it depends on little.

pub mod bpf;
pub mod lookup;

use std::path::{Path, PathBuf};

/// The root folder of the workspace.
pub fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}
