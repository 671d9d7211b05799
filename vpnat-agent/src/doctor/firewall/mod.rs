//! Rules of the machine's own firewall that rewrite sources.

mod destinations;
#[cfg(test)]
mod tests;

use ipnet::Ipv4Net;

use super::checks::{bad, ok};
use super::facts::output;
use super::{Facts, Finding, Level};
use destinations::{Destinations, Match, device};

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// As the firewall lists it.
    pub text: String,
    /// The tool and the chain that it stands in.
    place: Place,
    /// What rules before it in its chain have let go, whatever else they are about.
    let_go: Vec<Destinations>,
}

/// Where a rule stands.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// Family, table and chain, as nft names them.
    Nft(String),
    /// The chain of the older iptables' `nat` table.
    Legacy(String),
}

/// All that nft and the older iptables list; `None` if neither can.
pub fn rules() -> Option<Vec<Rule>> {
    let nft = output("nft", &["list", "ruleset"]).map(|text| in_nft(&text));
    let legacy = output("iptables-legacy-save", &["-t", "nat"]).map(|text| in_legacy(&text));
    if nft.is_none() && legacy.is_none() {
        return None;
    }
    Some(nft.into_iter().chain(legacy).flatten().collect())
}

/// What there is to find fault with.
pub fn check(facts: &Facts) -> Vec<Finding> {
    const WHY: &str = "What vpnat leaves to the stack passes this rule on its way: it gets another source before vpnat sees it, and is dropped as nobody's that is allowed.";
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
    let prefixes: Vec<Ipv4Net> =
        facts.config.vendors.iter().flat_map(|vendor| vendor.cidrs.iter().copied()).collect();
    let findings = rules.iter().filter_map(|rule| {
        let (matched, prefixes) = rule.matches(&prefixes, &facts.config.outside);
        let what = match matched {
            Match::No => return None,
            Match::Unknown => "a rule rewrites sources, perhaps of packets to a vendor, too",
            Match::Yes => "a rule rewrites sources of packets to a vendor, too",
        };
        Some(bad("firewall", Level::Warning, format!("{what}: {}", rule.text), WHY, rule.spare(&prefixes)))
    });
    let findings: Vec<_> = findings.collect();
    if findings.is_empty() {
        return vec![ok("firewall", "rules that rewrite sources spare the packets to vendors")];
    }
    findings
}

impl Rule {
    /// Whether it can match a packet to one of `prefixes` that leaves by one of the devices `outside`, and to which.
    fn matches(&self, prefixes: &[Ipv4Net], outside: &[String]) -> (Match, Vec<Ipv4Net>) {
        let words: Vec<_> = self.text.split_whitespace().collect();
        // To a vendor nothing leaves by any other device.
        if device(&words).is_some_and(|device| !outside.iter().any(|outside| outside == device)) {
            return (Match::No, Vec::new());
        }
        let destinations = Destinations::of(&words);
        let judged = prefixes.iter().filter_map(|prefix| {
            let spared = self.let_go.iter().any(|earlier| earlier.cover(prefix));
            let matched = if spared { Match::No } else { destinations.match_of(prefix) };
            (matched != Match::No).then_some((matched, *prefix))
        });
        let judged: Vec<_> = judged.collect();
        let worst = judged.iter().map(|(matched, _)| *matched).max().unwrap_or(Match::No);
        (worst, judged.into_iter().map(|(_, prefix)| prefix).collect())
    }

    /// The command that lets packets to `prefixes` go before they come to the rule.
    fn spare(&self, prefixes: &[Ipv4Net]) -> String {
        let list = |between: &str| prefixes.iter().map(Ipv4Net::to_string).collect::<Vec<_>>().join(between);
        match &self.place {
            Place::Nft(chain) => format!("nft insert rule {chain} ip daddr {{ {} }} accept", list(", ")),
            Place::Legacy(chain) => format!("iptables-legacy -t nat -I {chain} -d {} -j ACCEPT", list(",")),
        }
    }
}

/// Rules of a chain, as they are read one after the other.
struct Chain {
    place: Place,
    let_go: Vec<Destinations>,
}

impl Chain {
    const fn new(place: Place) -> Self {
        Self { place, let_go: Vec::new() }
    }

    /// Reads the next rule; one that rewrites sources is returned.
    fn read(&mut self, text: &str) -> Option<Rule> {
        let words: Vec<_> = text.split_whitespace().collect();
        let has = |which: &[&str]| words.iter().any(|word| which.contains(&word.trim_matches('"')));
        if has(&["masquerade", "snat", "MASQUERADE", "SNAT"]) {
            let (place, let_go) = (self.place.clone(), self.let_go.clone());
            return Some(Rule { text: text.to_owned(), place, let_go });
        }
        if has(&["accept", "ACCEPT", "return", "RETURN"]) && asks_for_destination_only(&words) {
            self.let_go.push(Destinations::of(&words));
        }
        None
    }
}

/// Whether a rule asks for nothing but where a packet goes.
fn asks_for_destination_only(words: &[&str]) -> bool {
    let mut words = words.iter().copied().peekable();
    while let Some(word) = words.next() {
        match word {
            "-A" | "-j" | "packets" | "bytes" => drop(words.next()),
            "ip" if words.peek() == Some(&"daddr") => {}
            "{" => drop(words.by_ref().find(|word| *word == "}")),
            "!" | "!=" | "-d" | "daddr" | "counter" | "accept" | "return" => {}
            value if value.starts_with(|first: char| first.is_ascii_digit()) => {}
            _ => return false,
        }
    }
    true
}

/// What `nft list ruleset` prints. Tables of IPv6 are nobody's whom vpnat serves.
pub fn in_nft(listing: &str) -> Vec<Rule> {
    let mut table = String::new();
    let mut chain = Chain::new(Place::Nft(String::new()));
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        let name = |line: &str| line.trim_end_matches(['{', ' ']).to_owned();
        if let Some(rest) = line.strip_prefix("table ") {
            table = name(rest);
        } else if let Some(rest) = line.strip_prefix("chain ") {
            chain = Chain::new(Place::Nft(format!("{table} {}", name(rest))));
        } else if !line.starts_with("type ") && !table.starts_with("ip6 ") {
            found.extend(chain.read(line));
        }
    }
    found
}

/// What `iptables-legacy-save -t nat` prints: the rules of a chain stand in order, but among those of others.
pub fn in_legacy(listing: &str) -> Vec<Rule> {
    let mut chains: Vec<(&str, Chain)> = Vec::new();
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        let Some(name) = line.strip_prefix("-A ").and_then(|rest| rest.split_whitespace().next()) else {
            continue;
        };
        let at = chains.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            chains.push((name, Chain::new(Place::Legacy(name.to_owned()))));
            chains.len() - 1
        });
        found.extend(chains[at].1.read(line));
    }
    found
}
