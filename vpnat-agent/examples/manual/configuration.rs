//! vpnat.toml(5), made from what docs/reference/config.md is made from.

use roff::{Inline, Roff, bold, italic, roman};
use vpnat_agent::config::catalog::{Fallback, Key, Section, keys, smallest};
use vpnat_agent::config::refusals;
use vpnat_agent::reference::config::{REFUSED, form, needs_new_start};

use super::see_also;

/// The page's name.
pub const NAME: &str = "vpnat.toml";

/// The page, without its title's date and version.
pub fn page() -> Roff {
    let mut page = Roff::new();
    page.control("TH", [NAME, "5"]);
    section(&mut page, "NAME");
    page.text([roman(format!("{NAME} - configuration of vpnat, source NAT in the kernel"))]);
    section(&mut page, "SYNOPSIS");
    page.text([italic("/etc/vpnat/vpnat.toml")]);
    section(&mut page, "DESCRIPTION");
    paragraphs(
        &mut page,
        "The file is TOML. `vpnat check --config FILE` says what is wrong with one, each complaint with its line, its reason and what to do. \
         Keys that vpnat does not know are refused.\n\n\
         `vpnat reload` changes what the running agent works with, but for the keys that a new start changes: a reload that would change \
         one of those is refused as a whole.",
    );
    let keys = keys();
    for part in Section::ALL {
        section(&mut page, part.heading());
        page.text(marked(part.meaning()));
        for key in keys.iter().filter(|key| key.section == part) {
            describe(&mut page, key);
        }
    }
    section(&mut page, "WHAT IS REFUSED");
    paragraphs(&mut page, REFUSED);
    for change in refusals::all() {
        if let Some(complaint) = change.complaint() {
            page.control("TP", []).text(marked(&change.describe()));
            page.text(marked(&format!("{}: {}.", complaint.issue, complaint.issue.remedy())));
        }
    }
    section(&mut page, "EXAMPLE");
    page.text([roman("The smallest configuration:")]);
    page.control("PP", []).control("nf", []).text([roman(smallest().trim_end())]).control("fi", []);
    section(&mut page, "FILES");
    for (file, what) in [
        ("/etc/vpnat/vpnat.toml", "Read unless `--config` names another."),
        ("/usr/share/doc/vpnat/vpnat.example.toml", "Every key with its default, to copy from."),
    ] {
        page.control("TP", []).text([italic(file)]).text(marked(what));
    }
    let others = [("vpnat", 1), ("vpnat-check", 1), ("vpnat-run", 1), ("vpnat-reload", 1)];
    page.extend([see_also(others.into_iter())]);
    page
}

fn section(page: &mut Roff, heading: &str) {
    page.control("SH", [heading]);
}

fn paragraphs(page: &mut Roff, text: &str) {
    for (place, paragraph) in text.split("\n\n").enumerate() {
        if place > 0 {
            page.control("PP", []);
        }
        page.text(marked(paragraph));
    }
}

fn describe(page: &mut Roff, key: &Key) {
    let mut head = vec![bold(key.name), roman(" = ")];
    head.extend(marked(&form(&key.value)));
    page.control("TP", []).text(head).text(marked(key.meaning));
    let default = match &key.default {
        Fallback::Required => "Required".to_owned(),
        Fallback::Nothing => "Nothing without it".to_owned(),
        Fallback::Is(value) => format!("Default: `{value}`"),
    };
    let by = if needs_new_start(key) { "a new start" } else { "a reload" };
    page.control("br", []).text(marked(&format!("{default}. Changed by {by}.")));
}

/// Text with what stands between backticks in bold.
fn marked(text: &str) -> Vec<Inline> {
    let pieces = text.split('`').enumerate();
    let shown = pieces.filter(|(_, piece)| !piece.is_empty());
    shown.map(|(place, piece)| if place % 2 == 1 { bold(piece) } else { roman(piece) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_every_refusal_is_on_the_page() {
        let text = page().render();
        for key in keys() {
            let name = key.name.replace('-', r"\-");
            assert!(text.contains(&format!("\n.TP\n\\fB{name}\\fR = ")), "{name}");
        }
        for part in Section::ALL {
            let heading = part.heading();
            assert!(text.contains(&format!(".SH {heading}\n")), "{heading}");
        }
        assert_eq!(text.matches("\n.TP\n").count(), keys().len() + refusals::all().len() + 2);
    }

    #[test]
    fn no_backtick_is_left() {
        assert!(!page().render().contains('`'));
    }
}
