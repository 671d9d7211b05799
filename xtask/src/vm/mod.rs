//! Other kernels: Debian's, booted in QEMU, with the agent and its tests inside.

mod cpio;
pub mod emulator;
mod guest;
mod image;
mod kernel;
mod lab_core;
mod modules;
mod packages;
mod programs;
mod qemu;
pub mod report;
pub mod series;
mod status;
mod suite;
pub mod tier;

pub use image::{Brought, NEEDS};
pub use programs::build;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use emulator::Emulator;
use kernel::Kernel;
use qemu::Machine;
use report::Row;
use series::Series;
use tier::Tier;

/// Lines of a guest's console that are shown again after a failure.
const TAIL: usize = 60;

/// Runs the tiers on one kernel. Files are kept in the folder `cache`.
pub fn run(
    emulator: &Emulator,
    series: Series,
    tiers: &[Tier],
    filter: &[String],
    brought: &[Brought],
    cache: &Path,
) -> Result<Vec<Row>> {
    let kernel = Kernel::get(series, cache)?;
    let archive = cache.join(format!("guest-{series}.cpio"));
    let too_old = [lab_core::OLD_KERNEL.to_owned()];
    let (tiers, filter) =
        if series < series::OLDEST { (&[Tier::Lab][..], &too_old[..]) } else { (tiers, filter) };
    let scripts: Vec<_> = tiers.iter().map(|tier| (tier.script(), tier.commands(filter))).collect();
    fs::write(&archive, image::build(&kernel, brought, &scripts)?)
        .with_context(|| format!("cannot write {}", archive.display()))?;
    let mut rows = Vec::new();
    for &tier in tiers {
        println!("== {} on {}", tier.heading(), kernel.release);
        let log = cache.join(format!("{series}-{}.log", tier.name()));
        let machine = Machine {
            emulator,
            kernel: &kernel.image,
            image: &archive,
            command_line: &guest::command_line(&tier.script()),
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
