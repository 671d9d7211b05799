//! The agent killed at random moments, under load: nothing leaks, nothing is lost.

use std::time::{Duration, Instant};

use tests::hostile::every_kind;
use tests::long::{Conversation, Pinger, Upload};
use tests::topology::{EGRESS, Shape, VENDOR};

use crate::chaos::{self, Choices};
use crate::setting::Setting;

/// Kills without an order to go on longer.
const FEW: u32 = 10;

fn at_random_moments(setting: Setting) {
    let (mut choices, time) = (Choices::new(), chaos::time());
    setting.run(|lab, agent| {
        let pinger = Pinger::start(&lab.pods[0], VENDOR, 9, Duration::from_millis(5));
        let talk =
            Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
        let upload =
            Upload::start(&lab.pods[2], 40000, VENDOR, Duration::from_millis(20)).expect("a connection");
        let going = || pinger.wait_for(20) && talk.wait_for(10) && upload.wait_for(1 << 16);
        let (start, mut kills, mut packets, mut flows) = (Instant::now(), 0u32, 0u64, 0u64);
        agent.kill9();
        let takes = agent.start();
        agent.kill9();
        while time.map_or(kills < FEW, |time| start.elapsed() < time) {
            agent.start_and_kill(choices.within(takes + takes / 4));
            kills += 1;
            packets += every_kind(&lab.pods[0].raw(), lab.pods[0].address, VENDOR, 42000).packets;
            packets += every_kind(&lab.stranger.raw(), lab.stranger.address, VENDOR, 42000).packets;
            // Whatever the last agent has left half done, new flows are served by what is attached.
            let seen = lab.pods[0].udp_exchange(0, VENDOR, b"anybody?").expect("an answer without agent");
            assert_eq!(*seen.ip(), EGRESS);
            flows += 1;
            assert!(going(), "after kill {kills} with seed {}", choices.seed);
            if kills.is_multiple_of(8) {
                agent.start();
                agent.kill9();
                kills += 1;
            }
        }
        agent.start();
        assert!(going(), "with an agent again");
        let (pings, talk) = (pinger.stop(), talk.stop());
        let upload = upload.stop().expect("an upload");
        lab.watch.check();
        println!(
            "chaos: kills={kills} hostile-packets={packets} new-flows={flows} pings={} exchanges={} bytes={} lost={}",
            pings.sent,
            talk.exchanges,
            upload.right,
            pings.lost() + lab.lost(talk.lost + upload.lost),
        );
        assert_eq!(pings.lost(), 0, "{pings:?}");
        assert!(talk.broken.is_none() && lab.lost(talk.lost) == 0, "{talk:?}");
        assert_eq!((upload.sent - upload.right, lab.lost(upload.lost)), (0, 0), "{upload:?}");
    });
}

#[test]
fn at_random_moments_tc() {
    at_random_moments(Setting::tc(Shape::TwoArm));
}

#[test]
fn at_random_moments_xdp() {
    at_random_moments(Setting::xdp(Shape::TwoArm));
}
