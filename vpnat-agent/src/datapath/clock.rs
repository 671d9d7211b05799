//! The datapath counts seconds from jiffies, which cost nothing to read; the host finds out how long one is.

use std::path::Path;

use aya::programs::SchedClassifier;
use aya::{TestRun as _, TestRunOptions};
use nix::time::{ClockId, clock_getres};
use vpnat_common::layout::clock::Moment;

use super::Error;

/// Program that returns the datapath's moment.
pub const PROBE_CLOCK: &str = "probe_clock";

/// Bytes handed to a program whose input does not matter: the least that the kernel takes.
const FILLER: [u8; 64] = [0; 64];

/// Runs a program that only returns a number.
pub fn ask(program: &SchedClassifier, name: &str) -> Result<u32, Error> {
    let options = TestRunOptions { data_in: Some(&FILLER), ..Default::default() };
    let result = program.test_run(options).map_err(Error::program("running", name))?;
    Ok(result.return_value)
}

/// The datapath's present moment, from the pinned program.
pub fn now(pin: &Path) -> Result<Moment, Error> {
    let program = SchedClassifier::from_pin(pin).map_err(Error::program("opening", PROBE_CLOCK))?;
    Ok(Moment::new(ask(&program, PROBE_CLOCK)?))
}

/// The kernel's tick rate in hertz: the resolution of its coarse clocks is one tick (clock_getres(2), `TICK_NSEC` of
/// `include/linux/jiffies.h`). Not measured, which a machine that gets no processor time makes impossible.
pub fn tick_rate() -> Result<u32, Error> {
    let tick =
        clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|error| Error::Clock(error.to_string()))?;
    let nanoseconds = tick.tv_sec() * 1_000_000_000 + tick.tv_nsec();
    rate_of(nanoseconds).ok_or_else(|| Error::Clock(format!("a tick of {nanoseconds} ns")))
}

/// How many ticks of so many nanoseconds, rounded, are a second.
fn rate_of(nanoseconds: i64) -> Option<u32> {
    let rate = (1_000_000_000 + nanoseconds / 2).checked_div(nanoseconds)?;
    u32::try_from(rate).ok().filter(|rate| (10..=10_000).contains(rate))
}

/// What jiffies are multiplied with to get seconds in the upper half of 64 bits.
pub fn multiplier(tick_rate: u32) -> u64 {
    (1u64 << 32) / u64::from(tick_rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tick rates that kernels are built with (kernel/Kconfig.hz, and Alpha's, Arm's and MIPS').
    const RATES: [u32; 12] = [24, 48, 64, 100, 128, 200, 250, 256, 300, 500, 1000, 1024];

    #[test]
    fn a_tick_tells_its_rate() {
        for rate in RATES {
            // `TICK_NSEC`.
            let tick = (1_000_000_000 + rate / 2) / rate;
            assert_eq!(rate_of(i64::from(tick)), Some(rate));
        }
        // A clock that is not coarse, and what no clock says.
        for tick in [1, 0, -1, 1_000_000_000, i64::MAX, i64::MIN] {
            assert_eq!(rate_of(tick), None, "{tick}");
        }
        assert!(tick_rate().is_ok_and(|rate| RATES.contains(&rate)));
    }

    #[test]
    fn a_second_is_a_second() {
        for rate in RATES {
            let day = u64::from(rate) * 86_400;
            let seconds = (day * multiplier(rate)) >> 32;
            assert!((86_399..=86_400).contains(&seconds), "{rate}: {seconds}");
        }
    }
}
