//! `vpnat detach` takes everything away, and nothing else does.

use std::time::Duration;

use tests::process::wait_until;
use tests::topology::{Shape, VENDOR};

use crate::setting::Setting;

#[test]
fn detach_removes_everything() {
    for setting in [Setting::tc(Shape::TwoArm), Setting::xdp(Shape::TwoArm)] {
        setting.run(|lab, agent| {
            lab.pods[0].http_get(0, VENDOR, "/").expect("an answer");
            agent.stop();
            assert!(!agent.attached().is_empty(), "stopping detaches nothing");
            assert!(agent.pin("FLOWS").is_some(), "{:?}", agent.pins());
            let said = agent.vpnat_ok("detach");
            assert!(said.contains("ip_forward is still 1"), "it says that the way is open now: {said}");
            // The kernel takes links down a moment after they are let go.
            wait_until("everything is detached", Duration::from_secs(2), || agent.attached().is_empty());
            assert!(agent.pins().is_empty(), "{:?}", agent.pins());
            // And it can be had again.
            agent.start();
            lab.pods[0].http_get(0, VENDOR, "/").expect("an answer after a new start");
        });
    }
}

/// Under a running agent the datapath is not taken away.
#[test]
fn detach_with_a_running_agent_is_refused() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        assert!(!agent.vpnat("detach").status.success());
        lab.pods[0].http_get(0, VENDOR, "/").expect("an answer");
    });
}
