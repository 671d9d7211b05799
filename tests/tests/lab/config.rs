//! A configuration that cannot be served is refused with an error, and nothing is touched.

use std::process::Output;

use tests::agent::{Agent, Config, Xdp};
use tests::topology::{Offload, Shape, Site, Topology};

use crate::setting::Setting;

/// `check` and `run` refuse the file, name the cause, and leave no trace.
fn refused(lab: &Topology<'_>, text: &str, cause: &str) {
    let agent = lab.agent(Xdp::Off);
    std::fs::write(agent.file(), text).expect("a configuration");
    let forwarding = lab.nat.read_sysctl("net.ipv4.ip_forward");
    for verb in ["check", "run"] {
        let output = agent.vpnat(verb);
        let said = said(&output);
        assert!(!output.status.success(), "vpnat {verb} accepted:\n{text}");
        assert!(said.contains(cause), "vpnat {verb} does not name `{cause}`:\n{said}");
    }
    untouched(&agent);
    assert_eq!(lab.nat.read_sysctl("net.ipv4.ip_forward"), forwarding);
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn untouched(agent: &Agent<'_>) {
    assert!(agent.attached().is_empty(), "attached: {:?}", agent.attached());
    assert!(agent.pins().is_empty(), "pinned: {:?}", agent.pins());
}

#[test]
fn bad_configurations() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    lab.nat.sysctl("net.ipv4.ip_forward", "0");
    let good = lab.config(Xdp::Off);
    let with = |change: &dyn Fn(&mut Config)| {
        let mut config = good.clone();
        change(&mut config);
        config.toml()
    };
    refused(&lab, "this is not TOML", ".toml:1:");
    refused(&lab, &good.toml().replace("[datapath]", "[datapath]\nspeed = 3"), "speed");
    refused(&lab, &with(&|config| config.inside = vec!["eth9".into()]), "eth9");
    refused(&lab, &with(&|config| config.vendors.clear()), "vendor");
    refused(&lab, &with(&|config| config.vendors[1].cidrs = vec!["192.0.2.0/25".into()]), "overlaps");
    refused(&lab, &with(&|config| config.vendors[0].egress = vec![[10, 0, 2, 50].into()]), "10.0.2.50");
    refused(&lab, &with(&|config| config.vendors[0].cidrs = vec!["192.0.2.0/33".into()]), "192.0.2.0/33");
}

#[test]
fn good_configuration_is_checked_without_a_trace() {
    Setting::tc(Shape::TwoArm).run_before_start(|_, agent| {
        agent.vpnat_ok("check");
        untouched(agent);
    });
}

#[test]
fn not_root() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    let agent = lab.agent(Xdp::Off);
    let mut command = lab.nat.command("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all", "--ambient-caps", "-all"]);
    command.arg("--").arg(tests::agent::binary()).arg("run").arg("--config").arg(agent.file());
    let output = tests::process::output(command);
    assert!(!output.status.success());
    assert!(said(&output).contains("CAP_"), "{}", said(&output));
    untouched(&agent);
}
