//! The verbs of `cargo xtask`.

pub mod bench;
pub mod build;
pub mod chaos;
pub mod demo;
pub mod lint;
pub mod package;
pub mod setup;
pub mod test;
pub mod vm;
