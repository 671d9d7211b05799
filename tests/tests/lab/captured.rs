//! What a lab promises about itself: it is gone with its process, however that ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tests::process::{Background, command, wait_until};
use tests::topology::{Offload, Shape, Site, Topology};

const MARK: &str = "VPNAT_LAB_TO_BE_KILLED";

/// Processes started (directly or not) by `parent`.
fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        if after_name.split(' ').nth(1) == Some(&parent.to_string()) {
            found.push(pid);
            found.extend(children(pid));
        }
    }
    found
}

/// Not a scenario: the process that the next one kills.
#[test]
fn a_lab_that_waits_to_be_killed() {
    let Some(mark) = std::env::var_os(MARK) else { return };
    let site = Site::new();
    let _lab = Topology::new(&site, Shape::Ipsec, Offload::On);
    site.sandbox.on_host(|| std::fs::write(&mark, "ready")).expect("a sign of readiness");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_lab_leaves_nothing_behind() {
    let mark = PathBuf::from(format!("/tmp/vpnat-lab-{}", std::process::id()));
    let mut this = command(&std::env::current_exe().expect("this program").to_string_lossy(), None);
    this.args(["--exact", "captured::a_lab_that_waits_to_be_killed"]).env(MARK, &mark).stdin(Stdio::null());
    let mut lab = Background::start("a lab", this);
    wait_until("the lab to be killed", Duration::from_secs(30), || mark.exists());
    let _ = std::fs::remove_file(&mark);
    let family = children(lab.pid());
    assert!(family.len() >= 2, "two IKE daemons at least: {family:?}");
    lab.kill();
    wait_until("the children end as well", Duration::from_secs(5), || {
        family.iter().all(|pid| !Path::new(&format!("/proc/{pid}/exe")).exists())
    });
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("this process's mounts");
    assert!(!mounts.contains("vpnat-lab"), "{mounts}");
    assert!(!Path::new("/run/vpnat-lab").exists());
}
