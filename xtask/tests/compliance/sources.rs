//! Where tests are, and what their names say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use xtask::workspace_root;

/// The folders that a tier's tests are found in.
fn folders(tier: &str) -> &'static [&'static str] {
    match tier {
        "bpf" => &["tests/tests/bpf"],
        "lab" => &["tests/tests/lab"],
        "engine" => &["vpnat-common/tests/engine"],
        "fuzz" => &["fuzz/tests", "fuzz/src"],
        "package" => &["tests/tests/package"],
        "unit" => &["vpnat-agent/src", "vpnat-common/src", "xtask/src", "tests/src"],
        _ => &[],
    }
}

/// Every source with tests.
pub struct Sources {
    files: Vec<(PathBuf, String)>,
}

impl Sources {
    /// Reads them all.
    pub fn read() -> Self {
        let mut files = Vec::new();
        for tier in ["bpf", "lab", "engine", "fuzz", "package", "unit"] {
            for folder in folders(tier) {
                read_folder(&workspace_root().join(folder), &mut files);
            }
        }
        Self { files }
    }

    /// Whether the tier has the test, in a file that its modules name.
    pub fn has(&self, tier: &str, test: &str) -> bool {
        let mut modules: Vec<&str> = test.split("::").collect();
        let Some(name) = modules.pop() else { return false };
        let function = format!("fn {name}(");
        self.files.iter().any(|(path, text)| {
            let place = path.to_string_lossy();
            let there = folders(tier).iter().any(|folder| place.contains(&format!("/{folder}/")));
            let named = modules.iter().filter(|module| **module != "tests").all(|module| {
                let part =
                    |part: &std::ffi::OsStr| Path::new(part).file_stem().is_some_and(|stem| stem == *module);
                path.iter().any(part)
            });
            there && named && text.contains(&function)
        })
    }

    /// Tests that bear ids: the name with its last module, and each id.
    pub fn bearing_ids(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (path, text) in &self.files {
            let module =
                path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            for line in text.lines() {
                let Some(rest) = line.trim_start().strip_prefix("fn ") else { continue };
                let name = rest.split('(').next().unwrap_or(rest);
                found.extend(ids_in(name).into_iter().map(|id| (format!("{module}::{name}"), id)));
            }
        }
        found
    }
}

fn read_folder(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            read_folder(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            files.push((path, text));
        }
    }
}

/// The ids that a test's name begins with, as [`rows::short`](super::rows::short) writes them.
pub fn ids_in(name: &str) -> BTreeSet<String> {
    let name = name.rsplit("::").next().unwrap_or(name);
    let mut words = name.split('_').peekable();
    let mut ids = BTreeSet::new();
    let number = |word: &&str| word.starts_with(|letter: char| letter.is_ascii_digit());
    while let Some(word) = words.next() {
        let mut id = String::from(word);
        match word.strip_prefix("rfc") {
            Some(rfc) if rfc.parse::<u16>().is_ok() => {}
            None if word == "row" && words.peek().is_some_and(number) => {}
            _ => break,
        }
        let numbered = |word: &&str, name: &str| word.strip_prefix(name).is_some_and(|rest| number(&rest));
        if let Some(next) = words.next_if(|next| numbered(next, "req") || numbered(next, "sec")) {
            id = format!("{id}_{next}");
            if next.starts_with("req") {
                ids.insert(id);
                continue;
            }
        }
        while let Some(next) = words.next_if(|next| next.bytes().all(|letter| letter.is_ascii_digit())) {
            id = format!("{id}_{next}");
        }
        if let Some(remark) = words.next_if(|next| ["sessions", "own", "mss", "signal"].contains(next)) {
            id = format!("{id}_{remark}");
        }
        ids.insert(id);
    }
    ids
}
