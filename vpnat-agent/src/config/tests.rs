//! One test per rule: the message with its place, and what to do.

use std::path::Path;

use proptest::prelude::*;

use super::*;

const DATAPATH: &str = "[datapath]\ninside = [\"eth1\"]\noutside = [\"eth0\"]\n";

/// A sound vendor section, with `extra` lines at its end.
fn vendor(name: &str, cidr: &str, extra: &str) -> String {
    format!(
        "[[vendor]]\nname = \"{name}\"\ncidrs = [\"{cidr}\"]\negress_ips = [\"10.0.1.10\"]\n\
         allow_from = [\"10.0.2.0/24\"]\n{extra}\n"
    )
}

fn sound(extra: &str) -> String {
    format!("{DATAPATH}{}", vendor("vendor-a", "192.0.2.0/24", extra))
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("vpnat.toml"))
}

fn complaint(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

/// Replaces one part of a sound file and returns the complaint.
fn complaint_after(from: &str, to: &str) -> String {
    let text = sound("");
    assert!(text.contains(from), "{from}");
    complaint(&text.replacen(from, to, 1))
}

#[test]
fn the_example_is_sound_and_says_the_defaults() {
    let text = include_str!("../../vpnat.example.toml");
    let config = parse(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.warnings, Vec::<String>::new());
    // Every commented key, switched on, is a sound file that says nothing but the defaults.
    let full: String = text
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line))
        .fold(String::new(), |all, line| all + line + "\n");
    let full = parse(&full).unwrap_or_else(|error| panic!("{error}"));
    let defaults = parse(&format!("[flow_log]\njson = \"stdout\"\n{}", sound(""))).unwrap().flow_log.unwrap();
    let shown = full.flow_log.clone().expect("a flow log, which is off by default");
    assert_eq!(FlowLog { json: defaults.json.clone(), ipfix: None, ..shown }, defaults);
    assert_eq!(Config { flow_log: None, ..full }, config);
}

#[test]
fn flow_log() {
    let with = |lines: &str| format!("[flow_log]\n{lines}{}", sound(""));
    let place = |lines: &str| parse(&with(lines)).unwrap().flow_log.unwrap().json;
    assert_eq!(place("json = \"journal\"\n"), Some(FlowLogTarget::Journal));
    assert_eq!(place("json = \"/var/log/x\"\n"), Some(FlowLogTarget::File("/var/log/x".into())));
    assert_eq!(place("ipfix = \"10.0.9.9:4739\"\n"), None);
    for (lines, words) in [
        ("keep = 3\n", "the flow log writes nowhere: vpnat.toml:1:1: set json, ipfix or both"),
        (
            "json = \"flows.jsonl\"\n",
            "`flows.jsonl` is no place for the flow log: vpnat.toml:2:8: write a file's absolute",
        ),
        (
            "json = \"stdout\"\nmax_size_mb = 0\n",
            "flow_log.max_size_mb = 0 is out of range: vpnat.toml:3:15: use 1 to",
        ),
        (
            "json = \"stdout\"\nbuffer_kib = 100\n",
            "buffer_kib = 100 is not a size that the kernel takes: vpnat.toml:3:14: use a power",
        ),
        ("ipfix = \"collector\"\n", "vpnat.toml:2:9"),
    ] {
        let text = complaint(&with(lines));
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn defaults() {
    let config = parse(&sound("")).unwrap();
    assert_eq!(config.metrics.to_string(), "127.0.0.1:9477");
    assert_eq!(config.pin_root, Path::new(DEFAULT_PIN_ROOT));
    assert!(config.enable_forwarding);
    assert_eq!(config.xdp, XdpChoice::Auto);
    assert_eq!(config.max_flows, DEFAULT_MAX_FLOWS);
    assert_eq!(config.refusal_answers, DEFAULT_REFUSAL_ANSWERS);
    assert_eq!(config.vendors[0].refuse, Refuse::HostUnreachable);
    let vendor = &config.vendors[0];
    assert_eq!(vendor.ports, PortRange { min: 1024, max: 65535 });
    assert!(vendor.tcp_pick_up);
    assert_eq!(vendor.mapping, Mapping::EndpointDependent);
    assert_eq!((vendor.max_flows_per_source, vendor.new_flows_per_source, vendor.port_hold), (0, 0, 120));
    assert_eq!(vendor.max_held_ports, 0);
    assert_eq!(vendor.timeouts, Timeouts::DEFAULT);
}

#[test]
fn one_device_on_both_sides_is_allowed() {
    let config = parse(&sound("").replace("\"eth1\"", "\"eth0\"")).unwrap();
    assert_eq!(config.sides_of("eth0"), (true, true));
    assert_eq!(config.devices(), ["eth0"]);
}

#[test]
fn nested_prefixes_of_one_vendor_are_allowed() {
    parse(&sound("").replace("[\"192.0.2.0/24\"]", "[\"192.0.2.0/24\", \"192.0.2.128/25\"]")).unwrap();
}

#[test]
fn vendors_may_share_an_egress_address() {
    parse(&format!("{}{}", sound(""), vendor("vendor-b", "198.51.100.0/24", ""))).unwrap();
}

#[test]
fn unknown_key() {
    let text = complaint_after("inside =", "insides =");
    assert!(text.starts_with("unknown field `insides`"), "{text}");
    assert!(text.contains("vpnat.toml:2:1: remove or correct this key"), "{text}");
    for section in ["[agent]\nx = 1\n", "[agents]\n"] {
        assert!(complaint(&format!("{section}{}", sound(""))).contains("unknown field"), "{section}");
    }
    assert!(complaint(&sound("x = 1")).contains("unknown field `x`"));
    assert!(complaint(&sound("[vendor.timeouts]\nx = 1")).contains("unknown field `x`"));
}

#[test]
fn missing_key() {
    let text = complaint_after("outside = [\"eth0\"]\n", "");
    assert!(text.starts_with("missing field `outside`: vpnat.toml:1:1: add the missing key"), "{text}");
}

#[test]
fn not_toml() {
    let text = complaint_after("inside = [", "inside = ");
    assert!(text.contains("vpnat.toml:2:"), "{text}");
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn xdp_choice_unknown() {
    let text = complaint_after("[datapath]\n", "[datapath]\nxdp = \"fast\"\n");
    assert!(text.contains("unknown variant `fast`"), "{text}");
    assert!(text.contains("vpnat.toml:2:7"), "{text}");
}

#[test]
fn no_vendor() {
    assert_eq!(complaint(DATAPATH), "no vendor is configured: vpnat.toml:1:1: add a [[vendor]] section");
}

#[test]
fn too_many_vendors() {
    let mut text = DATAPATH.to_owned();
    for number in 0..64 {
        text += &vendor(&format!("v{number}"), &format!("192.0.2.{number}/32"), "");
    }
    assert!(complaint(&text).starts_with("64 vendors are configured, more than 63: vpnat.toml:382:"));
}

#[test]
fn duplicate_name() {
    let text = format!("{}{}", sound(""), vendor("vendor-a", "198.51.100.0/24", ""));
    assert_eq!(
        complaint(&text),
        "the vendor name `vendor-a` is used twice: vpnat.toml:11:8: give each vendor a name of its own"
    );
}

#[test]
fn bad_names() {
    for name in ["", "a-name-of-16-byt", "two words", "-a", "a/b", "ä"] {
        let text = complaint_after("\"vendor-a\"", &format!("\"{name}\""));
        assert!(
            text.starts_with(&format!("`{name}` is not a usable vendor name: vpnat.toml:5:8: use 1 to 15"))
        );
    }
}

#[test]
fn overlapping_vendors() {
    let text = format!("{}{}", sound(""), vendor("vendor-b", "192.0.2.128/25", ""));
    assert_eq!(
        complaint(&text),
        "192.0.2.128/25 of vendor `vendor-b` overlaps 192.0.2.0/24 of vendor `vendor-a`: vpnat.toml:12:10: \
         a destination belongs to one vendor: shrink one of the two prefixes"
    );
}

#[test]
fn egress_inside_allow_from() {
    let text = complaint_after("10.0.1.10", "10.0.2.10");
    assert!(
        text.starts_with(
            "egress address 10.0.2.10 lies inside allow_from 10.0.2.0/24 of vendor `vendor-a`: vpnat.toml:7:15:"
        ),
        "{text}"
    );
}

#[test]
fn egress_inside_vendor() {
    let text = complaint_after("10.0.1.10", "192.0.2.10");
    assert!(
        text.starts_with(
            "egress address 192.0.2.10 lies inside 192.0.2.0/24 of vendor `vendor-a`: vpnat.toml:7:15:"
        ),
        "{text}"
    );
}

#[test]
fn allow_from_overlaps_vendor() {
    let text = complaint_after("10.0.2.0/24", "192.0.2.0/25");
    assert!(
        text.starts_with(
            "allow_from 192.0.2.0/25 overlaps 192.0.2.0/24 of vendor `vendor-a`: vpnat.toml:8:15:"
        ),
        "{text}"
    );
}

#[test]
fn host_bits() {
    assert_eq!(
        complaint_after("192.0.2.0/24", "192.0.2.1/24"),
        "`192.0.2.1/24` has host bits set: vpnat.toml:6:10: \
         write 192.0.2.0/24, or a longer prefix if a part was meant"
    );
}

#[test]
fn malformed_prefix_and_address() {
    assert!(complaint_after("192.0.2.0/24", "192.0.2.0").contains("`192.0.2.0` is not an IPv4 prefix"));
    assert!(complaint_after("10.0.1.10", "10.0.1.10/32").contains("`10.0.1.10/32` is not an IPv4 address"));
}

#[test]
fn ipv6() {
    let says = "is IPv6, which vpnat does not translate";
    assert!(
        complaint_after("192.0.2.0/24", "::1/128").contains(&format!("`::1/128` {says}: vpnat.toml:6:10"))
    );
    assert!(complaint_after("10.0.1.10", "::1").contains(&format!("`::1` {says}: vpnat.toml:7:15")));
}

#[test]
fn unusable_egress() {
    for address in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        let text = complaint_after("10.0.1.10", address);
        assert!(text.contains(&format!("{address} cannot be a source address")), "{text}");
    }
}

#[test]
fn duplicates_within_a_list() {
    let text = complaint_after("[\"10.0.1.10\"]", "[\"10.0.1.10\", \"10.0.1.10\"]");
    assert_eq!(text, "egress address 10.0.1.10 is listed twice: vpnat.toml:7:28: list it once");
    let text = complaint_after("[\"192.0.2.0/24\"]", "[\"192.0.2.0/24\", \"192.0.2.0/24\"]");
    assert_eq!(text, "prefix 192.0.2.0/24 is listed twice: vpnat.toml:6:26: list it once");
}

#[test]
fn too_many_egress_addresses() {
    let nine: Vec<String> = (10..19).map(|last| format!("\"10.0.1.{last}\"")).collect();
    let text = complaint_after("\"10.0.1.10\"", &nine.join(", "));
    assert!(text.starts_with("9 egress addresses, more than 8: vpnat.toml:7:14: keep 8"), "{text}");
}

#[test]
fn empty_lists() {
    for (from, list) in [
        ("[\"eth1\"]", "inside"),
        ("[\"eth0\"]", "outside"),
        ("[\"192.0.2.0/24\"]", "cidrs"),
        ("[\"10.0.1.10\"]", "egress_ips"),
        ("[\"10.0.2.0/24\"]", "allow_from"),
    ] {
        let text = complaint_after(from, "[]");
        assert!(text.starts_with(&format!("`{list}` is empty: vpnat.toml:")), "{text}");
        assert!(text.ends_with(&format!("list at least one entry in `{list}`")), "{text}");
    }
}

#[test]
fn exempt_must_be_a_part() {
    parse(&sound("exempt = [\"192.0.2.64/26\"]")).unwrap();
    let text = complaint(&sound("exempt = [\"198.51.100.0/24\"]"));
    assert!(
        text.starts_with("exempt 198.51.100.0/24 is not inside the vendor's cidrs: vpnat.toml:9:11"),
        "{text}"
    );
    let text = complaint(&sound("exempt = [\"192.0.2.0/24\"]"));
    assert!(text.starts_with("exempt 192.0.2.0/24 is also in the vendor's cidrs: vpnat.toml:9:11"), "{text}");
}

#[test]
fn ports() {
    let at = "vpnat.toml:9:9";
    assert_eq!(
        complaint(&sound("ports = \"2000-1024\"")),
        format!("port range 2000-1024 is reversed: {at}: write \"1024-2000\"")
    );
    assert_eq!(
        complaint(&sound("ports = \"80-2000\"")),
        format!(
            "port range 80-2000 reaches below 1024: {at}: begin at 1024 or above: lower ports are the system's"
        )
    );
    for text in ["1024", "1024-70000", "a-b", ""] {
        let said = complaint(&sound(&format!("ports = \"{text}\"")));
        assert!(said.starts_with(&format!("`{text}` is not a port range: {at}:")), "{said}");
    }
    assert_eq!(
        parse(&sound("ports = \"32768-60999\"")).unwrap().vendors[0].ports,
        PortRange { min: 32768, max: 60999 }
    );
}

#[test]
fn short_timers_need_saying() {
    let short = "[vendor.timeouts]\nudp = 30\n";
    assert_eq!(
        complaint(&sound(short)),
        "timeout `udp` of 30 s is below the minimum of 120 s (RFC 4787 REQ-5): vpnat.toml:10:7: \
         set 120 or more, or allow_short = true in [vendor.timeouts] to have it anyway"
    );
    let config = parse(&sound(&format!("{short}allow_short = true"))).unwrap();
    assert_eq!(config.vendors[0].timeouts.udp, 30);
    assert!(config.warnings[0].contains("accepted because of allow_short"));
    for (name, minimum) in
        [("icmp_query", 60), ("tcp_established", 7440), ("tcp_closing", 240), ("tcp_trans", 240)]
    {
        let with = |seconds: u32| sound(&format!("[vendor.timeouts]\n{name} = {seconds}"));
        assert!(complaint(&with(minimum - 1)).contains(&format!("timeout `{name}` of")));
        parse(&with(minimum)).unwrap();
    }
    parse(&sound("[vendor.timeouts]\ntcp_init = 30")).unwrap();
}

#[test]
fn timers_out_of_range() {
    for seconds in [0, 31_536_001] {
        let text = complaint(&sound(&format!("[vendor.timeouts]\nallow_short = true\nudp = {seconds}")));
        assert!(text.starts_with(&format!("timeout `udp` of {seconds} s is out of range")), "{text}");
    }
}

#[test]
fn device_names() {
    let text = complaint_after("\"eth1\"", "\"eth1\", \"eth1\"");
    assert!(text.starts_with("device `eth1` is listed twice in `inside`: vpnat.toml:2:19:"), "{text}");
    assert!(complaint_after("\"eth1\"", "\"lo\"").starts_with("the loopback device cannot be inside"));
    for name in ["", "a b", "a/b", "a-name-of-16-byt", ".."] {
        let text = complaint_after("\"eth1\"", &format!("\"{name}\""));
        assert!(text.starts_with(&format!("`{name}` is not a device name: vpnat.toml:2:11")), "{text}");
    }
}

#[test]
fn max_flows_range() {
    for value in [0, 1023, 8_388_609] {
        let text = complaint_after("[datapath]\n", &format!("[datapath]\nmax_flows = {value}\n"));
        assert!(text.starts_with(&format!("max_flows = {value} is out of range: vpnat.toml:2:13")), "{text}");
    }
}

#[test]
fn refusal_answers_range() {
    let text = complaint_after("[datapath]\n", "[datapath]\nrefusal_answers = 10001\n");
    assert!(
        text.starts_with("refusal_answers = 10001 is more than 10000 a second: vpnat.toml:2:19"),
        "{text}"
    );
}

#[test]
fn limits_have_ranges() {
    for (line, range) in [
        ("max_flows_per_source = 8388609", "use 0 to 8388608"),
        ("new_flows_per_source = 60001", "use 0 to 60000"),
        ("port_hold = 86401", "use 0 to 86400"),
        ("max_held_ports = 8388609", "use 0 to 8388608"),
    ] {
        let text = complaint(&sound(&format!("{line}\n")));
        assert!(text.starts_with(&format!("{line} is out of range: vpnat.toml:")), "{text}");
        assert!(text.ends_with(range), "{text}");
        let (key, _) = line.split_once(' ').unwrap();
        assert!(parse(&sound(&format!("{key} = 5\n"))).is_ok());
    }
}

/// A port has one owner towards everybody in one mode and many in the other: a shared address has one mode, or each mode
/// ports of its own.
#[test]
fn mappings_of_a_shared_address() {
    let two = |first: &str, second: &str| {
        let vendors =
            vendor("vendor-a", "192.0.2.0/24", first) + &vendor("vendor-b", "198.51.100.0/24", second);
        parse(&format!("{DATAPATH}{vendors}"))
    };
    let independent = "mapping = \"endpoint-independent\"\n";
    let text = two("", independent).unwrap_err().to_string();
    assert!(
        text.starts_with(
            "vendors `vendor-b` and `vendor-a` share egress address 10.0.1.10 and ports, but not their `mapping`: \
             vpnat.toml:"
        ),
        "{text}"
    );
    assert_eq!(two(independent, independent).unwrap().vendors[1].mapping, Mapping::EndpointIndependent);
    let low = |more: &str| format!("ports = \"1024-29999\"\n{more}");
    let high = |more: &str| format!("ports = \"30000-65535\"\n{more}");
    assert!(two(&low(independent), &high("")).is_ok());
    assert!(two(&high(""), &low(independent)).is_ok());
    assert!(two(&low(independent), "ports = \"29999-65535\"\n").is_err());
    assert!(parse(&sound("mapping = \"symmetric\"\n")).unwrap_err().to_string().contains("symmetric"));
}

#[test]
fn refuse_is_one_of_three() {
    let with = |value: &str| parse(&sound(&format!("refuse = \"{value}\"\n")));
    for (word, meaning) in [
        ("host-unreachable", Refuse::HostUnreachable),
        ("admin-prohibited", Refuse::AdminProhibited),
        ("drop", Refuse::Drop),
    ] {
        assert_eq!(with(word).unwrap().vendors[0].refuse, meaning);
    }
    assert!(with("reject").unwrap_err().to_string().contains("reject"));
}

#[test]
fn pin_root_must_suit_a_bpf_file_system() {
    for path in ["relative", "/sys/fs/bpf/a.b", "/sys/fs/bpf/../x"] {
        let text = complaint(&format!("[agent]\nbpffs = \"{path}\"\n{}", sound("")));
        assert!(text.starts_with(&format!("the pin directory `{path}` is not")), "{text}");
    }
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = complaint(&sound("ports = \"9-8\"").replace("10.0.1.10", "x").replace("eth1", "lo"));
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn a_missing_file_is_named() {
    let text = Config::load(Path::new("/nonexistent/vpnat.toml")).unwrap_err().to_string();
    assert!(text.starts_with("cannot read the configuration ("), "{text}");
    assert!(text.contains("/nonexistent/vpnat.toml"), "{text}");
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".{0,400}") {
        let _ = parse(&text);
    }

    #[test]
    fn mutilated_files_never_panic(cut in 0usize..400, insert in "[\"\\[\\]=0-9a-z./: \n\\PC]{0,6}", take in 0usize..8) {
        let text = sound("exempt = [\"192.0.2.64/26\"]\nports = \"1-2\"\n[vendor.timeouts]\nudp = 1");
        let characters: Vec<char> = text.chars().collect();
        let cut = cut.min(characters.len());
        let after = (cut + take).min(characters.len());
        let mutilated: String = characters[..cut].iter().copied().chain(insert.chars()).chain(characters[after..].iter().copied()).collect();
        let _ = parse(&mutilated);
    }
}
