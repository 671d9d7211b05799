//! `vm`: the programs and the tests on other kernels, in QEMU.

use std::env::consts::ARCH;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::setup::{self, Scope};
use crate::apt::{self, Apt};
use crate::needs::{self, Need};
use crate::run;
use crate::vm::emulator::Emulator;
use crate::vm::report::{self, Row};
use crate::vm::series::{self, Series};
use crate::vm::tier::{self, Tier};
use crate::vm::{self, NEEDS};

/// Run the tests on other kernels, in QEMU: Debian's, downloaded into target/vm once. Needs no root and no KVM.
#[derive(clap::Args)]
pub struct Args {
    /// Series of kernels, such as 6.1 (may be given several times)
    #[arg(long, required_unless_present = "all")]
    kernel: Vec<Series>,
    /// The kernels 6.1, 6.12 and 6.18, and 5.10, which has to be refused
    #[arg(long)]
    all: bool,
    /// Run this tier only (may be given several times)
    #[arg(long, value_enum)]
    tier: Vec<Tier>,
    /// Arguments for the test harness, such as parts of tests' names; without, the lab runs its core
    #[arg(last = true)]
    filter: Vec<String>,
}

/// Runs the verb. A kernel that fails does not keep the others from their turn.
pub fn run(args: &Args) -> Result<ExitCode> {
    if ARCH != "x86_64" {
        bail!("`cargo xtask vm` works on x86_64 only, and this is {ARCH}");
    }
    setup::ensure(&[Scope::Build, Scope::Lab])?;
    ensure()?;
    let cache = run::target_dir().join("vm");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let emulator = Emulator::get(&cache)?;
    let tiers: Vec<_> =
        tier::ALL.into_iter().filter(|tier| args.tier.is_empty() || args.tier.contains(tier)).collect();
    // A kernel that is too old runs one test of the lab, whatever the tier.
    let mut needed = tiers.clone();
    if args.kernels().iter().any(|kernel| *kernel < series::OLDEST) && !needed.contains(&Tier::Lab) {
        needed.push(Tier::Lab);
    }
    let brought = vm::build(&needed)?;

    let mut rows = Vec::new();
    for series in args.kernels() {
        match vm::run(&emulator, series, &tiers, &args.filter, &brought, &cache) {
            Ok(more) => rows.extend(more),
            Err(error) => {
                eprintln!("error: {series}: {error:#}");
                rows.push(Row::failed(series.to_string(), &error));
            }
        }
    }
    print!("{}", report::table(&rows));
    // A filter may leave nothing of a tier, but not of all.
    let tested = args.filter.is_empty() || rows.iter().any(|row| row.tier != Tier::Load.name() && row.ran);
    if !tested {
        eprintln!("error: no test matches {:?}", args.filter.join(" "));
    }
    let success = tested && rows.iter().all(|row| row.passed);
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Args {
    fn kernels(&self) -> Vec<Series> {
        let mut kernels = self.kernel.clone();
        if self.all {
            kernels.extend(series::ALL);
        }
        kernels.sort_unstable();
        kernels.dedup();
        kernels
    }
}

/// Installs what only this verb needs.
fn ensure() -> Result<()> {
    let missing = needs::missing(NEEDS, Need::is_met);
    if missing.is_empty() {
        return Ok(());
    }
    if !apt::available() {
        let names: Vec<_> =
            missing.iter().map(|need| format!("{} (for {})", need.what, need.purpose)).collect();
        bail!("this machine has no apt, so install these by its own means: {}", names.join(", "));
    }
    Apt::default().install(&needs::packages(&missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_one_turn() {
        let args = Args { kernel: vec![series::ALL[1]], all: true, tier: Vec::new(), filter: Vec::new() };
        assert_eq!(args.kernels(), series::ALL);
    }
}
