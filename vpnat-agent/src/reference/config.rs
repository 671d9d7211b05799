//! The configuration.

use crate::config::catalog::{Fallback, Key, Section, Value, keys};
use crate::config::{Config, fixed};

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
    text.truncate(text.trim_end().len());
    text + "\n"
}

fn form(value: &Value) -> String {
    match value {
        Value::Flag => "`true` or `false`".into(),
        Value::Words(words) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
        }
        Value::Number(number) => format!("{} to {}", number.least, number.most),
        Value::Timer(timer) if timer.minimum > 1 => {
            format!("seconds, {} or more ({})", timer.minimum, timer.rule)
        }
        Value::Timer(timer) => format!("seconds ({})", timer.rule),
        Value::Text(form) => (*form).into(),
    }
}

/// As the reload itself says of the key's example.
fn needs_new_start(key: &Key) -> bool {
    let parsed = |value| Config::parse(&key.file(value), "vpnat.toml".as_ref()).ok();
    let both = parsed(key.usual()).zip(parsed(Some(&key.example)));
    both.is_some_and(|(old, new)| !fixed(&old, &new).is_empty())
}
