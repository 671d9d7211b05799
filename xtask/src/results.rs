//! The result lines of Rust's test harness, summed.

use std::fmt;
use std::ops::AddAssign;

/// Numbers of tests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Succeeded.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
    /// Marked `#[ignore]`.
    pub skipped: u64,
}

impl Tally {
    /// Reads a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines are none.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.trim().strip_prefix("test result: ")?;
        let (_, counts) = line.split_once(". ")?;
        let mut tally = Self::default();
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let field = match what {
                "passed" => &mut tally.passed,
                "failed" => &mut tally.failed,
                "ignored" => &mut tally.skipped,
                _ => continue,
            };
            *field = number.parse().ok()?;
        }
        Some(tally)
    }

    /// Tests that ran.
    pub fn ran(self) -> u64 {
        self.passed + self.failed
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str =
        "test result: ok. 26 passed; 0 failed; 2 ignored; 0 measured; 7 filtered out; finished in 0.01s";
    const FAILED: &str =
        "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s";

    #[test]
    fn result_lines_are_read() {
        assert_eq!(Tally::parse(OK), Some(Tally { passed: 26, failed: 0, skipped: 2 }));
        assert_eq!(Tally::parse(FAILED), Some(Tally { passed: 3, failed: 1, skipped: 0 }));
    }

    #[test]
    fn other_lines_are_not() {
        for line in
            ["test parse ... ok", "running 3 tests", "", "test result: gibberish", "26 passed; 0 failed"]
        {
            assert_eq!(Tally::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_sum_is_one_line_and_names_skipped_tests_only_if_any() {
        let mut sum = Tally::default();
        sum += Tally::parse(FAILED).expect("a result line");
        assert_eq!(sum.to_string(), "3 passed, 1 failed");
        sum += Tally::parse(OK).expect("a result line");
        assert_eq!(sum.to_string(), "29 passed, 1 failed, 2 skipped");
        assert_eq!(sum.ran(), 30);
    }
}
