use super::*;

const VENDORS: [&str; 2] = ["192.0.2.0/24", "198.51.100.0/24"];

/// What each rule is found to do to packets to the vendors by way of eth0, and the command that spares them.
fn judged(rules: Vec<Rule>) -> Vec<(String, Match, String)> {
    let prefixes = VENDORS.map(|prefix| prefix.parse().expect("a prefix"));
    let each = rules.into_iter().map(|rule| {
        let (matched, prefixes) = rule.matches(&prefixes, &["eth0".to_owned()]);
        (rule.text.clone(), matched, if prefixes.is_empty() { String::new() } else { rule.spare(&prefixes) })
    });
    each.collect()
}

fn nft(rules: &str) -> Vec<(String, Match, String)> {
    judged(in_nft(&format!(
        "table ip nat {{\n\tchain post {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n{rules}\n\t}}\n}}\n"
    )))
}

#[test]
fn rules_are_found_with_the_command_that_spares_the_vendors() {
    let both = "nft insert rule ip nat post ip daddr { 192.0.2.0/24, 198.51.100.0/24 } accept";
    assert_eq!(
        nft("\t\toifname \"eth0\" masquerade\n\t\tcounter packets 0 bytes 0 accept"),
        [("oifname \"eth0\" masquerade".to_owned(), Match::Yes, both.to_owned())]
    );
    let other = in_nft("table inet other {\n\tchain out {\n\t\tsnat ip to 1.2.3.4\n\t}\n}\n");
    assert_eq!(judged(other)[0].2, both.replace("ip nat post", "inet other out"));
    // As nft lists a rule of iptables' that it cannot put into its own words.
    assert_eq!(nft("counter packets 0 bytes 0 xt target \"MASQUERADE\"")[0].1, Match::Yes);
    assert_eq!(judged(in_nft("table ip6 nat {\n\tchain post {\n\t\tmasquerade\n\t}\n}\n")), []);
}

#[test]
fn rules_that_spare_the_vendors() {
    let one = |rule: &str| nft(rule).remove(0).1;
    assert_eq!(one("oifname \"eth9\" masquerade"), Match::No);
    assert_eq!(one("ip daddr != { 192.0.2.0/24, 198.51.100.0/24 } masquerade"), Match::No);
    assert_eq!(one("ip daddr != 192.0.2.0/24 masquerade"), Match::Yes);
    assert_eq!(one("ip daddr != @vendors masquerade"), Match::Unknown);
    let spared = "ip daddr { 192.0.2.0/24, 198.51.100.0/24 } counter packets 1 bytes 2 accept\n";
    assert_eq!(one(&format!("{spared}masquerade")), Match::No);
    // Only for some of their packets, or too late.
    assert_eq!(one(&format!("tcp dport 443 {spared}masquerade")), Match::Yes);
    assert_eq!(one(&format!("masquerade\n{spared}")), Match::Yes);
    let half = nft("ip daddr 192.0.2.0/24 return\nmasquerade").remove(0);
    assert_eq!(
        (half.1, half.2.as_str()),
        (Match::Yes, "nft insert rule ip nat post ip daddr { 198.51.100.0/24 } accept")
    );
}

#[test]
fn rules_of_the_older_iptables() {
    let listing = "*nat\n:POSTROUTING ACCEPT [0:0]\n:OTHER - [0:0]\n-A POSTROUTING -d 192.0.2.0/24 -j ACCEPT\n-A OTHER -o eth0 -j MASQUERADE\n-A POSTROUTING -o eth0 -j MASQUERADE\n-A POSTROUTING ! -d 192.0.0.0/8 -o eth9 -j MASQUERADE\n-A POSTROUTING -j ACCEPT\nCOMMIT\n";
    let found = judged(in_legacy(listing));
    assert_eq!(
        found.iter().map(|(_, matched, fix)| (*matched, fix.as_str())).collect::<Vec<_>>(),
        [
            (Match::Yes, "iptables-legacy -t nat -I OTHER -d 192.0.2.0/24,198.51.100.0/24 -j ACCEPT"),
            (Match::Yes, "iptables-legacy -t nat -I POSTROUTING -d 198.51.100.0/24 -j ACCEPT"),
            (Match::No, ""),
        ]
    );
}

#[test]
fn broken_listings_break_nothing() {
    for listing in
        ["", "table", "chain {", "-A", "-A ", "ip daddr", "table ip x {\nchain y {\nip daddr { masquerade"]
    {
        let _ = (judged(in_nft(listing)), judged(in_legacy(listing)));
    }
}
