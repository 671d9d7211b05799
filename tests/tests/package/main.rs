//! The packages as an operator meets them.
//!
//! `cargo xtask test --tier package` makes the packages and the machine's tree and names them in the environment.

mod container;
mod contents;
mod given;
mod installed;
mod readme;
