//! What on this machine stands in the way of translation: facts are gathered once, and each check is a function of them.

mod checks;
mod facts;
mod firewall;
mod peers;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use checks::check;
pub use facts::Facts;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It may go wrong, or goes wrong for some.
    Warning,
    /// Packets are lost, or not translated.
    Error,
}

/// What one check found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// Why it matters; empty if all is well.
    pub why: &'static str,
    /// The command, or the change, that mends it.
    pub fix: Option<String>,
}
