//! What `cargo xtask chaos` asks of the tests that have a long form: for how long, and with which random choices. Without it
//! a few rounds are run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, and not {text:?}")))
}

/// For how long, if somebody has said.
pub fn time() -> Option<Duration> {
    number("VPNAT_CHAOS_SECONDS").map(Duration::from_secs)
}

/// Choices that a seed reproduces (an xorshift of Marsaglia's).
pub struct Choices {
    /// What they follow from.
    pub seed: u64,
    state: u64,
}

impl Choices {
    /// By the seed that was asked for, or any.
    pub fn new() -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let seed = number("VPNAT_CHAOS_SEED").unwrap_or(clock.as_nanos() as u64);
        println!("VPNAT_CHAOS_SEED={seed}");
        Self { seed, state: seed | 1 }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// A moment before `limit`.
    pub fn within(&mut self, limit: Duration) -> Duration {
        limit.mul_f64((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// A number from 1 to `last`.
    pub fn up_to(&mut self, last: u32) -> u32 {
        1 + (self.next() % u64::from(last)) as u32
    }
}
