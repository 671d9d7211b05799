//! The catalog against the parser.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::config::{Config, diff, fixed};

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("x")).map_err(|error| error.to_string())
}

fn sound(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What stands between backticks behind "expected".
fn expected(complaint: &str) -> BTreeSet<String> {
    let (_, list) = complaint.split_once("expected ").expect(complaint);
    let (list, _) = list.split_once(": x:").unwrap_or((list, ""));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_keys_are_those_of_the_parser() {
    let keys = keys();
    for section in Section::ALL {
        let of_section = || keys.iter().filter(|key| key.section == section);
        let one = of_section().next().expect("a key");
        let nonsense = Key {
            name: "nonsense",
            example: "1".into(),
            section,
            value: Value::Flag,
            default: Fallback::Nothing,
            meaning: one.meaning,
        };
        let known: BTreeSet<String> = of_section().map(|key| key.name.to_owned()).collect();
        assert_eq!(known.len(), of_section().count());
        let mut taken = expected(&parse(&nonsense.file(Some("1"))).unwrap_err());
        // A section of its own.
        taken.remove("timeouts");
        assert_eq!(known, taken, "{section:?}");
    }
}

#[test]
fn the_smallest_file_is_sound() {
    sound(&smallest());
}

#[test]
fn the_default_is_what_holds_without_it() {
    for key in keys() {
        match &key.default {
            Fallback::Is(default) => {
                assert_eq!(sound(&key.file(Some(default))), sound(&key.file(None)), "{}", key.name)
            }
            Fallback::Required => {
                assert!(parse(&key.file(None)).unwrap_err().contains("missing field"), "{}", key.name)
            }
            Fallback::Nothing => {}
        }
    }
}

/// The reference says by the example whether a reload can change a key: it is another value, and a reload names it.
#[test]
fn the_example_is_another_value_and_a_reload_names_it() {
    for key in keys().iter().filter(|key| key.name != "allow_short") {
        let (old, new) = (sound(&key.file(key.usual())), sound(&key.file(Some(&key.example))));
        assert_ne!(old, new, "{}", key.name);
        let (changed, fixed) = (diff(&old, &new), fixed(&old, &new));
        match fixed.as_slice() {
            [] if key.section == Section::FlowLog => {
                assert!(changed[0].contains("[flow_log]"), "{changed:?}")
            }
            [] if key.name == "name" => assert!(changed[0].starts_with("- vendor"), "{changed:?}"),
            [] if key.section == Section::Timeouts => {
                assert!(changed[0].contains(" timeouts:"), "{changed:?}")
            }
            [] => assert!(
                changed.iter().all(|line| line.contains(&format!(" {}:", key.name))),
                "{}: {changed:?}",
                key.name
            ),
            [fixed] => assert_eq!(fixed.key, format!("{} {}", key.section.heading(), key.name)),
            _ => panic!("{fixed:?}"),
        }
    }
}

#[test]
fn ranges_end_where_the_parser_ends_them() {
    let takes = |key: &Key, value: i64| parse(&key.file(Some(&value.to_string()))).is_ok();
    for key in keys() {
        let (least, most) = match &key.value {
            Value::Number(number) => (number.least, number.most),
            Value::Timer(timer) => (timer.minimum, limits::LONGEST_TIMEOUT),
            Value::Text(form) if key.name == "tcp_mss" => {
                assert!(form.contains(&format!("{} to {}", limits::MSS.least, limits::MSS.most)));
                (limits::MSS.least, limits::MSS.most)
            }
            _ => continue,
        };
        let ends = [
            (least.into(), true),
            (most.into(), true),
            (i64::from(least) - 1, false),
            (i64::from(most) + 1, false),
        ];
        for (value, taken) in ends {
            assert_eq!(takes(&key, value), taken, "{} = {value}", key.name);
        }
    }
}

/// What a key takes is in words here: the numbers in them are the parser's.
#[test]
fn words_about_sizes_end_where_the_parser_ends_them() {
    let keys = keys();
    let letters = |count: usize| "x".repeat(count);
    let name = |count| format!("\"{}\"", letters(count));
    let device = |count| format!("[\"{}\"]", letters(count));
    let folder = |count: usize| format!("\"/{}\"", letters(count - 1));
    let addresses = |count: usize| {
        let addresses = (0..count).map(|last| format!("\"10.0.1.{last}\""));
        format!("[{}]", addresses.collect::<Vec<_>>().join(", "))
    };
    let ports = |lowest: usize| format!("\"{lowest}-65535\"");
    let lowest = limits::LOWEST_PORT.into();
    let longest = limits::LONGEST_DEVICE;
    for (name, said, last, beyond) in [
        (
            "run_dir",
            limits::LONGEST_RUN_DIR,
            folder(limits::LONGEST_RUN_DIR),
            folder(limits::LONGEST_RUN_DIR + 1),
        ),
        ("name", limits::LONGEST_NAME, name(limits::LONGEST_NAME), name(limits::LONGEST_NAME + 1)),
        ("inside", longest, device(longest), device(longest + 1)),
        ("outside", longest, device(longest), device(longest + 1)),
        (
            "egress_ips",
            limits::MOST_EGRESS,
            addresses(limits::MOST_EGRESS),
            addresses(limits::MOST_EGRESS + 1),
        ),
        ("ports", lowest, ports(lowest), ports(lowest - 1)),
    ] {
        let key = keys.iter().find(|key| key.name == name).expect(name);
        let Value::Text(form) = &key.value else { panic!("{name}") };
        let mut numbers = form.split(|c: char| !c.is_ascii_digit());
        assert!(numbers.any(|number| number == said.to_string()), "{name}: {form}");
        sound(&key.file(Some(&last)));
        assert!(parse(&key.file(Some(&beyond))).is_err(), "{name}");
    }
    let room = keys.iter().find(|key| key.name == "buffer_kib").expect("a size").meaning;
    // The ring buffer puts eight bytes before each record.
    let each = size_of::<vpnat_common::layout::event::FlowEvent>() + 8;
    assert!(room.contains(&format!(" {each} bytes each")), "{room}");
}

#[test]
fn words_are_those_of_the_parser() {
    for key in keys() {
        if let Value::Words(words) = key.value {
            let taken = expected(&parse(&key.file(Some("\"nonsense\""))).unwrap_err());
            assert_eq!(taken, words.iter().map(|word| word.to_string()).collect(), "{}", key.name);
        }
    }
}

#[test]
fn short_timers_are_accepted_when_it_is_said() {
    let keys = keys();
    let key = keys.iter().find(|key| key.name == "udp").expect("a timer");
    let text = key.file(Some("1"));
    assert!(parse(&text).is_err());
    assert!(parse(&format!("{text}allow_short = true\n")).is_ok());
}

#[test]
fn the_example_file_has_every_key() {
    let example = include_str!("../../vpnat.example.toml");
    for key in keys() {
        let line = example
            .lines()
            .map(|line| line.trim_start_matches("#: "))
            .find(|line| line.split(" =").next().is_some_and(|name| name.trim() == key.name));
        let line = line.unwrap_or_else(|| panic!("{} is not in the example", key.name));
        if let Fallback::Is(default) = &key.default {
            assert!(line.ends_with(&format!("= {default}")), "{line}");
        }
    }
}
