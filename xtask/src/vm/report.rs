//! The table of results: kernel, tier, how it ended, and how long it took.

use std::fmt::Write as _;

use super::guest::Message;
use super::qemu::Ran;
use super::status::Ending;
use super::tier::Tier;
use crate::results::Tally;

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Release of the kernel.
    pub kernel: String,
    /// What was run.
    pub tier: &'static str,
    /// How it ended, in words.
    pub outcome: String,
    /// Times.
    pub times: String,
    /// Whether that is a success.
    pub passed: bool,
    /// Whether anything ran: a filter may have left nothing of a tier.
    pub ran: bool,
}

impl Row {
    /// From what became of a guest.
    pub fn of(kernel: &str, tier: Tier, ran: &Ran) -> Self {
        let (mut tally, mut tested, mut notes) = (Tally::default(), false, Vec::new());
        for line in &ran.lines {
            if let Some(sum) = Tally::parse(line) {
                tally += sum;
                tested = true;
            }
            if let Some(Message::Note(note)) = Message::parse(line) {
                notes.push(note);
            }
        }
        if tested {
            notes.push(tally.to_string());
        }
        match &ran.ending {
            Ending::Passed => {}
            Ending::Failed if tested => {}
            Ending::Failed => notes.push("failed".into()),
            Ending::Machine(reason) => notes.push(format!("machine: {reason}")),
        }
        Self {
            kernel: kernel.to_owned(),
            tier: tier.name(),
            outcome: notes.join(", "),
            times: format!("boot {:.1} s, run {:.1} s", ran.boot.as_secs_f64(), ran.run.as_secs_f64()),
            passed: ran.ending == Ending::Passed,
            ran: !tested || tally.ran() > 0,
        }
    }

    /// A kernel that could not be made to run.
    pub fn failed(kernel: String, error: &anyhow::Error) -> Self {
        Self {
            kernel,
            tier: "-",
            outcome: format!("{error:#}"),
            times: String::new(),
            passed: false,
            ran: true,
        }
    }
}

/// The table as text.
pub fn table(rows: &[Row]) -> String {
    let width = |text: fn(&Row) -> &str| rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
    let (kernel, outcome) = (width(|row| &row.kernel), width(|row| &row.outcome));
    let mut text = String::new();
    for row in rows {
        let verdict = if row.passed { "passed" } else { "FAILED" };
        let line = format!(
            "{:<kernel$}  {:<4}  {verdict}  {:<outcome$}  {}",
            row.kernel, row.tier, row.outcome, row.times
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ran(ending: Ending, lines: &[&str]) -> Ran {
        let lines = lines.iter().map(|&line| line.to_owned()).collect();
        Ran { ending, lines, boot: Duration::from_millis(2100), run: Duration::from_millis(6040) }
    }

    const SUM: &str = "test result: ok. 26 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out";

    #[test]
    fn a_row_tells_numbers_and_times() {
        let row = Row::of("6.1.0-56", Tier::Bpf, &ran(Ending::Passed, &["vpnat-vm: booted", SUM]));
        assert_eq!(row.outcome, "26 passed, 0 failed, 2 skipped");
        assert_eq!(row.times, "boot 2.1 s, run 6.0 s");
        assert!(row.passed && row.ran);
        let row =
            Row::of("6.1.0-56", Tier::Load, &ran(Ending::Passed, &["vpnat-vm: note 15 programs loaded"]));
        assert_eq!(row.outcome, "15 programs loaded");
    }

    #[test]
    fn a_machine_that_fails_has_not_passed_though_its_tests_have() {
        let row =
            Row::of("6.1.0-56", Tier::Bpf, &ran(Ending::Machine("QEMU ended with status 0".into()), &[SUM]));
        assert!(!row.passed);
        assert!(row.outcome.ends_with("machine: QEMU ended with status 0"), "{}", row.outcome);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [
            Row::of("6.1.0-56", Tier::Load, &ran(Ending::Failed, &[])),
            Row::of("6.12.117+deb12", Tier::Bpf, &ran(Ending::Passed, &[SUM])),
        ];
        let expected = "\
6.1.0-56        load  FAILED  failed                          boot 2.1 s, run 6.0 s
6.12.117+deb12  bpf   passed  26 passed, 0 failed, 2 skipped  boot 2.1 s, run 6.0 s
";
        assert_eq!(table(&rows), expected);
    }
}
