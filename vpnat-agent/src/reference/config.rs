//! The configuration: the page, and what vpnat.toml(5) has of it.

use crate::config::catalog::{Fallback, Key, Section, Value, keys};
use crate::config::limits::LONGEST_TIMEOUT;
use crate::config::{Complaint, Config, fixed, refusals};

/// docs/reference/config.md.
pub fn page() -> String {
    let mut text = super::heading(
        "The configuration",
        "`/etc/vpnat/vpnat.toml`, in TOML; `vpnat check --config FILE` says what is wrong with one, each complaint with its line, its reason and\n\
         what to do. Keys that vpnat does not know are refused. `vpnat reload` changes what the running agent works with, but for the keys marked\n\
         *new start*: a reload that would change one of those is refused as a whole.",
    );
    let keys = keys();
    for section in Section::ALL {
        text += &format!("## `{}`\n\n{}\n\n", section.heading(), section.meaning());
        text += "| key | value | default | changed by | meaning |\n|---|---|---|---|---|\n";
        for key in keys.iter().filter(|key| key.section == section) {
            let default = match &key.default {
                Fallback::Required => "required".to_owned(),
                Fallback::Nothing => "none".to_owned(),
                Fallback::Is(value) => format!("`{value}`"),
            };
            let by = if needs_new_start(key) { "*new start*" } else { "reload" };
            text +=
                &format!("| `{}` | {} | {default} | {by} | {} |\n", key.name, form(&key.value), key.meaning);
        }
        text += "\n";
    }
    text + &refused()
}

/// What is said before the examples of what is refused.
pub const REFUSED: &str = "By `vpnat run`, `vpnat reload` and `vpnat check` alike, before anything is touched; a running agent goes on as it was. All that is\n\
     wrong with a file is said at once, each with its place: `what: FILE:LINE:COLUMN: what to do`. Each example is a change to a sound file.\n\
     A file that cannot be read is refused, too. What hangs on the machine rather than on the file (devices, kernel, pins) comes afterwards.";

/// What the parser says of each example.
fn refused() -> String {
    let mut text = format!(
        "## What is refused\n\n{REFUSED}\n\n| example | what is said | what to do |\n|---|---|---|\n"
    );
    for change in refusals::all() {
        if let Some(Complaint { issue, .. }) = change.complaint() {
            text += &format!("| {} | {issue} | {} |\n", change.describe(), issue.remedy());
        }
    }
    text
}

/// What a key takes, in words.
pub fn form(value: &Value) -> String {
    match value {
        Value::Flag => "`true` or `false`".into(),
        Value::Words(words) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
        }
        Value::Number(number) => format!("{} to {}", number.least, number.most),
        Value::Timer(timer) => format!("seconds, {} to {LONGEST_TIMEOUT} ({})", timer.minimum, timer.rule),
        Value::Text(form) => form.clone(),
    }
}

/// Whether a reload cannot change it: as the reload itself says of the key's example.
pub fn needs_new_start(key: &Key) -> bool {
    let parsed = |value| Config::parse(&key.file(value), "vpnat.toml".as_ref()).ok();
    let both = parsed(key.usual()).zip(parsed(Some(&key.example)));
    both.is_some_and(|(old, new)| !fixed(&old, &new).is_empty())
}
