//! The machine that the BPF programs are to run on.

use std::env;

/// What of the machine shapes a BPF object: the byte order of its CPU and its name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Architecture as Rust names it; decides the layout of `pt_regs` and the like.
    pub arch: String,
    /// Whether the CPU is big-endian: the kernel takes programs of its own byte order only.
    pub big_endian: bool,
}

impl Target {
    /// The machine that this code runs on.
    pub fn host() -> Self {
        Self { arch: env::consts::ARCH.to_owned(), big_endian: cfg!(target_endian = "big") }
    }

    /// The machine that cargo is building for, as it tells a build script.
    pub fn of_build_script() -> Self {
        let host = Self::host();
        Self {
            arch: env::var("CARGO_CFG_TARGET_ARCH").unwrap_or(host.arch),
            big_endian: env::var("CARGO_CFG_TARGET_ENDIAN").map_or(host.big_endian, |endian| endian == "big"),
        }
    }

    /// The compiler's name for BPF in this byte order.
    pub fn triple(&self) -> &'static str {
        if self.big_endian { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_picks_the_triple() {
        let target = |big_endian| Target { arch: "s390x".into(), big_endian };
        assert_eq!(target(true).triple(), "bpfeb-unknown-none");
        assert_eq!(target(false).triple(), "bpfel-unknown-none");
    }
}
