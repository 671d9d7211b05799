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

/// Lines of one failed test that are shown again: what it asserted comes last, and a lab's own account before it.
const SHOWN: usize = 60;

/// What a run of the harness has printed so far.
#[derive(Default)]
pub struct Report {
    /// The sum of its result lines.
    pub tally: Tally,
    failures: Vec<String>,
    inside: bool,
}

impl Report {
    /// One that has no more to say than its sum.
    pub fn of(tally: Tally) -> Self {
        Self { tally, ..Self::default() }
    }

    /// Takes in the next line.
    pub fn line(&mut self, line: &str) {
        if let Some(tally) = Tally::parse(line) {
            self.tally += tally;
            self.inside = false;
        } else if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            self.inside = true;
            self.failures.push(format!("{line}\n"));
        } else if line == "failures:" {
            // The names alone, which follow the last test's output.
            self.inside = false;
        } else if self.inside
            && let Some(failure) = self.failures.last_mut()
        {
            *failure += line;
            failure.push('\n');
        }
    }

    /// Adds what came after.
    pub fn append(&mut self, mut later: Self) {
        self.tally += later.tally;
        self.failures.append(&mut later.failures);
    }

    /// What the failed tests have said, the end of each: the last that a reader of a long log sees.
    pub fn failures(&self) -> String {
        let mut text = String::new();
        for failure in &self.failures {
            let lines: Vec<_> = failure.trim_end().lines().collect();
            let from = lines.len().saturating_sub(SHOWN).max(1);
            text += &format!("{}\n", lines[0]);
            if from > 1 {
                text += &format!("({} lines are left out here)\n", from - 1);
            }
            for line in lines.iter().skip(from) {
                text += &format!("{line}\n");
            }
        }
        text
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

    #[test]
    fn what_failed_is_kept_by_its_end() {
        let mut report = Report::default();
        let long: String = (0..100).map(|number| format!("line {number}\n")).collect();
        let text = format!(
            "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\n{long}\n---- b::c stdout ----\nwhy\n\n\nfailures:\n    a\n    \
             b::c\n\n{FAILED}"
        );
        text.lines().for_each(|line| report.line(line));
        let failures = report.failures();
        assert!(
            failures.starts_with("---- a stdout ----\n(40 lines are left out here)\nline 40\n"),
            "{failures}"
        );
        assert!(failures.ends_with("line 99\n---- b::c stdout ----\nwhy\n"), "{failures}");
        assert_eq!(report.tally, Tally::parse(FAILED).expect("a result"));
    }
}
