//! Other kernels: Debian's, booted in QEMU, with the agent and its tests inside.

mod cpio;
mod guest;
mod image;
mod kernel;
mod modules;
mod packages;
mod programs;
mod qemu;
pub mod report;
pub mod series;
mod status;
pub mod tier;

pub use image::{Brought, NEEDS};
pub use programs::build;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use kernel::Kernel;
use qemu::Machine;
use report::Row;
use series::Series;
use tier::Tier;

/// Lines of a guest's console that are shown again after a failure.
const TAIL: usize = 60;

/// Runs the tiers on one kernel. Files are kept in the folder `cache`.
pub fn run(
    series: Series,
    tiers: &[Tier],
    filter: &[String],
    brought: &[Brought],
    cache: &Path,
) -> Result<Vec<Row>> {
    let kernel = Kernel::get(series, cache)?;
    let archive = cache.join(format!("guest-{series}.cpio"));
    fs::write(&archive, image::build(&kernel, brought)?)
        .with_context(|| format!("cannot write {}", archive.display()))?;
    let mut rows = Vec::new();
    for &tier in tiers {
        println!("== {} on {}", tier.heading(), kernel.release);
        let log = cache.join(format!("{series}-{}.log", tier.name()));
        let machine = Machine {
            kernel: &kernel.image,
            image: &archive,
            command_line: &guest::command_line(&tier.script(filter)),
            log: &log,
            limit: tier.limit(),
        };
        let ran = machine.run(|line| println!("{line}"))?;
        let row = Row::of(&kernel.release, tier, &ran);
        if !row.passed {
            // On the error output, so that it is seen where the other is kept away from the screen.
            eprintln!("--- the end of {}", log.display());
            let skipped = ran.lines.len().saturating_sub(TAIL);
            ran.lines.iter().skip(skipped).for_each(|line| eprintln!("{line}"));
            eprintln!("--- {}: {}", kernel.release, row.outcome);
        }
        rows.push(row);
    }
    Ok(rows)
}
