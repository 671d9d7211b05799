//! COMPLIANCE.md is true in what can be checked: every requirement has its row, every test that a row names exists,
//! every test that bears a row's id is named there, and the summary adds up.

#[path = "compliance/rows.rs"]
mod rows;
#[path = "compliance/sources.rs"]
mod sources;

use std::collections::BTreeMap;

use rows::{APPLIES, Row, table};
use sources::{Sources, ids_in};

/// What a status cell may begin with.
const STATUSES: [&str; 6] = ["met", "met, no test yet", "partly", "not yet", "deviation", "choice"];

fn rows() -> Vec<Row> {
    table(&std::fs::read_to_string(xtask::workspace_root().join("COMPLIANCE.md")).expect("COMPLIANCE.md"))
}

#[test]
fn every_requirement_has_its_row() {
    let mut wanted = BTreeMap::new();
    for id in rows::ids() {
        *wanted.entry(id.to_string()).or_insert(0) += 1;
    }
    let mut found = BTreeMap::new();
    for row in rows() {
        *found.entry(row.id).or_insert(0) += 1;
    }
    assert_eq!(found, wanted, "rows found, and requirements");
}

#[test]
fn every_status_is_one_of_the_list_and_the_summary_adds_up() {
    let rows = rows();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        assert!(STATUSES.contains(&row.status.as_str()), "{}: the status `{}`", row.id, row.status);
        *counts.entry(&row.status).or_default() += 1;
    }
    let text = std::fs::read_to_string(xtask::workspace_root().join("COMPLIANCE.md")).expect("COMPLIANCE.md");
    let summary =
        text.split("## Summary").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a summary");
    let said: BTreeMap<&str, usize> = summary
        .lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            Some((*cells.first()?, cells.get(1)?.trim_matches('*').parse().ok()?))
        })
        .collect();
    for status in STATUSES {
        let count = counts.get(status).copied().unwrap_or(0);
        assert_eq!(said.get(status).copied().unwrap_or(0), count, "rows with the status `{status}`");
    }
    assert_eq!(said.get("**rows**"), Some(&rows.len()));
}

/// A "no" says why, and only what has no test to be had names none.
#[test]
fn no_row_is_silent() {
    for row in rows() {
        assert!(row.how.len() > 3, "{}: says neither where nor why", row.id);
        let tests = row.tests().len();
        match row.status.as_str() {
            "met" | "partly" => assert!(tests > 0, "{} is {} and names no test", row.id, row.status),
            "choice" | "deviation" => {
                assert!(tests > 0 || row.test == "none needed", "{}: a test, or `none needed`", row.id);
            }
            _ => {}
        }
    }
}

#[test]
fn every_test_named_exists() {
    let sources = Sources::read();
    let missing: Vec<_> = rows()
        .iter()
        .flat_map(|row| row.tests().into_iter().map(|(tier, test)| (row.id.clone(), tier, test)))
        .filter(|(_, tier, test)| !sources.has(tier, test))
        .collect();
    assert!(missing.is_empty(), "named and not there: {missing:#?}");
}

/// Rows that are met and whose tests bear other names. No reason to add to them.
#[rustfmt::skip]
const SHOWN_UNDER_ANOTHER_NAME: &[&str] = &[
    "7857-9",
];

/// What is marked as met and applies as the RFC has it is shown by a test that bears the row's id.
#[test]
fn a_row_that_is_met_has_a_test_of_its_own() {
    let without: Vec<_> = rows()
        .into_iter()
        .filter(|row| row.status == "met" && APPLIES.contains(&row.id.as_str()))
        .filter(|row| !row.tests().iter().any(|(_, test)| ids_in(test).contains(&rows::short(&row.id))))
        .map(|row| row.id)
        .collect();
    assert_eq!(without, SHOWN_UNDER_ANOTHER_NAME, "met, and no test bears their id");
}

/// And the other way: a test that bears a row's id is named in that row.
#[test]
fn a_test_that_bears_an_id_is_named_in_its_row() {
    let rows = rows();
    let mut unnamed = Vec::new();
    for (test, id) in Sources::read().bearing_ids() {
        let mut there = rows.iter().filter(|row| rows::short(&row.id) == id).peekable();
        let document = id.split('_').next().unwrap_or(&id);
        if there.peek().is_none() {
            // RFCs that are no NAT's have no rows.
            if rows.iter().any(|row| rows::short(&row.id).starts_with(document)) {
                unnamed.push(format!("{test}: no row {id}"));
            }
        } else if !there.any(|row| row.test.contains(&test)) {
            unnamed.push(format!("{test}: not named in {id}"));
        }
    }
    assert!(unnamed.is_empty(), "{unnamed:#?}");
}

#[test]
fn ids_are_read_out_of_names() {
    let ids = |name: &str| ids_in(name).into_iter().collect::<Vec<_>>();
    assert_eq!(ids("rfc7857_2_2_life_after_a_reset"), ["rfc7857_2_2"]);
    assert_eq!(
        ids("m::rfc4787_req5_rfc4787_req5c_row_11_18_udp"),
        ["rfc4787_req5", "rfc4787_req5c", "row_11_18"]
    );
    assert_eq!(ids("rfc5382_sec5_row_11_4_segments"), ["rfc5382_sec5", "row_11_4"]);
    assert_eq!(ids("rfc8899_4821_rfc4787_req13_a_clean_edge"), ["rfc4787_req13", "rfc8899_4821"]);
    assert_eq!(ids("rfc3022_2_2_own_sessions"), ["rfc3022_2_2_own"]);
    assert_eq!(ids("a_flow_of_7_packets"), Vec::<String>::new());
}
