//! Tunnels go and come back: nothing leaves in clear meanwhile, and everything works afterwards.

use std::time::Duration;

use tests::long::Pinger;
use tests::process::wait_until;
use tests::topology::{EGRESS, Shape, VENDOR};

use crate::setting::Setting;

/// With its tunnel gone, the route to the vendor is the default route. The capture on the underlay, which
/// every lab holds, fails the scenario if a packet to the vendor passes there.
fn down_and_up_again(shape: Shape) {
    Setting::tc(shape).run(|lab, agent| {
        let pod = &lab.pods[0];
        assert_eq!(*pod.http_get(40000, VENDOR, "/").expect("an answer").seen.ip(), EGRESS);
        let pinger = Pinger::start(pod, VENDOR, 9, Duration::from_millis(5));
        assert!(pinger.wait_for(20));
        let before = lab.nat.ifindex(lab.outside_device());

        lab.tunnel_down();
        let short = Duration::from_millis(500);
        lab.pods[1].http_get_within(short, 40000, VENDOR, "/").expect_err("TCP without a tunnel");
        lab.pods[2]
            .udp_exchange_within(short, 40000, VENDOR, b"in clear?")
            .expect_err("UDP without a tunnel");
        lab.watch.check();

        lab.tunnel_up();
        assert_ne!(lab.nat.ifindex(lab.outside_device()), before, "the device came back as another one");
        wait_until("the agent is ready again", Duration::from_secs(15), || agent.ready());
        assert!(pinger.wait_for(20), "the old flow goes on through the new device");
        pinger.stop();
        for pod in &lab.pods {
            assert_eq!(*pod.http_get(0, VENDOR, "/").expect("an answer").seen.ip(), EGRESS);
        }
    });
}

#[test]
fn tun() {
    down_and_up_again(Shape::Tun);
}

#[test]
fn ipsec() {
    down_and_up_again(Shape::Ipsec);
}

#[test]
fn wireguard() {
    down_and_up_again(Shape::WireGuard);
}

#[test]
#[ignore = "needs the kernel's own ESP, as the guests of `cargo xtask vm` have it"]
fn kernel_ipsec() {
    down_and_up_again(Shape::KernelIpsec);
}

#[test]
#[ignore = "needs the kernel's own WireGuard, as the guests of `cargo xtask vm` have it"]
fn kernel_wireguard() {
    down_and_up_again(Shape::KernelWireGuard);
}

#[test]
fn vxlan() {
    down_and_up_again(Shape::Vxlan);
}

/// The tunnel comes back while the agent is down: its device has no egress hook, so nothing may leave by it.
#[test]
fn back_while_the_agent_is_down() {
    Setting::tc(Shape::Tun).run(|lab, agent| {
        lab.pods[0].http_get(0, VENDOR, "/").expect("an answer");
        agent.kill9();
        lab.tunnel_down();
        lab.tunnel_up();
        let short = Duration::from_millis(500);
        let _ = lab.pods[1].http_get_within(short, 40000, VENDOR, "/");
        let _ = lab.pods[1].udp_exchange_within(short, 40000, VENDOR, b"in clear?");
        lab.watch.check();
        agent.start();
        assert_eq!(*lab.pods[1].http_get(0, VENDOR, "/").expect("an answer").seen.ip(), EGRESS);
    });
}
