//! The documentation's commands, run against a live agent: a page that names a verb or a flag that is not there fails.

use std::time::Duration;

use tests::long::Conversation;
use tests::topology::{Shape, VENDOR};

use crate::setting::Setting;

/// Pages whose lines that start with `$ ` are commands.
const PAGES: &[(&str, &str)] = &[
    ("README.md", include_str!("../../../README.md")),
    ("docs/runbooks.md", include_str!("../../../docs/runbooks.md")),
];

/// Verbs that ask for the configuration by a file that is not the default one here.
const WITH_FILE: &[&str] = &["reload", "doctor", "check"];

#[test]
fn every_command_of_the_documentation_runs() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let talk = Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(20));
        let talk = talk.expect("a connection");
        assert!(talk.wait_for(5));
        let mut ran = 0;
        for (page, text) in PAGES {
            for line in text.lines().filter_map(|line| line.strip_prefix("$ vpnat ")) {
                let output = if WITH_FILE.iter().any(|verb| line.starts_with(verb)) {
                    agent.vpnat(line)
                } else {
                    lab.nat.try_run(&format!("{} {line}", tests::agent::binary().display()))
                };
                // 3 and 4 are findings, not failures.
                let code = output.status.code();
                let found = line.starts_with("doctor") && matches!(code, Some(3 | 4));
                assert!(
                    output.status.success() || found,
                    "{page}: `vpnat {line}` ended with {code:?}:\n{}{}",
                    String::from_utf8_lossy(&output.stderr),
                    String::from_utf8_lossy(&output.stdout)
                );
                ran += 1;
            }
        }
        assert!(ran > 10, "only {ran} commands found");
        let talk = talk.stop();
        assert!(talk.broken.is_none() && talk.lost == 0, "{talk:?}");
    });
}
