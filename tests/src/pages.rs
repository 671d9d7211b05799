//! The documentation's pages, and the commands in them.
//!
//! A command stands in a fence marked `console`, `sh` or `bash`, or in a block indented by four. Every line there begins with a
//! program of which a test knows how it is run, or the page is refused: a line that nobody runs is one that nobody notices when it is wrong.

/// Every page, by its path.
pub const PAGES: &[(&str, &str)] = &[
    ("ARCHITECTURE.md", include_str!("../../ARCHITECTURE.md")),
    ("CHANGELOG.md", include_str!("../../CHANGELOG.md")),
    ("COMPLIANCE.md", include_str!("../../COMPLIANCE.md")),
    ("README.md", include_str!("../../README.md")),
    ("RELIABILITY.md", include_str!("../../RELIABILITY.md")),
    ("docs/aws.md", include_str!("../../docs/aws.md")),
    ("docs/bench.md", include_str!("../../docs/bench.md")),
    ("docs/reference/config.md", include_str!("../../docs/reference/config.md")),
    ("docs/reference/json.md", include_str!("../../docs/reference/json.md")),
    ("docs/reference/metrics.md", include_str!("../../docs/reference/metrics.md")),
    ("docs/reference/outcomes.md", include_str!("../../docs/reference/outcomes.md")),
    ("docs/runbooks.md", include_str!("../../docs/runbooks.md")),
    ("docs/setups.md", include_str!("../../docs/setups.md")),
];

/// What the commands that are run against a live agent begin with (lab `runbooks::every_command_of_the_documentation_runs`).
const HERE: &[&str] = &["vpnat ", "curl ", "bpftool "];

/// Commands that are run elsewhere.
struct Elsewhere {
    /// What they begin with.
    start: &'static str,
    /// On which page; on every one if empty.
    page: &'static str,
    /// By what.
    #[cfg_attr(not(test), expect(dead_code, reason = "for who reads, and for the list's own test"))]
    by: &'static str,
}

const fn elsewhere(start: &'static str, page: &'static str, by: &'static str) -> Elsewhere {
    Elsewhere { start, page, by }
}

const ELSEWHERE: &[Elsewhere] = &[
    elsewhere("cargo xtask ", "", "xtask `every_call_in_the_documentation_is_understood`, which parses them"),
    elsewhere("dpkg -i ", "README.md", "package `readme::`"),
    elsewhere("cp /usr/share/doc/vpnat/", "README.md", "package `readme::`"),
    elsewhere("systemctl ", "README.md", "package `readme::`"),
    elsewhere("systemctl ", "docs/runbooks.md", "lab `runbooks::rolled_back_to_iptables`"),
    elsewhere("iptables ", "docs/runbooks.md", "lab `runbooks::rolled_back_to_iptables`"),
    elsewhere("ip ", "docs/setups.md", "lab `runbooks::the_tunnel_of_the_setups`, in the guests of `vm`"),
    elsewhere("aws ", "docs/aws.md", "lab `cloud::`, against a stand-in for the API"),
    elsewhere("kubectl ", "docs/aws.md", "lab `cloud::`, likewise"),
];

/// A page's text.
pub fn page(name: &str) -> &'static str {
    PAGES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no page {name}")).1
}

/// The commands of a part of a page, without what stands around them. Panics at a line that no test runs.
pub fn commands(page: &str, text: &str) -> Vec<String> {
    read(page, text).unwrap_or_else(|complaint| panic!("{page}: {complaint}"))
}

/// Whether a command of a page is run against a live agent rather than elsewhere.
pub fn runs_here(command: &str) -> bool {
    HERE.iter().any(|start| command.starts_with(start))
}

/// A block of code.
enum Block {
    /// Nothing but commands.
    Commands,
    /// Indented: commands, unless something is drawn.
    Indented,
    /// No command at all.
    Other,
}

impl Block {
    /// By the word behind a fence.
    fn fenced(language: &str) -> Result<Self, String> {
        match language {
            "console" | "sh" | "bash" => Ok(Self::Commands),
            "text" | "toml" => Ok(Self::Other),
            other => {
                Err(format!("a fence marked `{other}`: console or sh for commands, text or toml for others"))
            }
        }
    }

    fn read(&self, page: &str, lines: &[&str], found: &mut Vec<String>) -> Result<(), String> {
        let drawn = |c: char| matches!(c, '─'..='╿' | '▲' | '►' | '▼' | '◄');
        if matches!(self, Self::Indented) && lines.iter().any(|line| line.contains(drawn)) {
            return Ok(());
        }
        for line in lines {
            let line = line.split(" # ").next().unwrap_or(line).trim();
            let line = line.strip_prefix("$ ").unwrap_or(line);
            let line = line.strip_prefix("sudo ").unwrap_or(line);
            let elsewhere =
                |way: &Elsewhere| line.starts_with(way.start) && (way.page.is_empty() || way.page == page);
            let known = runs_here(line) || ELSEWHERE.iter().any(elsewhere);
            match self {
                Self::Other if known => {
                    return Err(format!("`{line}` is a command: its fence is no console"));
                }
                Self::Other => {}
                _ if line.is_empty() || line.starts_with('#') => {}
                _ if line.ends_with('\\') => {
                    return Err(format!("`{line}` goes on: one line, or nobody runs it"));
                }
                _ if known => found.push(line.to_owned()),
                _ => return Err(format!("who runs `{line}`?")),
            }
        }
        Ok(())
    }
}

fn read(page: &str, text: &str) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let (mut block, mut fence, mut lines) = (Block::Indented, false, Vec::new());
    // A last line that is no part of any block.
    for line in text.lines().chain([""]) {
        let marked = line.trim_start().strip_prefix("```");
        let inside = marked.is_none() && (fence || line.starts_with("    "));
        if inside {
            lines.push(line);
            continue;
        }
        block.read(page, &lines, &mut found)?;
        lines.clear();
        if let Some(language) = marked {
            block = if fence { Block::Indented } else { Block::fenced(language)? };
            fence = !fence;
        }
    }
    if fence { Err("a fence that never ends".into()) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_page_is_in_the_list() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = BTreeSet::new();
        let mut folders = vec![root.join("docs"), root.join("packaging"), root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
                let path = entry.path();
                if path.is_dir() && folder != root {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "md") {
                    let name = path.strip_prefix(&root).expect("below the root");
                    found.insert(name.display().to_string());
                }
            }
        }
        assert_eq!(found, PAGES.iter().map(|(name, _)| name.to_string()).collect());
    }

    #[test]
    fn every_page_is_read_and_every_way_is_used() {
        let mut used = BTreeSet::new();
        for (name, text) in PAGES {
            for line in commands(name, text) {
                let way = |way: &&Elsewhere| line.starts_with(way.start) && [name, ""].contains(&way.page);
                used.extend(ELSEWHERE.iter().find(way).map(|way| (way.start, way.page, way.by)));
            }
        }
        assert_eq!(used, ELSEWHERE.iter().map(|way| (way.start, way.page, way.by)).collect());
    }

    /// What a sentence names in backticks: the verb and its options exist.
    #[test]
    fn every_verb_that_a_sentence_names_is_there() {
        use clap::error::ErrorKind;
        let mut found = 0;
        for (name, text) in PAGES {
            let spans = text.split('`').skip(1).step_by(2);
            for span in spans.filter(|span| span.starts_with("vpnat ") && !span.contains('\n')) {
                match vpnat_agent::cli::command().try_get_matches_from(span.split_whitespace()) {
                    Err(error)
                        if ![
                            ErrorKind::MissingRequiredArgument,
                            ErrorKind::MissingSubcommand,
                            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                        ]
                        .contains(&error.kind()) =>
                    {
                        panic!("{name}: `{span}`: {error}")
                    }
                    _ => found += 1,
                }
            }
        }
        assert!(found > 40, "only {found}");
    }

    #[test]
    fn commands_are_found_wherever_they_stand() {
        let text = "```console\n$ vpnat status   # all\n```\nand\n\n    sudo vpnat doctor\n\n```sh\n# first\n\nip link\n```\n\
                    ```bash\ncurl -s x\n```\n```toml\nx = 1\n```\n```text\na ─ b\n```\n    pods0 ── in0\n    generator --fast\n";
        assert_eq!(
            commands("docs/setups.md", text),
            ["vpnat status", "vpnat doctor", "ip link", "curl -s x"]
        );
    }

    #[test]
    fn what_nobody_runs_is_refused() {
        for (text, complaint) in [
            ("```console\n$ make\n```", "who runs `make`?"),
            ("```console\n$ vpnat status\nall is well\n```", "who runs `all is well`?"),
            ("```sh\nvpn status\n```", "who runs `vpn status`?"),
            ("    generator\n", "who runs `generator`?"),
            ("```sh\nvpnat top \\\n  --once\n```", "`vpnat top \\` goes on"),
            ("```text\nvpnat status\n```", "`vpnat status` is a command"),
            ("```\nvpnat status\n```", "a fence marked ``"),
            ("```shell\nvpnat status\n```", "a fence marked `shell`"),
            ("```sh\nvpnat status\n", "never ends"),
            // Run for another page.
            ("```sh\niptables -L\n```", "who runs `iptables -L`?"),
        ] {
            let said = read("docs/aws.md", text).expect_err(text);
            assert!(said.contains(complaint), "{said}");
        }
    }
}
