//! What is in the packages, without installing them.

use std::process::Command;

use tests::process;

use crate::given::{carried, package, tree};

fn printed(command: &mut Command) -> String {
    let output = command.output().expect("a listing");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The files, not the folders, of a listing of which each line begins with the permissions and ends with the path.
fn files(listing: &str) -> Vec<String> {
    let lines = listing.lines().filter(|line| !line.starts_with('d'));
    let mut files: Vec<String> = lines
        .filter_map(|line| line.rsplit(' ').next())
        .map(|path| path.trim_start_matches('.').to_owned())
        .collect();
    files.sort();
    files
}

/// What an operator looks for once vpnat is installed.
#[test]
fn the_tree_has_what_an_operator_looks_for() {
    let tree = carried();
    for file in [
        "/usr/bin/vpnat",
        "/usr/lib/systemd/system/vpnat.service",
        "/usr/lib/systemd/system/vpnat-guard.service",
        "/usr/share/doc/vpnat/vpnat.example.toml",
        "/usr/share/man/man1/vpnat.1",
        "/usr/share/man/man1/vpnat-doctor.1",
        "/usr/share/man/man5/vpnat.toml.5",
        "/usr/share/bash-completion/completions/vpnat",
        "/usr/share/zsh/vendor-completions/_vpnat",
        "/usr/share/fish/vendor_completions.d/vpnat.fish",
        "/usr/share/doc/vpnat/copyright",
        "/usr/share/doc/vpnat/LICENSE-MIT",
        "/usr/share/doc/vpnat/LICENSE-APACHE",
        "/usr/share/doc/vpnat/README.md",
        "/usr/share/doc/vpnat/CHANGELOG.md",
        "/usr/share/doc/vpnat/docs/runbooks.md",
        "/usr/share/doc/vpnat/docs/reference/config.md",
        "/usr/share/doc/vpnat/docs/reference/metrics.md",
        "/usr/share/vpnat/grafana/vpnat.json",
        "/usr/share/vpnat/prometheus/vpnat-alerts.yml",
        "/usr/share/vpnat/prometheus/prometheus.example.yml",
    ] {
        assert!(tree.iter().any(|path| path == file), "{file} is in no package: {tree:#?}");
    }
}

fn mandoc() -> Command {
    process::command("mandoc", None)
}

/// Somebody else's formatter finds nothing to complain of, and its reader sees every key of the configuration.
#[test]
fn the_man_pages_are_sound() {
    let pages: Vec<String> = carried().into_iter().filter(|file| file.contains("/man/")).collect();
    assert!(pages.len() > 16, "{pages:#?}");
    let paths: Vec<_> = pages.iter().map(|page| tree().join(&page[1..])).collect();
    let output = process::output({
        let mut lint = mandoc();
        lint.args(["-T", "lint", "-W", "warning"]).args(&paths);
        lint
    });
    // Pages of verbs are clap's: it sets off long help with a break too many. And no page has a date.
    let usual = ["missing date", "skipping paragraph macro: br "];
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let rest: Vec<&str> =
        said.lines().filter(|line| !usual.iter().any(|usual| line.contains(usual))).collect();
    assert!(rest.is_empty() && said.contains("missing date"), "{rest:#?}{output:?}");
    let configuration = tree().join("usr/share/man/man5/vpnat.toml.5");
    let text = printed(mandoc().args(["-T", "ascii", "-O", "width=200"]).arg(&configuration));
    // Bold is a letter struck twice.
    let struck: Vec<char> = text.chars().collect();
    let plain: String = struck
        .iter()
        .enumerate()
        .filter(|(place, letter)| **letter != '\u{8}' && struck.get(place + 1) != Some(&'\u{8}'))
        .map(|(_, letter)| *letter)
        .collect();
    for key in vpnat_agent::config::catalog::keys() {
        let head = format!(" {} = ", key.name);
        assert!(plain.contains(&head), "{head}: {plain}");
    }
}

#[test]
fn every_package_carries_the_whole_tree() {
    let tree = carried();
    let deb = printed(Command::new("dpkg-deb").arg("--contents").arg(package("-1_amd64.deb")));
    assert_eq!(files(&deb), tree);
    let listing = r"[%{FILEMODES:perms} %{FILENAMES}\n]";
    let rpm = Command::new("rpm")
        .args(["--query", "--queryformat", listing, "--package"])
        .arg(package("-1.x86_64.rpm"))
        .output()
        .expect("rpm");
    assert_eq!(files(&String::from_utf8_lossy(&rpm.stdout)), tree);
    // The archive has the binary on top.
    let archive = printed(Command::new("tar").arg("-tvzf").arg(package("-linux.tar.gz")));
    let mut archive: Vec<String> = files(&archive)
        .iter()
        .map(|path| match path.split_once('/') {
            Some((_, "vpnat")) => "/usr/bin/vpnat".to_owned(),
            Some((_, rest)) => format!("/{rest}"),
            None => path.clone(),
        })
        .collect();
    archive.sort();
    assert_eq!(archive, tree);
}

/// Distributions name their packages differently: nothing but a shell for the scriptlets is asked of them.
#[test]
fn the_rpm_asks_for_a_shell_and_nothing_else() {
    let asked = printed(
        Command::new("rpm").args(["--query", "--requires", "--package"]).arg(package("-1.x86_64.rpm")),
    );
    for line in asked.lines() {
        assert!(line == "/bin/sh" || line.starts_with("rpmlib("), "{asked}");
    }
}

#[test]
fn the_archives_agent_needs_nothing_of_the_machine() {
    let folder = std::env::temp_dir().join(format!("vpnat-archive-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let status =
        Command::new("tar").arg("-xzf").arg(package("-linux.tar.gz")).arg("-C").arg(&folder).status();
    let unpacked = status.is_ok_and(|status| status.success());
    let agent =
        std::fs::read_dir(&folder).expect("the archive").flatten().next().map(|top| top.path().join("vpnat"));
    let runs = agent.as_ref().map(|agent| Command::new(agent).arg("--version").output());
    let dynamic = agent.as_ref().map(|agent| Command::new("ldd").arg(agent).output());
    let _ = std::fs::remove_dir_all(&folder);
    assert!(unpacked);
    let runs = runs.expect("an agent").expect("it runs");
    assert!(String::from_utf8_lossy(&runs.stdout).starts_with("vpnat "), "{runs:?}");
    let dynamic = dynamic.expect("an agent").expect("ldd");
    let said =
        format!("{}{}", String::from_utf8_lossy(&dynamic.stdout), String::from_utf8_lossy(&dynamic.stderr));
    assert!(said.contains("statically linked") || said.contains("not a dynamic executable"), "{said}");
}
