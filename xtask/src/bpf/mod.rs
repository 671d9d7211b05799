//! From the sources of `vpnat-ebpf` to an object that the agent can load.
//!
//! Stable Rust ships no `core` for the BPF targets, so the way there depends on the machine:
//! [`toolchain`] finds a compiler that has one (or can build one), [`linker`] the `bpf-linker`
//! and the LLVM library that fit it, [`compile`] runs cargo with them, and [`inspect`] refuses an
//! object that would load wrongly or not at all. [`embed`] is all of this for a build script.

pub mod compile;
pub mod embed;
pub mod inspect;
pub mod linker;
pub mod target;
pub mod toolchain;

pub use compile::{Object, build};
pub use embed::embed_for_build_script;
pub use target::Target;
pub use toolchain::{NoToolchain, Toolchain, find};
