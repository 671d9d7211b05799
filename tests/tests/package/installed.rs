//! Each package in a clean Debian machine with systemd: installed, started, upgraded under load, removed.

use std::time::Duration;

use tests::agent::{Agent, Config, Xdp};
use tests::long::{Conversation, Upload};
use tests::machine::Machine;
use tests::process::wait_until;
use tests::topology::{EGRESS, Offload, Shape, Site, Topology, VENDOR};

use crate::given::{assert_installed, everything, inside, machine};

/// Debian's rpm installs only when told that it is meant, and knows nothing of Debian's own packages.
const RPM: &str = "rpm --force-debian --nodeps";

fn journal(machine: &Machine) -> String {
    machine.run("journalctl --no-pager --unit vpnat")
}

/// Just installed: everything is in its place, nothing runs, and the agent says which it is.
fn assert_at_rest(machine: &Machine, agent: &Agent<'_>) {
    assert_installed(machine);
    assert_eq!(machine.main_pid("vpnat"), 0);
    assert!(agent.attached().is_empty(), "{:?}", agent.attached());
    let version = machine.run("vpnat --version");
    assert_eq!(version.trim(), concat!("vpnat ", env!("CARGO_PKG_VERSION")));
    // Without a configuration the unit does not start, and says why.
    machine.run("systemctl start vpnat");
    assert_eq!(machine.main_pid("vpnat"), 0);
}

fn configure_and_start(lab: &Topology<'_>, machine: &Machine, agent: &Agent<'_>) {
    let config = Config { xdp: Xdp::Off, ..lab.config(Xdp::Off) };
    std::fs::write(machine.path("/etc/vpnat/vpnat.toml"), config.toml()).expect("the configuration");
    machine.run("vpnat check --config /etc/vpnat/vpnat.toml");
    machine.run("systemctl enable --now vpnat");
    assert!(agent.ready(), "systemd says that it is started:\n{}", journal(machine));
    let reply = lab.pods[0].http_get(41000, VENDOR, "/").expect("an answer");
    assert_eq!(*reply.seen.ip(), EGRESS);
}

/// Runs each of `lines`, after which another agent runs: whoever talks does not notice.
fn assert_unnoticed(lab: &Topology<'_>, machine: &Machine, agent: &Agent<'_>, lines: &[(&str, &str)]) {
    let talk =
        Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
    let upload = Upload::start(&lab.pods[2], 40000, VENDOR, Duration::from_millis(20)).expect("a connection");
    let going = || talk.wait_for(50) && upload.wait_for(1 << 18);
    assert!(going(), "before");
    let mut before = machine.main_pid("vpnat");
    for (what, line) in lines {
        machine.run(line);
        wait_until(what, Duration::from_secs(60), || {
            let now = machine.main_pid("vpnat");
            now != 0 && now != before && agent.ready()
        });
        before = machine.main_pid("vpnat");
        assert!(going(), "after {what}");
    }
    let talk = talk.stop();
    assert!(talk.broken.is_none() && talk.lost == 0, "{talk:?}");
    let upload = upload.stop().expect("an upload");
    assert_eq!((upload.sent - upload.right, upload.lost), (0, 0), "{upload:?}");
}

/// Removed: the datapath is gone.
fn assert_detached(agent: &Agent<'_>) {
    assert!(agent.attached().is_empty(), "{:?}", agent.attached());
    assert!(agent.pins().is_empty(), "{:?}", agent.pins());
}

#[test]
fn the_deb_installs_starts_upgrades_and_is_purged() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    let machine = machine(&site.sandbox, &site.nat);
    let agent = lab.agent(Xdp::Off);
    let clean = everything(&machine);

    let said = machine.run(&format!("dpkg --install {}", inside("-1_amd64.deb")));
    assert!(said.contains("vpnat check"), "the words say what to do: {said}");
    assert_at_rest(&machine, &agent);
    configure_and_start(&lab, &machine, &agent);
    let crash = format!("kill -KILL {}", machine.main_pid("vpnat"));
    let upgrade = format!("dpkg --install {}", inside("-2_amd64.deb"));
    let lines = [("a crash", &*crash), ("a restart", "systemctl restart vpnat"), ("an upgrade", &upgrade)];
    assert_unnoticed(&lab, &machine, &agent, &lines);
    let shown = machine.run("dpkg-query --show --showformat '${Version}' vpnat");
    assert!(shown.ends_with("-2"), "{shown}");

    machine.run("dpkg --remove vpnat");
    assert_detached(&agent);
    assert!(machine.path("/etc/vpnat/vpnat.toml").exists(), "the configuration goes with a purge only");
    machine.run("dpkg --purge vpnat");
    assert_eq!(everything(&machine), clean, "a purge leaves nothing");
}

#[test]
fn the_rpm_installs_starts_upgrades_and_is_erased() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    let machine = machine(&site.sandbox, &site.nat);
    let agent = lab.agent(Xdp::Off);
    let clean = everything(&machine);

    machine.run(&format!("{RPM} --install {}", inside("-1.x86_64.rpm")));
    assert_at_rest(&machine, &agent);
    let verified = machine.run(&format!("{RPM} --verify vpnat"));
    assert_eq!(verified.trim(), "", "as rpm itself sees it");
    configure_and_start(&lab, &machine, &agent);
    let upgrade = format!("{RPM} --upgrade {}", inside("-2.x86_64.rpm"));
    assert_unnoticed(&lab, &machine, &agent, &[("an upgrade", &upgrade)]);
    assert_eq!(machine.run("rpm --query --queryformat '%{RELEASE}' vpnat"), "2");
    assert_installed(&machine);

    machine.run(&format!("{RPM} --erase vpnat"));
    assert_detached(&agent);
    // What the operator has written is his own: rpm has no purge.
    std::fs::remove_dir_all(machine.path("/etc/vpnat")).expect("the configuration is still there");
    assert_eq!(everything(&machine), clean, "nothing else is left");
}
