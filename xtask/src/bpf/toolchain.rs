//! The search for a compiler that can make BPF code.
//!
//! Two kinds will do: one with a `core` library for the BPF target already built (Debian ships
//! it), and one with the sources of `core` at hand to build it from (rustup's `rust-src`).
//! Candidates are tried in order, and each refused one keeps its reason: "no toolchain found"
//! alone helps nobody.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::linker::{self, parse_version};
use super::target::Target;
use crate::lookup;

/// Set this to the path of a rustc to use that one and no other.
pub const RUSTC_ENV: &str = "VPNAT_BPF_RUSTC";

/// Where a distribution puts its compiler, whatever rustup puts before it on `PATH`.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

/// How the compiler comes by `core` for the BPF target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// It is installed.
    Prebuilt,
    /// Cargo builds it from the sources in the sysroot (`-Zbuild-std`).
    BuildStd,
}

/// Everything needed to build the BPF programs.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler itself, not rustup's stand-in for it.
    pub rustc: PathBuf,
    /// Its release, such as `1.96.0`.
    pub release: String,
    /// Its installation.
    pub sysroot: PathBuf,
    /// How it comes by `core`.
    pub core: Core,
    /// The linker.
    pub linker: PathBuf,
    /// The library that the linker has to load.
    pub llvm: PathBuf,
    /// What is being built for.
    pub target: Target,
}

/// A compiler that was looked at and will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which one.
    pub candidate: String,
    /// What it lacks.
    pub reason: String,
}

/// No way to build BPF code here. `Display` gives the reasons and the remedies.
#[derive(Clone, Debug, Default)]
pub struct NoToolchain {
    /// Compilers refused; empty if one was found and only the linker is missing.
    pub compilers: Vec<Rejection>,
    /// What is wrong with the linker, if something is.
    pub linker: Option<String>,
}

impl NoToolchain {
    /// The reasons on one line, for a warning.
    pub fn brief(&self) -> String {
        let compilers = self.compilers.iter().map(|r| format!("{}: {}", r.candidate, r.reason));
        compilers.chain(self.linker.clone()).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for NoToolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the BPF programs cannot be built on this machine")?;
        if !self.compilers.is_empty() {
            writeln!(f, "no rustc here has (or can build) a `core` library for BPF:")?;
            for Rejection { candidate, reason } in &self.compilers {
                writeln!(f, "  {candidate}: {reason}")?;
            }
            writeln!(f, "install one, either")?;
            writeln!(f, "  with rustup:   rustup toolchain install nightly --component rust-src")?;
            writeln!(
                f,
                "  on Debian 12:  apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf"
            )?;
        }
        if let Some(reason) = &self.linker {
            writeln!(f, "the linker is missing:\n  {reason}")?;
            writeln!(f, "install it:\n  {}", linker::INSTALL)?;
        }
        write!(f, "`cargo xtask setup` does this for you")
    }
}

impl std::error::Error for NoToolchain {}

/// Finds the first compiler that will do, and the linker.
///
/// With [`RUSTC_ENV`] set no other compiler is tried: who names one does not want another in its place.
pub fn find(target: &Target) -> Result<Toolchain, NoToolchain> {
    let mut compilers = Vec::new();
    let mut chosen = None;
    for (candidate, rustc) in candidates() {
        match rustc.and_then(|rustc| Compiler::ask(&rustc, target)?.judge()) {
            Ok(found) => {
                chosen = Some(found);
                break;
            }
            Err(reason) => compilers.push(Rejection { candidate, reason }),
        }
    }
    match (chosen, linker::find()) {
        (Some((compiler, core, llvm)), Ok(linker)) => Ok(Toolchain {
            rustc: compiler.rustc,
            release: compiler.release,
            sysroot: compiler.sysroot,
            core,
            linker,
            llvm,
            target: target.clone(),
        }),
        (Some(_), linker) => Err(NoToolchain { compilers: Vec::new(), linker: linker.err() }),
        (None, linker) => Err(NoToolchain { compilers, linker: linker.err() }),
    }
}

type Candidate = (String, Result<PathBuf, String>);

fn candidates() -> Vec<Candidate> {
    if let Some(path) = env::var_os(RUSTC_ENV).map(PathBuf::from) {
        return vec![(format!("{RUSTC_ENV}={}", path.display()), Ok(path))];
    }
    vec![
        ("rustup nightly".to_owned(), rustup_nightly()),
        (DISTRIBUTION_RUSTC.to_owned(), Ok(PathBuf::from(DISTRIBUTION_RUSTC))),
    ]
}

fn rustup_nightly() -> Result<PathBuf, String> {
    let rustup = lookup::command("rustup").ok_or("rustup is not installed")?;
    // A search must not turn into a download of a toolchain.
    let mut command = Command::new(rustup);
    command.args(["which", "rustc", "--toolchain", "nightly"]).env("RUSTUP_AUTO_INSTALL", "0");
    answer(&mut command).map(PathBuf::from)
}

/// Whether a release, such as `1.96.0` or a package's `1.96.0+dfsg1-1`, can build the workspace.
pub fn is_recent(release: &str) -> bool {
    parse_version(release) >= parse_version(env!("CARGO_PKG_RUST_VERSION"))
}

/// What a compiler says about itself.
struct Compiler {
    rustc: PathBuf,
    release: String,
    llvm_major: Option<u32>,
    sysroot: PathBuf,
    /// Where `core` for the BPF target would lie.
    target_libdir: PathBuf,
}

impl Compiler {
    fn ask(rustc: &Path, target: &Target) -> Result<Self, String> {
        if !lookup::is_executable(rustc) {
            return Err("there is no such program".to_owned());
        }
        let query = |args: &[&str]| answer(Command::new(rustc).args(args));
        let version = query(&["-vV"])?;
        let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let places = query(&["--target", target.triple(), "--print", "sysroot", "--print", "target-libdir"])?;
        let (sysroot, target_libdir) =
            places.split_once('\n').ok_or("it does not say where its libraries are")?;
        Ok(Self {
            rustc: rustc.to_path_buf(),
            release: field("release:").unwrap_or_default().to_owned(),
            llvm_major: field("LLVM version:").and_then(parse_version).map(|(major, ..)| major),
            sysroot: sysroot.into(),
            target_libdir: target_libdir.into(),
        })
    }

    /// Takes or refuses the compiler by what lies on the disk.
    fn judge(self) -> Result<(Self, Core, PathBuf), String> {
        if !is_recent(&self.release) {
            let needed = env!("CARGO_PKG_RUST_VERSION");
            return Err(format!("release {} is older than {needed}", self.release));
        }
        let core = if has_core(&self.target_libdir) {
            Core::Prebuilt
        } else if self.sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            Core::BuildStd
        } else {
            return Err(format!(
                "release {} has neither libcore-*.rlib in {} nor the rust-src component in {}",
                self.release,
                self.target_libdir.display(),
                self.sysroot.display()
            ));
        };
        let major = self.llvm_major.ok_or("`rustc -vV` names no LLVM version")?;
        let llvm = linker::find_llvm(&self.sysroot, major)?;
        Ok((self, core, llvm))
    }
}

fn has_core(libdir: &Path) -> bool {
    let Ok(entries) = libdir.read_dir() else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with("libcore-") && name.ends_with(".rlib"))
    })
}

/// The output of a command, or its complaint cut to one line.
fn answer(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|error| format!("{program} cannot be run: {error}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned());
    }
    let stderr = String::from_utf8_lossy(&out.stderr);
    Err(stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed").trim().to_owned())
}

#[cfg(test)]
pub(super) mod testing {
    //! Fake installations, made of files.

    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process;

    /// A folder of one test, gone with it.
    pub struct Folder(PathBuf);

    impl Folder {
        pub fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vpnat-xtask-{}-{test}", process::id()));
            fs::create_dir_all(&path).expect("create a folder for the test");
            Self(path)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }

        pub fn write(&self, name: &str, content: &[u8]) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().expect("a file in the folder")).expect("create its folder");
            fs::write(path, content).expect("write the file");
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Folder;
    use super::*;

    const LIBDIR: &str = "lib/rustlib/bpfel-unknown-none/lib";

    fn compiler(folder: &Folder, release: &str) -> Compiler {
        Compiler {
            rustc: folder.path().join("bin/rustc"),
            release: release.to_owned(),
            llvm_major: Some(922),
            sysroot: folder.path().to_path_buf(),
            target_libdir: folder.path().join(LIBDIR),
        }
    }

    fn refusal(compiler: Compiler) -> String {
        compiler.judge().err().expect("the compiler should have been refused")
    }

    #[test]
    fn a_prebuilt_core_wins_over_sources() {
        let folder = Folder::new("prebuilt");
        folder.write("lib/libLLVM.so.922.1", b"\x7fELF");
        folder.write("lib/rustlib/src/rust/library/core/Cargo.toml", b"");
        let core = |folder: &Folder| compiler(folder, "1.96.0").judge().map(|(_, core, _)| core);
        assert_eq!(core(&folder), Ok(Core::BuildStd));
        folder.write(&format!("{LIBDIR}/libcore-0123.rlib"), b"");
        assert_eq!(core(&folder), Ok(Core::Prebuilt));
    }

    #[test]
    fn an_empty_sysroot_is_refused_with_both_places_named() {
        let folder = Folder::new("empty");
        let reason = refusal(compiler(&folder, "1.97.0-nightly"));
        assert!(reason.contains("1.97.0-nightly has neither libcore-*.rlib"), "{reason}");
        assert!(reason.contains(LIBDIR) && reason.contains("rust-src"), "{reason}");
    }

    #[test]
    fn an_old_release_is_refused_even_if_complete() {
        let folder = Folder::new("old");
        folder.write("lib/libLLVM.so.922.1", b"\x7fELF");
        folder.write(&format!("{LIBDIR}/libcore-0123.rlib"), b"");
        assert!(refusal(compiler(&folder, "1.63.0")).contains("1.63.0 is older than"));
    }

    #[test]
    fn debians_versions_compare_with_releases() {
        assert!(is_recent("1.96.0+dfsg1-1~deb12u2"));
        assert!(!is_recent("1.85.0+dfsg3-1~deb12u3"));
        assert!(!is_recent("gibberish"));
    }

    #[test]
    fn a_compiler_whose_llvm_is_nowhere_is_refused() {
        let folder = Folder::new("no-llvm");
        folder.write(&format!("{LIBDIR}/libcore-0123.rlib"), b"");
        assert!(refusal(compiler(&folder, "1.96.0")).contains("no libLLVM of version 922"));
    }

    #[test]
    fn a_missing_program_says_so() {
        let asked = Compiler::ask(Path::new("/nonexistent/rustc"), &Target::host());
        assert_eq!(asked.err().as_deref(), Some("there is no such program"));
    }

    #[test]
    fn the_error_gives_every_reason_and_both_remedies() {
        let rejection = |candidate: &str, reason: &str| Rejection {
            candidate: candidate.to_owned(),
            reason: reason.to_owned(),
        };
        let error = NoToolchain {
            compilers: vec![
                rejection("rustup nightly", "no rust-src"),
                rejection("/usr/bin/rustc", "too old"),
            ],
            linker: Some("bpf-linker: not found on PATH".to_owned()),
        };
        let text = error.to_string();
        for part in [
            "rustup nightly: no rust-src",
            "/usr/bin/rustc: too old",
            "rustup toolchain install nightly --component rust-src",
            "apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf",
            "cargo install bpf-linker --version 0.10.3 --locked",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert_eq!(error.brief().lines().count(), 1);
    }

    #[test]
    fn only_what_is_missing_is_mentioned() {
        let error = NoToolchain { compilers: Vec::new(), linker: Some("bpf-linker: too old".to_owned()) };
        assert!(!error.to_string().contains("rustup"), "{error}");
    }
}
