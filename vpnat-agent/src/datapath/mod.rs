//! The programs and maps in the kernel, seen from the host.

pub mod accounts;
pub mod batch;
pub mod census;
pub mod clock;
pub mod error;
pub mod features;
pub mod fill;
pub mod flows;
pub mod hooks;
pub mod kernel;
pub mod maps;
pub mod migrate;
pub mod object;
pub mod path;
pub mod pins;
pub mod program_names;
pub mod reap;
pub mod rehearsal;
pub mod rests;
pub mod revoke;
pub mod slots;
pub mod sweep;
pub mod sys;
pub mod tc;
pub mod xdp;

pub use error::Error;
