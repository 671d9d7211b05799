//! The datapath outlives the agent: nothing is lost when it is killed, nor when it starts again.

use std::time::Duration;

use tests::long::{Conversation, Pinger, Upload};
use tests::topology::{EGRESS, VENDOR};

use crate::setting::Setting;

in_every_setting! { kill_and_start_again }

fn kill_and_start_again(setting: Setting) {
    setting.run(|lab, agent| {
        let pinger = Pinger::start(&lab.pods[0], VENDOR, 9, Duration::from_millis(5));
        let talk =
            Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
        // Slow enough to lose nothing by itself.
        let upload =
            Upload::start(&lab.pods[2], 40000, VENDOR, Duration::from_millis(20)).expect("a connection");
        let going = || pinger.wait_for(100) && talk.wait_for(50) && upload.wait_for(1 << 18);
        assert!(going(), "before");
        agent.kill9();
        assert!(going(), "with the agent killed");
        // New connections are made while nobody is there.
        let reply = lab.pods[0].http_get(44000, VENDOR, "/").expect("an answer without agent");
        assert_eq!(*reply.seen.ip(), EGRESS);
        agent.start();
        assert!(going(), "after a new start");
        agent.stop();
        assert!(going(), "with the agent stopped");
        agent.start();
        assert!(going(), "after another start");

        let pings = pinger.stop();
        assert_eq!(pings.lost(), 0, "{pings:?}");
        let talk = talk.stop();
        assert!(talk.broken.is_none() && lab.lost(talk.lost) == 0, "{talk:?}");
        assert!(talk.longest < Duration::from_secs(2), "{talk:?}");
        let upload = upload.stop().expect("an upload");
        assert_eq!((upload.sent - upload.right, lab.lost(upload.lost)), (0, 0), "{upload:?}");
    });
}
