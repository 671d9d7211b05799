//! The first root file system of a guest: the tools of the lab with their libraries, the kernel's modules,
//! and what is to be run. Not compressed: unpacking would cost the guest more time than reading.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xtask::lookup;

use super::cpio::Archive;
use super::guest;
use super::kernel::Kernel;
use super::status::{self, FAILURE, SUCCESS};
use crate::needs::Need;
use crate::run::output;

const fn need(what: &'static str, package: &'static str, purpose: &'static str) -> Need {
    Need { what, package, purpose }
}

/// What has to be on this machine for the guest's sake, beyond what the lab needs.
pub const NEEDS: &[Need] = &[
    need("/bin/busybox", "busybox-static", "the guest's basic tools"),
    need("dash", "dash", "the guest's shell"),
    need("tc", "iproute2", "traffic control in the guest"),
    need("xz", "xz-utils", "reading kernel modules"),
    need("setpriv", "util-linux", "tests without privileges"),
];

/// Programs of this machine that the guest gets.
const TOOLS: &[&str] = &[
    "busybox",
    "ip",
    "tc",
    "ethtool",
    "bpftool",
    "ping",
    "setpriv",
    "nft",
    "wg",
    "wireguard-go",
    "charon-systemd",
    "swanctl",
];

/// Where strongSwan's parts lie that no program names as its libraries.
const PLUGINS: &str = "/usr/lib/ipsec/plugins";

/// Modules that guests may load, with what these need. Names vanish from newer kernels.
const MODULES: &[&str] = &[
    // Devices and hooks of the lab.
    "veth",
    "tun",
    "bridge",
    "dummy",
    "8021q",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    // What other NATs are made of.
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_ct",
    "crc32c_generic",
    // The kernel's own tunnels, and the ciphers that they ask for by name.
    "wireguard",
    "xfrm_user",
    "xfrm_interface",
    "xfrm_algo",
    "ip_vti",
    "esp4",
    "esp4_offload",
    "drbg",
    "jitterentropy_rng",
    "ctr",
    "hmac",
    "sha512_generic",
    "gcm",
    "ghash_generic",
    "aesni_intel",
    "echainiv",
    "seqiv",
    "ipip",
    "ip_gre",
    "vxlan",
    // Sockets.
    "inet_diag",
    "tcp_diag",
    "raw_diag",
];

/// A file of this machine and its name in the guest, below [`guest::DIR`].
pub struct Brought {
    /// The name.
    pub name: &'static str,
    /// The file: a program, or data.
    pub file: PathBuf,
}

/// Builds the archive. `scripts` are names and texts, which go beside what is brought along.
pub fn build(kernel: &Kernel, brought: &[Brought], scripts: &[(String, String)]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64"] {
        archive.folder(folder);
        let short = folder.trim_start_matches("usr/");
        archive.link(short, folder);
    }
    for folder in ["proc", "sys", "dev", "tmp", "run", "etc", "root", "var"] {
        archive.folder(folder);
    }
    archive.program("init", guest::init().as_bytes());
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
    archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n");
    archive.file("etc/hosts", b"127.0.0.1 localhost\n");
    archive.file("etc/protocols", b"icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\ngre 47 GRE\nesp 50 ESP\n");
    tools(&mut archive)?;
    modules(&mut archive, kernel)?;
    for value in [SUCCESS, FAILURE] {
        let path = format!("{}/{}", guest::DIR, guest::exit_program(value));
        archive.program(&path, &status::program(value));
    }
    for (name, text) in scripts {
        archive.file(&format!("{}/{name}", guest::DIR), text.as_bytes());
    }
    for Brought { name, file } in brought {
        archive.program(&format!("{}/{name}", guest::DIR), &read(file)?);
    }
    Ok(archive.finish())
}

fn tools(archive: &mut Archive) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for name in TOOLS {
        let Some(path) = lookup::command(name) else { bail!("`{name}` is missing: run `cargo xtask setup`") };
        archive.program(&place(&path), &read(&path)?);
        libraries.extend(libraries_of(&path));
    }
    let dash = lookup::command("dash").context("`dash` is missing")?;
    // Not busybox's shell, which prefers tools of its own to those that are on its path.
    archive.program("usr/bin/sh", &read(&dash)?);
    libraries.extend(libraries_of(&dash));
    archive.link("usr/sbin/modprobe", "../bin/busybox");
    for entry in fs::read_dir(PLUGINS).into_iter().flatten().flatten() {
        libraries.extend(libraries_of(&entry.path()));
        libraries.insert(entry.path());
    }
    // Loaded when a thread is cancelled; it lies beside the C library.
    let unwinder = libraries.iter().find(|path| path.ends_with("libc.so.6"));
    libraries.extend(unwinder.map(|libc| libc.with_file_name("libgcc_s.so.1")).filter(|path| path.exists()));
    for library in libraries {
        archive.program(&place(&library), &read(&library)?);
    }
    Ok(())
}

fn modules(archive: &mut Archive, kernel: &Kernel) -> Result<()> {
    let (selection, files) = kernel.modules(MODULES)?;
    if !selection.missing.is_empty() {
        let names: Vec<_> = selection.missing.iter().map(String::as_str).collect();
        println!("vm: {} has no {} (going on without)", kernel.release, names.join(", "));
    }
    let folder = format!("usr/lib/modules/{}", kernel.release);
    for module in files {
        archive.file(&format!("{folder}/{}", module.file), &module.data);
    }
    archive.file(&format!("{folder}/modules.dep"), selection.dependencies().as_bytes());
    archive.file(&format!("{folder}/modules.alias"), selection.aliases().as_bytes());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Where a file of this machine goes: the guest's `/lib` is a link to `/usr/lib`, and so on.
fn place(path: &Path) -> String {
    let path = path.to_string_lossy();
    let path = path.trim_start_matches('/');
    if path.starts_with("usr/") { path.to_owned() } else { format!("usr/{path}") }
}

/// The libraries that a program is linked to; none if it is static.
fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let listed = output("ldd", &[&program.to_string_lossy()]).unwrap_or_default();
    libraries_in(&listed)
}

fn libraries_in(ldd: &str) -> Vec<PathBuf> {
    let words = ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries_in(ldd), expected.map(PathBuf::from));
        assert!(libraries_in("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn everything_lies_below_usr() {
        assert_eq!(place(Path::new("/lib64/ld-linux-x86-64.so.2")), "usr/lib64/ld-linux-x86-64.so.2");
        assert_eq!(place(Path::new("/usr/sbin/ip")), "usr/sbin/ip");
    }
}
