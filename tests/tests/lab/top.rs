//! `vpnat top` on a live agent: one frame for scripts, a screen in a real terminal, and no panic without one.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::long::Pinger;
use tests::process::{self, wait_until};
use tests::sandbox::Sandbox;
use tests::topology::{Shape, VENDOR};

use crate::setting::Setting;

#[test]
fn one_frame_for_scripts() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        lab.pods[1].http_get(40000, VENDOR, "/").expect("an answer");
        lab.stranger.udp_exchange(40000, VENDOR, b"question").expect_err("a stranger");
        let pinger = Pinger::start(&lab.pods[0], VENDOR, 9, Duration::from_millis(5));
        assert!(pinger.wait_for(20));
        let frame = agent.vpnat_ok("top --once --size 80x24");
        let lines: Vec<&str> = frame.lines().collect();
        assert!(lines.len() <= 24 && lines.iter().all(|line| line.chars().count() <= 80), "{frame}");
        assert!(lines[0].starts_with("vpnat ") && lines[0].contains("translating  flows 2 of"), "{frame}");
        assert!(!frame.contains('\u{1b}'), "{frame}");
        // The pings' rate, both ways: some two hundred a second.
        let vendor: Vec<&str> = row(&lines, "vendor-a").split_whitespace().collect();
        for rate in [vendor[1], vendor[3]] {
            assert!(rate.parse::<f64>().is_ok_and(|rate| (20.0..400.0).contains(&rate)), "{frame}");
        }
        assert_eq!(vendor[5], "2", "{frame}");
        assert!(frame.contains("source-not-allowed"), "{frame}");
        for words in ["10.0.2.7:9", "10.0.2.8:40000        192.0.2.10:80"] {
            assert!(frame.contains(words), "no {words} in\n{frame}");
        }
        if std::env::var_os("VPNAT_DOCS").is_some() {
            let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/top.svg"));
            std::fs::write(path, picture(&frame)).expect("docs/top.svg");
        }
        let one = agent.vpnat_ok("top --once --filter 10.0.2.8 --vendor vendor-a --interval 0.2");
        assert!(one.contains("1 flows to vendor-a with `10.0.2.8`"), "{one}");
        // While the agent is down, too.
        agent.kill9();
        assert!(agent.vpnat_ok("top --once").contains("AGENT NOT RUNNING"));
    });
}

#[test]
fn without_a_terminal_it_says_so() {
    Setting::tc(Shape::TwoArm).run(|_, agent| {
        for (words, said) in [
            ("top", "there is no terminal to draw on: standard output: use `vpnat top --once`"),
            ("top --once --vendor nobody", "there is no vendor `nobody`: --vendor:"),
            ("top --once --size 80x24 --vendor vendor-a --interval 0", "`0` is no interval"),
        ] {
            let output = agent.vpnat(words);
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && text.contains(said), "{words}: {text}");
        }
    });
}

/// The pins are named by their directory or by the configuration that names it, and by one of them only.
#[test]
fn the_pins_may_be_named() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        let top = |words: &[&str]| {
            let mut command = lab.nat.command(&tests::agent::binary().to_string_lossy());
            command.args(["top", "--once"]).args(words);
            let output = process::output(command);
            let text = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(text).expect("UTF-8"))
        };
        let own = Sandbox::bpffs().join("vpnat");
        let own = own.to_str().expect("a path");
        let (status, frame) = top(&["--pin-dir", own]);
        assert!(status == Some(0) && frame.contains("vendor-a") && frame.contains("translating"), "{frame}");
        let (status, said) = top(&["--pin-dir", "/sys/fs/bpf/nothing"]);
        let nothing = "nothing is pinned: /sys/fs/bpf/nothing/v";
        assert!(status == Some(1) && said.contains(nothing) && said.contains("with --pin-dir"), "{said}");
        let file = agent.file().to_str().expect("a path");
        let (status, said) = top(&["--pin-dir", own, "--config", file]);
        assert!(status == Some(2) && said.contains("cannot be used with"), "{said}");
    });
}

/// In a terminal of its own (script(1)): it draws, and a signal puts the terminal back.
#[test]
fn a_screen_in_a_terminal() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        let log = lab.site().sandbox.dir().join("screen");
        let mut command = lab.site().nat.command("script");
        let top = format!("{} top --config {}", tests::agent::binary().display(), agent.file().display());
        command.args([
            "--quiet",
            "--flush",
            "--return",
            "--command",
            &format!("stty rows 24 cols 80; exec {top}"),
        ]);
        command.arg(&log).env("TERM", "xterm-256color").env("LANG", "C.UTF-8").env("NO_COLOR", "1");
        let mut screen = process::Background::start("vpnat top", command);
        let drawn = || String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        wait_until("a screen", Duration::from_secs(20), || drawn().contains("10.0.2.7"));
        screen.signal(Signal::SIGTERM);
        screen.wait(Duration::from_secs(10));
        let text = drawn();
        assert!(text.contains("\u{1b}[?1049h") && text.contains("vendor-a"), "{text}");
        // No colour is asked for: 30 to 37 and 38 are.
        assert!(!text.contains("\u{1b}[38") && !text.contains("\u{1b}[31m"), "{text}");
    });
}

/// The first line with these words.
fn row<'a>(lines: &[&'a str], words: &str) -> &'a str {
    lines.iter().find(|line| line.contains(words)).unwrap_or_else(|| panic!("no {words} in {lines:?}"))
}

/// The frame as a picture.
fn picture(frame: &str) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 460\" font-family=\"monospace\" \
         font-size=\"15.5\"><rect width=\"800\" height=\"460\" fill=\"#1e1e1e\"/>\n",
    );
    for (at, line) in frame.lines().enumerate() {
        let line = line.replace('&', "&amp;").replace('<', "&lt;");
        let y = 24 + at * 18;
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{y}\" fill=\"#e0e0e0\" xml:space=\"preserve\" textLength=\"{}\">{line}</text>",
            line.chars().count() as f64 * 9.4
        );
    }
    svg + "</svg>\n"
}
