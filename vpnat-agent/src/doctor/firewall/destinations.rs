//! Which packets a rule is about, as far as their destination and the device that they leave by tell.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Destinations that a rule's text names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destinations {
    /// These only.
    Only(Vec<Ipv4Net>),
    /// All but these; all if there is none.
    Except(Vec<Ipv4Net>),
    /// What it names cannot be told from its text: a set with a name, or a range.
    Unknown,
}

/// Whether a rule can match a packet to a vendor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Match {
    /// None.
    No,
    /// Its text does not tell.
    Unknown,
    /// It does, or may, depending on what else it asks for.
    Yes,
}

impl Destinations {
    /// Of the words of a rule as nft or iptables list it.
    pub fn of(words: &[&str]) -> Self {
        let Some(at) = destination(words) else { return Self::Except(Vec::new()) };
        let (mut negated, mut rest) = (at > 0 && words[at - 1] == "!", &words[at + 1..]);
        if rest.first() == Some(&"!=") {
            (negated, rest) = (true, &rest[1..]);
        }
        match values(rest).iter().map(|value| prefix(value)).collect::<Option<Vec<_>>>() {
            Some(named) if named.is_empty() => Self::Unknown,
            Some(named) if negated => Self::Except(named),
            Some(named) => Self::Only(named),
            None => Self::Unknown,
        }
    }

    /// Whether packets to `vendor` are among them.
    pub fn match_of(&self, vendor: &Ipv4Net) -> Match {
        let overlaps = |named: &Ipv4Net| named.contains(vendor) || vendor.contains(named);
        let yes = match self {
            Self::Only(named) => named.iter().any(overlaps),
            Self::Except(named) => !named.iter().any(|named| named.contains(vendor)),
            Self::Unknown => return Match::Unknown,
        };
        if yes { Match::Yes } else { Match::No }
    }

    /// Whether every packet to `vendor` is one of them.
    pub fn cover(&self, vendor: &Ipv4Net) -> bool {
        match self {
            Self::Only(named) => named.iter().any(|named| named.contains(vendor)),
            Self::Except(named) => {
                !named.iter().any(|named| named.contains(vendor) || vendor.contains(named))
            }
            Self::Unknown => false,
        }
    }
}

/// The device that packets have to leave by for the rule, if it names one, and not what it is not.
pub fn device<'words>(words: &[&'words str]) -> Option<&'words str> {
    let at = words.iter().position(|word| matches!(*word, "oifname" | "oif" | "-o"))?;
    let negated = at > 0 && words[at - 1] == "!";
    let name = words.get(at + 1)?.trim_matches('"');
    // Names with a wildcard, of sets, and negated ones.
    let plain = !negated && !name.starts_with(['!', '{', '@']) && !name.ends_with(['*', '+']);
    plain.then_some(name)
}

/// Where the words speak of the destination's address.
fn destination(words: &[&str]) -> Option<usize> {
    let nft = words.windows(2).position(|pair| pair == ["ip", "daddr"]).map(|at| at + 1);
    nft.or_else(|| words.iter().position(|word| *word == "-d"))
}

/// The values that follow: one, or those of a set.
fn values<'words>(words: &[&'words str]) -> Vec<&'words str> {
    match words.split_first() {
        Some((&"{", set)) => {
            let set = set.iter().take_while(|word| **word != "}");
            set.map(|word| word.trim_end_matches(',')).collect()
        }
        Some((one, _)) => one.split(',').collect(),
        None => Vec::new(),
    }
}

fn prefix(value: &str) -> Option<Ipv4Net> {
    let address = || value.parse::<Ipv4Addr>().ok().map(Ipv4Net::from);
    value.parse().ok().or_else(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rule: &str, vendor: &str) -> (Match, bool) {
        let destinations = Destinations::of(&rule.split_whitespace().collect::<Vec<_>>());
        let vendor = vendor.parse().expect("a prefix");
        (destinations.match_of(&vendor), destinations.cover(&vendor))
    }

    #[test]
    fn destinations_of_rules_as_they_are_listed() {
        use Match::{No, Unknown, Yes};
        for (rule, expected) in [
            ("oifname \"eth0\" masquerade", (Yes, true)),
            ("ip daddr 192.0.2.0/24 masquerade", (Yes, true)),
            ("ip daddr 192.0.0.0/16 masquerade", (Yes, true)),
            ("ip daddr 192.0.2.7 masquerade", (Yes, false)),
            ("ip daddr 10.0.0.0/8 masquerade", (No, false)),
            ("ip daddr != 10.0.0.0/8 masquerade", (Yes, true)),
            ("ip daddr != 192.0.2.0/24 masquerade", (No, false)),
            ("ip daddr != 192.0.2.0/25 masquerade", (Yes, false)),
            ("ip saddr 10.0.2.0/24 ip daddr != { 10.0.0.0/8, 192.0.2.0/24 } counter masquerade", (No, false)),
            ("ip daddr { 10.0.0.0/8, 192.0.2.128/25 } masquerade", (Yes, false)),
            ("ip daddr { 10.0.0.0/8, 172.16.0.0/12 } masquerade", (No, false)),
            ("ip daddr != @private masquerade", (Unknown, false)),
            ("ip daddr 192.0.2.1-192.0.2.9 masquerade", (Unknown, false)),
            ("ip daddr", (Unknown, false)),
            ("-A POSTROUTING -o eth0 -j MASQUERADE", (Yes, true)),
            ("-A POSTROUTING ! -d 192.0.2.0/24 -o eth0 -j MASQUERADE", (No, false)),
            ("-A POSTROUTING -d 192.0.2.0/24 -j ACCEPT", (Yes, true)),
            ("-A POSTROUTING -d 10.0.0.1/32 -j MASQUERADE", (No, false)),
        ] {
            assert_eq!(of(rule, "192.0.2.0/24"), expected, "{rule}");
        }
    }

    #[test]
    fn devices_of_rules_as_they_are_listed() {
        for (rule, expected) in [
            ("oifname \"eth0\" masquerade", Some("eth0")),
            ("oifname != \"eth0\" masquerade", None),
            ("oifname { \"eth0\", \"eth1\" } masquerade", None),
            ("oifname \"eth*\" masquerade", None),
            ("masquerade", None),
            ("-A POSTROUTING -o eth0 -j MASQUERADE", Some("eth0")),
            ("-A POSTROUTING ! -o eth0 -j MASQUERADE", None),
            ("-A POSTROUTING -o eth+ -j MASQUERADE", None),
            ("oifname", None),
        ] {
            assert_eq!(device(&rule.split_whitespace().collect::<Vec<_>>()), expected, "{rule}");
        }
    }
}
