//! The README's lines for a NAT instance, run as they stand there.

use std::fs;

use tests::agent::{Config, Xdp};
use tests::topology::{EGRESS, Offload, Shape, Site, Topology, VENDOR};

use crate::given::{inside, machine};

const README: &str = include_str!("../../../README.md");

/// The lines of a section, without what is said about them.
fn lines(section: &str) -> Vec<&'static str> {
    let (_, rest) = README.split_once(section).expect("the section");
    let block = rest.lines().skip_while(|line| !line.starts_with("    "));
    let lines = block.take_while(|line| line.starts_with("    "));
    lines.map(|line| line.split(" # ").next().unwrap_or(line).trim()).collect()
}

#[test]
fn a_nat_instance_is_set_up_by_the_readmes_lines() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    let machine = machine(&site.sandbox, &site.nat);
    let agent = lab.agent(Xdp::Off);
    let lines = lines("## Run it on a NAT instance");
    let Some(("cargo xtask package", lines)) = lines.split_first().map(|(first, rest)| (*first, rest)) else {
        panic!("first the packages are made: {lines:?}");
    };
    assert_eq!(lines.len(), 4, "{lines:?}");
    // What the first line has made, where it makes it.
    machine.run("mkdir -p /srv/vpnat/target/package");
    machine.run(&format!("cp {} /srv/vpnat/target/package", inside("-1_amd64.deb")));
    for line in lines {
        // Nobody but root is in the machine.
        let line = line.strip_prefix("sudo ").expect("a line for root");
        machine.run(&format!("cd /srv/vpnat && {line}"));
        if line.starts_with("cp ") {
            // "And edit it".
            let file = machine.path("/etc/vpnat/vpnat.toml");
            let example = include_str!("../../../vpnat-agent/vpnat.example.toml");
            assert_eq!(fs::read_to_string(&file).expect("a copy"), example);
            let config = Config { xdp: Xdp::Off, ..lab.config(Xdp::Off) };
            fs::write(file, config.toml()).expect("the configuration");
        }
    }
    assert!(agent.ready(), "systemd says that it is started");
    let reply = lab.pods[0].http_get(0, VENDOR, "/").expect("an answer");
    assert_eq!(*reply.seen.ip(), EGRESS);
}
