//! `vpnat`, the binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    vpnat_agent::cli::main()
}
