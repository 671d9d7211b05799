//! Pages of the reference that are made from the code, so that they cannot say anything else than the code does.
//!
//! A page is a name and a function that writes it; [`PAGES`] has all of them. The hidden verb `vpnat reference` writes
//! them to `docs/reference`, and a test fails when what lies there is not what the code says.

pub mod config;
mod drops;
mod json;
mod metrics;

/// A page: file name and contents.
pub struct Page {
    /// Below `docs/reference`.
    pub file: &'static str,
    /// Writes it.
    pub write: fn() -> String,
}

/// Every page.
pub const PAGES: &[Page] = &[
    Page { file: "config.md", write: config::page },
    Page { file: "metrics.md", write: metrics::page },
    Page { file: "outcomes.md", write: drops::page },
    Page { file: "json.md", write: json::page },
];

/// What every page begins with.
fn heading(title: &str, text: &str) -> String {
    format!(
        "<!-- Made from the code by `vpnat reference docs/reference`; do not edit. -->\n# {title}\n\n{text}\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_pages_are_current() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference"));
        for page in PAGES {
            let path = folder.join(page.file);
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                found == (page.write)(),
                "{} is stale: `cargo run -p vpnat-agent -- reference docs/reference` writes it anew",
                path.display()
            );
        }
    }
}
