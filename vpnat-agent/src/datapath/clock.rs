//! The datapath counts seconds from jiffies, which cost nothing to read; the host finds out how long one is.

use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::SchedClassifier;
use aya::{TestRun as _, TestRunOptions};
use vpnat_common::layout::clock::Moment;

use super::Error;
use crate::stop::Stop;

/// Program that returns the low 32 bits of the kernel's jiffies.
pub const PROBE_JIFFIES: &str = "probe_jiffies";
/// Program that returns the datapath's moment.
pub const PROBE_CLOCK: &str = "probe_clock";

/// Every tick rate that kernels for servers are built with (kernel/Kconfig.hz, and Alpha's and Arm's).
const RATES: [u32; 8] = [100, 128, 200, 250, 256, 300, 500, 1000];

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

/// The kernel's tick rate in hertz.
pub fn tick_rate(program: &SchedClassifier, stop: &Stop) -> Result<u32, Error> {
    let read = || -> Result<_, Error> {
        let before = Instant::now();
        let jiffies = ask(program, PROBE_JIFFIES)?;
        Ok((before, jiffies, Instant::now()))
    };
    let first = read()?;
    let mut said = String::new();
    // The longer the span, the fewer rates fit; a busy machine may need the longer ones.
    for wait in [60, 120, 400, 1500] {
        let until = Instant::now() + Duration::from_millis(wait);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
            if stop.is_set() {
                return Err(Error::Stopped);
            }
        }
        let second = read()?;
        let ticks = second.1.wrapping_sub(first.1);
        let shortest = second.0.duration_since(first.2);
        let longest = second.2.duration_since(first.0);
        match fitting(ticks, shortest, longest).as_slice() {
            [rate] => return Ok(*rate),
            rates => {
                said = format!("{ticks} ticks in {} ms fit {rates:?} Hz", longest.as_millis());
            }
        }
    }
    Err(Error::Clock(said))
}

/// The rates at which `ticks` can pass in a time between `shortest` and `longest`.
fn fitting(ticks: u32, shortest: Duration, longest: Duration) -> Vec<u32> {
    let ticks = f64::from(ticks);
    let lowest = (ticks - 1.0) / longest.as_secs_f64();
    let highest = (ticks + 1.0) / shortest.as_secs_f64().max(1e-9);
    RATES.into_iter().filter(|rate| (lowest..=highest).contains(&f64::from(*rate))).collect()
}

/// What jiffies are multiplied with to get seconds in the upper half of 64 bits.
pub fn multiplier(tick_rate: u32) -> u64 {
    (1u64 << 32) / u64::from(tick_rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_is_told_from_the_others() {
        for rate in RATES {
            for (millis, slack) in [(400u64, 2u64), (1500, 10)] {
                let ticks = (u64::from(rate) * millis / 1000) as u32;
                let fits =
                    fitting(ticks, Duration::from_millis(millis), Duration::from_millis(millis + slack));
                assert!(fits.contains(&rate), "{rate}: {fits:?}");
            }
            let fits = fitting(rate * 3 / 2, Duration::from_millis(1500), Duration::from_millis(1502));
            assert_eq!(fits, [rate]);
        }
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
