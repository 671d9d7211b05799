//! A fuzzer without a nightly compiler: mutates a corpus, keeps what reaches new code, and writes down what fails.
//!
//! Built with `-Cinstrument-coverage --cfg vpnat_coverage`, as `cargo xtask test --tier fuzz` does, it reads the
//! counters that the compiler put in. Built otherwise it knows nothing of coverage and mutates its seeds only.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest input, bytes.
const LONGEST: usize = 512;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Inputs tried.
    pub runs: u64,
    /// Inputs kept, the seeds included.
    pub kept: usize,
    /// Counters reached, of all there are; zeros without coverage.
    pub reached: (usize, usize),
}

/// Runs `target` on mutated inputs until `time` is over, beginning with `seeds`; `seed` makes a run repeatable.
///
/// # Errors
/// The input that made the target panic, and the file that it was written to (below `artifacts`).
pub fn run(
    target: fn(&[u8]),
    seeds: &[Vec<u8>],
    time: Duration,
    seed: u64,
    artifacts: &Path,
) -> Result<Report, (Vec<u8>, PathBuf)> {
    let mut random = Random(seed | 1);
    let mut coverage = Coverage::new();
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    let mut runs = 0;
    let mut attempt = |input: Vec<u8>, corpus: &mut Vec<Vec<u8>>, keep: bool| {
        runs += 1;
        coverage.reset();
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            return Err(written(artifacts, input));
        }
        if coverage.is_news() || keep {
            corpus.push(input);
        }
        Ok(())
    };
    for seed in seeds {
        attempt(seed.clone(), &mut corpus, true)?;
    }
    let end = Instant::now() + time;
    while Instant::now() < end {
        for _ in 0..64 {
            let input = random.mutated(&corpus);
            attempt(input, &mut corpus, false)?;
        }
    }
    Ok(Report { runs, kept: corpus.len(), reached: coverage.reached() })
}

fn written(artifacts: &Path, input: Vec<u8>) -> (Vec<u8>, PathBuf) {
    let sum = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let file = artifacts.join(format!("crash-{sum:016x}"));
    if let Err(error) = std::fs::create_dir_all(artifacts).and_then(|()| std::fs::write(&file, &input)) {
        eprintln!("cannot write {}: {error}; the input is {input:02x?}", file.display());
    }
    (input, file)
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        // Values at the edges are worth more than others.
        const EDGES: [u8; 12] = [0, 1, 2, 4, 8, 16, 0x1f, 0x40, 0x45, 0x7f, 0x80, 0xff];
        if self.below(3) == 0 { EDGES[self.below(EDGES.len())] } else { self.next() as u8 }
    }

    fn mutated(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus.get(self.below(corpus.len())).cloned().unwrap_or_default();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            match self.below(7) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 if at < input.len() => input[at] = self.byte(),
                2 => input.insert(at, self.byte()),
                3 if at < input.len() => {
                    input.drain(at..(at + 1 + self.below(6)).min(input.len()));
                }
                4 => {
                    let length = self.below(12);
                    let piece: Vec<u8> = (0..length).map(|_| self.byte()).collect();
                    input.splice(at..at, piece);
                }
                5 => {
                    // A part of another input, from anywhere.
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len());
                    let piece = other[from..(from + self.below(40)).min(other.len())].to_vec();
                    input.splice(at..at, piece);
                }
                _ => {
                    let piece = input[at..(at + self.below(16)).min(input.len())].to_vec();
                    input.extend(piece);
                }
            }
        }
        input.truncate(LONGEST);
        input
    }
}

#[cfg(vpnat_coverage)]
unsafe extern "C" {
    // LLVM's profile runtime, `compiler-rt/lib/profile/InstrProfiling.h`.
    fn __llvm_profile_begin_counters() -> *mut u64;
    fn __llvm_profile_end_counters() -> *mut u64;
}

/// How often each part of the code was reached, in powers of two, over all runs so far.
struct Coverage {
    seen: Vec<u8>,
}

impl Coverage {
    fn new() -> Self {
        Self { seen: vec![0; Self::counters().len()] }
    }

    #[cfg(vpnat_coverage)]
    fn counters() -> &'static mut [u64] {
        // SAFETY: the runtime's counters are one array of 64-bit words between these two, for as long as the program
        // runs. The driver's thread is the only one that looks at them here; instrumented code adds to them by plain
        // stores, in this thread between two calls.
        unsafe {
            let (begin, end) = (__llvm_profile_begin_counters(), __llvm_profile_end_counters());
            std::slice::from_raw_parts_mut(begin, end.offset_from(begin) as usize)
        }
    }

    #[cfg(not(vpnat_coverage))]
    fn counters() -> &'static mut [u64] {
        &mut []
    }

    fn reset(&mut self) {
        Self::counters().fill(0);
    }

    /// Whether the last run reached something new, or something much more often.
    fn is_news(&mut self) -> bool {
        let mut news = false;
        for (seen, count) in self.seen.iter_mut().zip(Self::counters().iter()) {
            let bucket = match *count {
                0 => continue,
                1 => 1,
                2 => 2,
                3..8 => 4,
                8..32 => 8,
                32..256 => 16,
                _ => 32,
            };
            news |= *seen & bucket == 0;
            *seen |= bucket;
        }
        news
    }

    fn reached(&self) -> (usize, usize) {
        (self.seen.iter().filter(|seen| **seen != 0).count(), self.seen.len())
    }
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    crate::template::seeds()
}
