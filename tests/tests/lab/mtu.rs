//! Pods with jumbo frames, and a tunnel that takes 1,400 bytes or so.

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use tests::agent::Agent;
use tests::capture::Way;
use tests::long::{Upload, download};
use tests::packet::{UDP, may_fragment, udp};
use tests::patience::patient;
use tests::sockets::{readable, udp_connect};
use tests::topology::{EGRESS, Shape, Topology, VENDOR};
use tests::vendor::ECHO;

use crate::setting::Setting;

const TUNNELS: [(Shape, usize); 4] =
    [(Shape::Tun, 1400), (Shape::Ipsec, 1400), (Shape::WireGuard, 1420), (Shape::Vxlan, 1450)];

/// Runs the scenario with pods at 9,001 bytes, as in a cloud's own network, for each tunnel and its MTU.
fn with_jumbo_pods(scenario: impl Fn(&mut Topology<'_>, &mut Agent<'_>, usize)) {
    for (shape, mtu) in TUNNELS {
        Setting::tc(shape).run_before_start(|lab, agent| {
            for pod in &lab.pods {
                pod.ns.ip("link set eth0 mtu 9001");
                lab.site().subnet.ip(&format!("link set {} mtu 9001", pod.name()));
            }
            lab.site()
                .subnet
                .ip("link set router mtu 9001\nlink set stranger mtu 9001\nlink set br0 mtu 9001");
            lab.nat.ip("link set eth1 mtu 9001");
            agent.start();
            scenario(lab, agent, mtu);
        });
    }
}

/// Ten megabytes down and up over TCP.
#[test]
fn jumbo_pods_transfer_through_a_small_tunnel() {
    with_jumbo_pods(|lab, _, _| {
        let bytes = 10 << 20;
        assert_eq!(download(&lab.pods[0], 41000, VENDOR, bytes).expect("a download"), bytes);
        let upload = Upload::start(&lab.pods[1], 41000, VENDOR, Duration::ZERO).expect("a connection");
        assert!(upload.wait_for(bytes));
        let report = upload.stop().expect("an upload");
        assert_eq!(report.sent, report.right);
    });
}

fn option(socket: &UdpSocket, name: libc::c_int) -> libc::c_int {
    let mut value = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the socket is open; pointer and length describe `value`.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, name, (&raw mut value).cast(), &raw mut length)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    value
}

fn set_option(socket: &UdpSocket, name: libc::c_int, value: libc::c_int) {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the socket is open; pointer and length describe `value`.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, name, (&raw const value).cast(), length)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// RFC 1191: a sender that discovers the path's MTU is told the tunnel's, and what fits then passes.
#[test]
fn a_udp_sender_discovers_the_tunnels_mtu() {
    with_jumbo_pods(|lab, agent, mtu| {
        let pod = &lab.pods[0];
        let to = SocketAddrV4::new(VENDOR, ECHO);
        let socket = pod.ns.enter(|| udp_connect(41000, to, Duration::from_secs(2))).expect("a socket");
        set_option(&socket, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
        assert_eq!(option(&socket, libc::IP_MTU), 9001);
        socket.send(&[7; 8000]).expect("send what the device takes");
        assert!(readable(&socket, patient(Duration::from_secs(2))), "no error\n{}", agent.metrics());
        let error = socket.recv(&mut [0; 64]).expect_err("nothing passed");
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
        assert_eq!(option(&socket, libc::IP_MTU), mtu as libc::c_int);
        // The answer is longer by the address that the vendor saw.
        let fits = vec![7; mtu - 28 - 32];
        socket.send(&fits).expect("send what fits");
        let mut answer = vec![0; 9000];
        let length = socket.recv(&mut answer).expect("an answer");
        assert!(answer[..length].ends_with(&fits));
        assert_eq!(socket.send(&vec![7; mtu]).expect_err("too large").raw_os_error(), Some(libc::EMSGSIZE));
    });
}

/// RFC 4787 REQ-13a: without "don't fragment" it is fragmented, in order, with one identification.
#[test]
fn what_may_be_fragmented_is() {
    with_jumbo_pods(|lab, _, mtu| {
        let pod = &lab.pods[0];
        let to = SocketAddrV4::new(VENDOR, ECHO);
        let socket = pod.ns.enter(|| udp_connect(41000, to, Duration::from_secs(2))).expect("a socket");
        let payload: Vec<u8> = (0..5000usize).map(|byte| (byte * 7) as u8).collect();
        pod.raw().send(&may_fragment(udp((pod.address, 41000), (VENDOR, ECHO), 64, &payload), 77));
        let mut answer = vec![0; 9000];
        let length = socket.recv(&mut answer).expect("an answer");
        assert!(answer[..length].ends_with(&payload));
        let vendor = lab.watch.vendor(0);
        vendor.settle();
        let came = vendor.matching(|packet| packet.way == Way::In && packet.is(|ip| ip.protocol() == UDP));
        assert_eq!(came.len(), 5008usize.div_ceil((mtu - 20) / 8 * 8), "{came:?}");
        let words = |packet: &tests::capture::Captured, at: usize| {
            u16::from_be_bytes([packet.start()[at], packet.start()[at + 1]])
        };
        assert!(came.iter().all(|part| words(part, 4) == words(&came[0], 4)), "one identification: {came:?}");
        assert!(came.is_sorted_by_key(|part| words(part, 6) & 0x1fff), "in order: {came:?}");
    });
}

/// The way to the pods takes less than the vendor sends: the vendor is told so, as by the pod, and then sends what fits.
#[test]
fn row_10_6_1_row_10_6_4_the_vendor_learns_what_the_inside_takes() {
    // The kernel's lookup for programs heeds what is locked; the agent tells them the rest (row 10.6-1).
    for (setting, word) in [
        (Setting::tc(Shape::TwoArm), "mtu lock"),
        (Setting::tc(Shape::TwoArm), "mtu"),
        (Setting::xdp(Shape::TwoArm), "mtu lock"),
        (Setting::xdp(Shape::TwoArm), "mtu"),
        (Setting::tc(Shape::Tun), "mtu"),
    ] {
        setting.run_before_start(|lab, agent| {
            lab.nat.ip(&format!("route replace 10.0.2.0/24 dev eth1 src 10.0.2.1 {word} 1300"));
            agent.start();
            let pod = &lab.pods[0];
            pod.udp_exchange(41000, VENDOR, b"small").expect("an answer");
            let capture = lab.watch.vendor(0);
            // Its answer to this does not fit.
            let patience = Duration::from_secs(1);
            let lost = pod.udp_exchange_within(patience, 40000, VENDOR, &[7; 1320]);
            assert!(lost.is_err(), "{setting:?}: {lost:?}");
            capture.settle();
            let told = capture
                .matching(|packet| packet.way == Way::In && packet.is(|ip| ip.icmp_type() == Some((3, 4))));
            assert!(!told.is_empty(), "{:?}\n{}", capture.packets(), agent.metrics());
            let error = told[0].ipv4().expect("an IPv4 packet");
            assert_eq!(error.source(), EGRESS);
            assert_eq!(usize::from(u16::from_be_bytes([error.payload()[6], error.payload()[7]])), 1300);
            let quoted = error.quoted().expect("a quote");
            assert_eq!((quoted.source(), quoted.ports()), (VENDOR, Some((ECHO, 40000))));
            pod.udp_exchange(40000, VENDOR, &[7; 1320]).expect("an answer in parts");
        });
    }
}
