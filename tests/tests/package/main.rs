//! The packages as an operator meets them: installed in a clean Debian machine with systemd, started, upgraded under
//! load, removed, purged.
//!
//! `cargo xtask test --tier package` makes the packages and the machine's tree and names them in the environment.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tests::agent::{Config, Xdp};
use tests::long::{Conversation, Upload};
use tests::machine::Machine;
use tests::process::wait_until;
use tests::topology::{EGRESS, Offload, Shape, Site, Topology, VENDOR};

/// A folder or file that the caller has prepared.
fn given(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    path.unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test --tier package`")).into()
}

fn package(ending: &str) -> PathBuf {
    let folder = given("VPNAT_PACKAGES");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the packages")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    found.sort();
    found.into_iter().next().unwrap_or_else(|| panic!("no package *{ending} in {}", folder.display()))
}

fn name(ending: &str) -> String {
    let path = package(ending);
    format!("/packages/{}", path.file_name().expect("a file").to_string_lossy())
}

#[test]
fn install_start_upgrade_remove_purge() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    let machine =
        Machine::boot(&site.sandbox, &site.nat, &given("VPNAT_DEBIAN_TREE"), &given("VPNAT_PACKAGES"));
    let agent = lab.agent(Xdp::Off);

    // Installed: nothing runs, and the words say what to do.
    let said = machine.run(&format!("dpkg --install {}", name("-1_amd64.deb")));
    assert!(said.contains("vpnat check"), "{said}");
    assert_eq!(machine.main_pid("vpnat"), 0);
    assert!(agent.attached().is_empty(), "{:?}", agent.attached());
    for file in ["/usr/share/man/man1/vpnat.1", "/usr/share/bash-completion/completions/vpnat"] {
        assert!(machine.path(file).exists(), "{file}");
    }
    // Without a configuration the unit does not start, and says why.
    machine.run("systemctl start vpnat");
    assert_eq!(machine.main_pid("vpnat"), 0);

    // Configured and started.
    let config = Config { xdp: Xdp::Off, ..lab.config(Xdp::Off) };
    std::fs::write(machine.path("/etc/vpnat/vpnat.toml"), config.toml()).expect("the configuration");
    machine.run("vpnat check --config /etc/vpnat/vpnat.toml");
    machine.run("systemctl enable --now vpnat");
    assert!(agent.ready(), "systemd says that it is started:\n{}", journal(&machine));
    let reply = lab.pods[0].http_get(41000, VENDOR, "/").expect("an answer");
    assert_eq!(*reply.seen.ip(), EGRESS);

    // Crashed, restarted, upgraded: whoever talks does not notice.
    let talk =
        Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
    let upload = Upload::start(&lab.pods[2], 40000, VENDOR, Duration::from_millis(20)).expect("a connection");
    let going = || talk.wait_for(50) && upload.wait_for(1 << 18);
    assert!(going(), "before");
    let mut before = machine.main_pid("vpnat");
    for (what, line) in [
        ("a crash", format!("kill -KILL {before}")),
        ("a restart", "systemctl restart vpnat".to_owned()),
        ("an upgrade", format!("dpkg --install {}", name("-2_amd64.deb"))),
    ] {
        machine.run(&line);
        wait_until(what, Duration::from_secs(60), || {
            let now = machine.main_pid("vpnat");
            now != 0 && now != before && agent.ready()
        });
        before = machine.main_pid("vpnat");
        assert!(going(), "after {what}");
    }
    let shown = machine.run("dpkg-query --show --showformat '${Version}' vpnat");
    assert!(shown.ends_with("-2"), "{shown}");
    let talk = talk.stop();
    assert!(talk.broken.is_none() && talk.lost == 0, "{talk:?}");
    let upload = upload.stop().expect("an upload");
    assert_eq!((upload.sent - upload.right, upload.lost), (0, 0), "{upload:?}");

    // Removed: the datapath is gone, the configuration is not.
    machine.run("dpkg --remove vpnat");
    assert!(agent.attached().is_empty(), "{:?}", agent.attached());
    assert!(agent.pins().is_empty(), "{:?}", agent.pins());
    assert!(machine.path("/etc/vpnat/vpnat.toml").exists());
    machine.run("dpkg --purge vpnat");
    assert!(!machine.path("/etc/vpnat").exists());
}

fn journal(machine: &Machine) -> String {
    machine.run("journalctl --no-pager --unit vpnat")
}

fn listed(command: &mut Command) -> Vec<String> {
    let output = command.output().expect("a listing");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut files: Vec<String> = text
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap_or(line).trim_start_matches('.').to_owned())
        .filter(|path| !path.ends_with('/') && path != "/etc/vpnat")
        .collect();
    files.sort();
    files
}

#[test]
fn every_package_carries_the_same_files() {
    let deb = listed(Command::new("dpkg-deb").arg("--contents").arg(package("-1_amd64.deb")));
    let rpm = listed(Command::new("rpm").args(["--query", "--list", "--package"]).arg(package(".rpm")));
    assert!(deb.contains(&"/usr/bin/vpnat".to_owned()), "{deb:?}");
    assert_eq!(deb, rpm);
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
