//! The rows of COMPLIANCE.md, and the requirements that there must be one for.

/// Requirements that apply as they are written, or adapted. An id that stands twice has two rows.
#[rustfmt::skip]
pub const APPLIES: &[&str] = &[
    "4787-REQ-2", "4787-REQ-3", "4787-REQ-3a", "4787-REQ-5", "4787-REQ-5b", "4787-REQ-5c", "4787-REQ-6",
    "4787-REQ-7", "4787-REQ-10, 10a", "4787-REQ-11", "4787-REQ-12", "4787-REQ-12a", "4787-REQ-12b",
    "4787-REQ-13", "4787-REQ-13a", "4787-REQ-14", "4787-REQ-14a", "5382-REQ-2", "5382-REQ-2a",
    "5382-REQ-4", "5382-REQ-4a", "5382-REQ-5 (established)", "5382-REQ-5 (transitory)", "5382-REQ-5a",
    "5382-REQ-6", "5382-REQ-7", "5382-REQ-9", "5382-REQ-10", "5382 sec. 9", "5508-REQ-1", "5508-REQ-2, 2a",
    "5508-REQ-3", "5508-REQ-3a", "5508-REQ-3b", "5508-REQ-3c", "5508-REQ-3d", "5508-REQ-4", "5508-REQ-5",
    "5508-REQ-6", "5508-REQ-8", "5508-REQ-10a", "5508-REQ-10c", "5508-REQ-10d", "5508-REQ-10e",
    "5508-REQ-10f", "5508 sec. 7.2", "5508 sec. 7.3", "5508-REQ-11", "7857-2", "7857-2.1", "7857-2.2",
    "7857-2.2", "7857-4", "7857-5", "7857-6", "7857-7", "7857-7.1", "7857-9", "7857-10", "7857-11",
    "7857-12", "7857-13", "6888-REQ-1", "6888-REQ-2", "6888-REQ-3", "6888-REQ-4, 4a-c",
    "6888-REQ-5, 5a, 5b", "6888-REQ-6", "6888-REQ-8", "6888-REQ-10", "6888-REQ-11a-d", "6888-REQ-13",
    "6888-REQ-14", "6888-REQ-15", "1191-4", "1191-3", "5508-7.1.1", "5508-7.1.2", "6864-4.3",
    "1812-4.2.2.7", "4459-3.2 (signal)", "4459-3.4", "8899-3, 4.6", "8899 (4821)", "3022-2.2 (sessions)",
    "3022-2.2 (own)", "3022-4.1", "3022-4.3", "3022-4.6", "3022-6.2", "3022-6.3", "6864-5.3.1", "6056-4",
    "6056-3.2", "6056-2.3", "1812-5.3.1", "1812-5.2.2", "1812-4.3.2.7", "1812-4.3.2.3", "1812-4.3.2.4",
    "1812-4.3.2.8", "8158-4.6.6, 5.2", "8-1", "8-2", "8-3", "8-4", "8-5", "8-6", "8-7", "8-8", "8-9",
    "8-10", "8-11", "10.1-1", "10.1-2", "10.1-3", "10.1-4", "10.1-5", "10.1-6", "10.2-1", "10.2-2",
    "10.2-3", "10.3-1", "10.3-2", "10.3-3", "10.3-4", "10.3-5", "10.3-6", "10.3-7", "10.3-8", "10.3-9",
    "10.4-1", "10.4-2", "10.4-3", "10.4-4", "10.4-5", "10.4-6", "10.4-7", "10.4-8", "10.4-9", "10.5-1",
    "10.5-2", "10.5-3", "10.5-4", "10.5-5", "10.6-1", "10.6-2", "10.6-3", "10.6-4", "11-1", "11-2", "11-3",
    "11-4", "11-5", "11-6", "11-7", "11-8", "11-9", "11-10", "11-11", "11-12", "11-13", "11-14", "11-15",
    "11-16", "11-17", "11-18", "11-19", "11-20", "11-21", "11-22", "11-23", "11-24", "11-25", "11-26",
];

/// Requirements where the RFC leaves a choice, or that do not fit what this NAT is for.
#[rustfmt::skip]
pub const OTHERS: &[&str] = &[
    "4787-REQ-1", "4787-REQ-4", "4787-REQ-5a", "4787-REQ-6a", "4787-REQ-8", "4787-REQ-8a",
    "4787-REQ-9, 9a", "5382-REQ-1", "5382-REQ-3, 3a, 3b", "5382-REQ-8, 8a", "5382 sec. 5", "5508-REQ-1a",
    "5508-REQ-7, 7a", "5508-REQ-9", "5508-REQ-10b", "7857-3", "7857-8", "6888-REQ-7", "6888-REQ-9",
    "6888-REQ-12", "4459-3.2 (MSS)", "7422-2", "7422-3", "8158-4.3", "8158-4.6.1", "6302",
];

/// Every requirement.
pub fn ids() -> impl Iterator<Item = &'static str> {
    APPLIES.iter().chain(OTHERS).copied()
}

/// A row.
#[derive(Debug)]
pub struct Row {
    /// The requirement.
    pub id: String,
    /// What is said of it, without emphasis.
    pub status: String,
    /// Where and how, or why not.
    pub how: String,
    /// The tests.
    pub test: String,
}

impl Row {
    /// The tests that the row names, each with its tier. A name without a module is of the module before it.
    pub fn tests(&self) -> Vec<(String, String)> {
        let mut tests: Vec<(String, String)> = Vec::new();
        let (mut tier, mut module) = (String::new(), String::new());
        for (place, part) in self.test.split('`').enumerate() {
            if place % 2 == 0 {
                let mut words = part.split(|letter: char| !letter.is_alphabetic());
                let named = ["bpf", "lab", "engine", "unit", "fuzz", "package"];
                tier = words.rfind(|word| named.contains(word)).map_or(tier, String::from);
                continue;
            }
            let name = match part.rsplit_once("::") {
                Some((own, _)) => {
                    module = own.to_string();
                    part.to_string()
                }
                None => format!("{module}::{part}"),
            };
            tests.push((tier.clone(), name));
        }
        tests
    }
}

/// The rows of all tables that are about requirements.
pub fn table(text: &str) -> Vec<Row> {
    text.lines()
        .filter_map(|line| {
            let cells: Vec<_> =
                line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").map(str::trim).collect();
            let [id, _, _, status, how, test] = cells[..] else { return None };
            if id == "id" || id.starts_with("---") {
                return None;
            }
            let status = status.trim_matches('*').to_string();
            Some(Row { id: id.into(), status, how: how.into(), test: test.into() })
        })
        .collect()
}

/// How a test's name writes a row's id: `4787-REQ-5a` is `rfc4787_req5a`, `5382 sec. 9` is `rfc5382_sec9`, `10.3-4`
/// is `row_10_3_4`.
pub fn short(id: &str) -> String {
    let (id, remark) = match id.split_once(" (") {
        Some((id, remark)) => (id, remark.trim_end_matches(')').to_lowercase()),
        None => (id, String::new()),
    };
    let id = id.split(", ").next().unwrap_or(id).to_lowercase();
    let mut short = id.replace("-req-", "_req").replace(" sec. ", "_sec").replace(['-', '.'], "_");
    if let Some(at) = short.find("_req") {
        // `11a-d` is one row.
        if short[at..].matches('_').count() > 1 {
            short = short.trim_end_matches(|letter: char| letter.is_alphabetic() || letter == '_').into();
        }
    } else if !remark.is_empty() {
        short = format!("{short}_{remark}");
    }
    let rfc = short.split('_').next().is_some_and(|number| number.len() == 4);
    format!("{}{short}", if rfc { "rfc" } else { "row_" })
}
