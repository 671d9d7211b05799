//! Rules of the machine's own firewall that rewrite sources.

use super::checks::{bad, ok};
use super::facts::output;
use super::{Facts, Finding, Level};

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// As the firewall lists it.
    pub text: String,
    /// The command that deletes it.
    pub delete: String,
}

/// All that nft and the older iptables list; `None` if neither can.
pub fn rules() -> Option<Vec<Rule>> {
    let nft = output("nft", &["-a", "list", "ruleset"]).map(|text| in_nft(&text));
    let legacy = output("iptables-legacy-save", &["-t", "nat"]).map(|text| in_legacy(&text));
    if nft.is_none() && legacy.is_none() {
        return None;
    }
    Some(nft.into_iter().chain(legacy).flatten().collect())
}

/// What there is to find fault with.
pub fn check(facts: &Facts) -> Vec<Finding> {
    const WHY: &str = "Rules that rewrite sources track every packet of the stack, and may claim those that vpnat leaves to it.";
    let Some(rules) = facts.rewriting_rules.as_deref() else {
        return vec![bad(
            "firewall",
            Level::Warning,
            "neither nft nor iptables-legacy-save could list the rules",
            WHY,
            "apt-get install nftables",
        )];
    };
    if rules.is_empty() {
        return vec![ok("firewall", "no rule rewrites sources")];
    }
    let each = rules.iter().map(|rule| {
        bad(
            "firewall",
            Level::Warning,
            format!("a rule rewrites sources: {}", rule.text),
            WHY,
            rule.delete.clone(),
        )
    });
    each.collect()
}

/// Whether a rule of either tool's rewrites sources.
fn rewrites(rule: &str) -> bool {
    let mut words = rule.split_whitespace();
    words.any(|word| matches!(word, "masquerade" | "snat" | "MASQUERADE" | "SNAT"))
}

/// What `nft -a list ruleset` prints: a rule is named by its family, table, chain and handle.
pub fn in_nft(listing: &str) -> Vec<Rule> {
    let (mut table, mut chain) = (String::new(), String::new());
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        let (rule, handle) = line.rsplit_once("# handle ").unwrap_or((line, ""));
        let rule = rule.trim();
        if let Some(name) = rule.strip_prefix("table ") {
            table = name.trim_end_matches(['{', ' ']).to_owned();
        } else if let Some(name) = rule.strip_prefix("chain ") {
            chain = name.trim_end_matches(['{', ' ']).to_owned();
        } else if rewrites(rule) && !rule.starts_with("type ") {
            let delete = format!("nft delete rule {table} {chain} handle {handle}");
            found.push(Rule { text: rule.to_owned(), delete });
        }
    }
    found
}

/// What `iptables-legacy-save -t nat` prints: a rule is deleted by its own words.
pub fn in_legacy(listing: &str) -> Vec<Rule> {
    let rules = listing.lines().map(str::trim).filter(|line| rewrites(line));
    let found = rules.filter_map(|line| {
        let words = line.strip_prefix("-A ")?;
        Some(Rule { text: line.to_owned(), delete: format!("iptables-legacy -t nat -D {words}") })
    });
    found.collect()
}
