//! Errors that the NAT instance's own kernel makes behind TC egress, where packets bear the egress address already: they
//! must reach the pod as if there were no NAT (RFC 4459 section 3.2).
//!
//! A tunnel whose driver looks at the size makes them: XFRM interfaces, VTI and IP in IP. Where this machine's kernel has
//! none of these, the error is made by hand and sent by the stack in the same way.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tests::agent::Agent;
use tests::capture::Way;
use tests::long::{Upload, download};
use tests::netns::Namespace;
use tests::overlay::{BRIDGE, DEVICE, FAR, NEAR};
use tests::packet::{icmp, udp};
use tests::patience::patient;
use tests::pod::Pod;
use tests::process::wait_until;
use tests::sockets::{readable, udp_connect};
use tests::topology::{EGRESS, GATEWAY, NAT, Shape, Topology, VENDOR, VPC};
use tests::vendor::ECHO;

use crate::setting::Setting;

/// Sends a packet as the instance's stack does what it has made itself: routed, through every hook.
fn send_from_the_stack(ns: &Namespace, packet: &[u8]) {
    let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
    ns.enter(|| {
        // IPPROTO_RAW: the header is ours.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("a raw socket");
        socket.send_to(packet, &SocketAddrV4::new(to, 0).into()).expect("send an error");
    });
}

/// A socket of the pod's that discovers the path's MTU by itself.
fn discovering(pod: &Pod, port: u16) -> UdpSocket {
    let to = SocketAddrV4::new(VENDOR, ECHO);
    let socket = pod.ns.enter(|| udp_connect(port, to, Duration::from_secs(2))).expect("a socket");
    let value: libc::c_int = libc::IP_PMTUDISC_DO;
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the socket is open; pointer and length describe `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            length,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    socket
}

/// What the pod's kernel takes the path's MTU to be.
fn known_mtu(socket: &UdpSocket) -> usize {
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the socket is open; pointer and length describe `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    value as usize
}

/// The errors that the pod got, by type and code, with the MTU that each tells; all quote the pod's own packet.
fn told(lab: &Topology<'_>, pod: usize) -> Vec<((u8, u8), u16)> {
    let capture = lab.watch.pod(pod);
    capture.settle();
    let errors = capture.matching(|packet| {
        packet.way == Way::In && packet.is(|ip| matches!(ip.icmp_type(), Some((3 | 11 | 12, _))))
    });
    let read = |packet: &tests::capture::Captured| {
        let error = packet.ipv4().expect("an IPv4 packet");
        assert_eq!((error.source(), error.destination()), (GATEWAY, lab.pods[pod].address));
        let quoted = error.quoted().expect("a quote");
        assert_eq!((quoted.source(), quoted.destination()), (lab.pods[pod].address, VENDOR));
        (
            error.icmp_type().expect("an ICMP packet"),
            u16::from_be_bytes([error.payload()[6], error.payload()[7]]),
        )
    };
    errors.iter().map(read).collect()
}

/// As the kernel sends them, by either way: to an egress address of the instance's own, and to one that is routed elsewhere.
#[test]
fn row_10_6_3_as_the_kernel_makes_them() {
    for setting in [
        Setting::tc(Shape::TwoArm),
        Setting::tc_complete(Shape::TwoArm),
        Setting::xdp(Shape::TwoArm),
        Setting::tc(Shape::Tun),
    ] {
        for local in [true, false] {
            setting.run_before_start(|lab, agent| {
                if !local {
                    lab.nat.ip(&format!("addr del {EGRESS}/32 dev eth0\nroute add {EGRESS}/32 via {VPC}"));
                    lab.site().vpc.ip(&format!("route add {EGRESS}/32 via {NAT}"));
                }
                agent.start();
                let pod = &lab.pods[0];
                // Somebody else has the port that the pod asks for.
                lab.pods[1].udp_exchange(40000, VENDOR, b"first").expect("an answer");
                let seen = pod.udp_exchange(40000, VENDOR, b"second").expect("an answer");
                assert_ne!(seen.port(), 40000);
                let socket = discovering(pod, 40000);
                assert_eq!(known_mtu(&socket), 1500);
                let quote = udp((EGRESS, seen.port()), (VENDOR, ECHO), 63, &[7; 1400]);
                let error = icmp(NAT, EGRESS, (3, 4), [0, 0, 0x05, 0x14], &quote[..548]);
                send_from_the_stack(lab.nat, &error);
                let label = || format!("{setting:?}, local: {local}\n{}", agent.metrics());
                assert!(readable(&socket, patient(Duration::from_secs(2))), "no error: {}", label());
                let failure = socket.recv(&mut [0; 64]).expect_err("an error");
                assert_eq!(failure.raw_os_error(), Some(libc::EMSGSIZE), "{}", label());
                assert_eq!(known_mtu(&socket), 1300, "{}", label());
                assert_eq!(told(lab, 0), [((3, 4), 1300)], "{}", label());
                // It went nowhere else.
                let underlay = lab.watch.underlay();
                underlay.settle();
                let strays = underlay.matching(|packet| packet.is(|ip| ip.icmp_type() == Some((3, 4))));
                assert!(strays.is_empty(), "{strays:?}");
                let counted =
                    agent.metric("vpnat_hook_packets_total", &["vendor=\"vendor-a\"", "outcome=\"inbound\""]);
                assert!(counted >= 1.0, "{}", label());
                socket.send(b"still there").expect("send what fits");
                socket.recv(&mut [0; 64]).expect("an answer");
            });
        }
    }
}

/// What the tunnel's own driver finds too large: UDP learns the size, in as many steps as there are narrower places.
fn the_size_is_learnt(
    lab: &Topology<'_>,
    agent: &Agent<'_>,
    sizes: std::ops::Range<usize>,
) -> (UdpSocket, usize) {
    let pod = &lab.pods[0];
    let socket = discovering(pod, 41000);
    let mut answer = vec![0; 2048];
    let mut learnt = known_mtu(&socket);
    while !sizes.contains(&learnt) {
        socket.send(&vec![7; learnt - 28]).expect("send what the way is thought to take");
        assert!(
            readable(&socket, patient(Duration::from_secs(2))),
            "{learnt}: no error\n{}",
            agent.metrics()
        );
        let failure = socket.recv(&mut answer).expect_err("it does not fit");
        assert_eq!(failure.raw_os_error(), Some(libc::EMSGSIZE), "{failure}");
        let before = std::mem::replace(&mut learnt, known_mtu(&socket));
        println!("{before} bytes are too many, {learnt} are said to fit");
        assert!(learnt < before, "{}", agent.metrics());
    }
    let told = told(lab, 0);
    assert!(!told.is_empty() && told.iter().all(|(kind, _)| *kind == (3, 4)), "{told:?}");
    (socket, learnt)
}

/// What fits is answered, and transfers run whatever the MSS was.
fn what_fits_arrives(lab: &Topology<'_>, agent: &Agent<'_>, (socket, learnt): (UdpSocket, usize)) {
    let mut answer = vec![0; 2048];
    // The answer is longer by the address that the vendor saw.
    socket.send(&vec![7; learnt - 28 - 32]).expect("send what fits");
    let answered = socket.recv(&mut answer);
    let vendor = lab.watch.vendor(0);
    vendor.settle();
    assert!(answered.is_ok(), "{answered:?}\n{:?}\n{:?}", vendor.packets(), lab.watch.underlay().packets());

    let bytes = 1 << 20;
    let upload = Upload::start(&lab.pods[1], 41000, VENDOR, Duration::ZERO).expect("a connection");
    assert!(upload.wait_for(bytes), "{}", agent.metrics());
    let report = upload.stop().expect("an upload");
    assert_eq!(report.sent, report.right);
    assert_eq!(download(&lab.pods[2], 41000, VENDOR, bytes).expect("a download"), bytes);
}

/// An XFRM interface is 1,500 bytes wide unless somebody says otherwise, and what it carries is not. Whether answers come
/// through one is another matter (`docs/setups.md`).
#[test]
#[ignore = "needs the kernel's own ESP, as the guests of `cargo xtask vm` have it"]
fn row_10_6_3_an_xfrm_interface_without_mtu() {
    Setting::tc(Shape::KernelIpsec).run_before_start(|lab, agent| {
        for end in [lab.nat, &lab.site().gateway] {
            end.ip(&format!("link set {} mtu 1500", lab.outside_device()));
        }
        agent.start();
        the_size_is_learnt(lab, agent, 1400..1500);
    });
}

/// The way below a tunnel takes less than below its device is said to.
#[test]
#[ignore = "needs IP in IP, as the guests of `cargo xtask vm` have it"]
fn row_10_6_3_ip_in_ip_over_a_small_underlay() {
    Setting::tc(Shape::Ipip).run_before_start(|lab, agent| {
        lab.nat.ip("route add 203.0.113.20/32 via 10.0.1.1 mtu 1300");
        agent.start();
        let learnt = the_size_is_learnt(lab, agent, 1270..1281);
        what_fits_arrives(lab, agent, learnt);
    });
}

/// The same, where the tunnel's packets have Ethernet headers: the answer follows the packet's route, so a packet must have one.
#[test]
#[ignore = "needs GRETAP, as the guests of `cargo xtask vm` have it"]
fn row_10_6_3_gretap_over_a_small_underlay() {
    Setting::tc(Shape::Gretap).run_before_start(|lab, agent| {
        lab.nat.ip(&format!("route add 203.0.113.20/32 via {VPC} mtu 1300\nlink set {DEVICE} mtu 1500"));
        agent.start();
        established(&lab.pods[0]);
        let learnt = the_size_is_learnt(lab, agent, 1255..1263);
        what_fits_arrives(lab, agent, learnt);
    });
}

/// VXLAN's driver tells nobody: it takes note of the size with the packet's route, where forwarding finds it the next time if
/// it may (`ip_forward_use_pmtu`).
#[test]
fn row_10_6_3_vxlan_over_a_small_underlay() {
    Setting::tc(Shape::Vxlan).run_before_start(|lab, agent| {
        a_small_underlay(lab);
        lab.nat.sysctl("net.ipv4.ip_forward_use_pmtu", "1");
        agent.start();
        let pod = &lab.pods[0];
        established(pod);
        let socket = discovering(pod, 41000);
        let too_much = vec![7; 1500 - 28];
        socket.send(&too_much).expect("send what is noted");
        wait_until("the pod is told", Duration::from_secs(5), || {
            let refused = socket.send(&too_much).is_err();
            refused && known_mtu(&socket) < 1500
        });
        // What the error has left behind is not what the next packet meets.
        socket.take_error().expect("the socket's error");
        let learnt = known_mtu(&socket);
        assert_eq!(told(lab, 0), [((3, 4), learnt as u16)], "{}", agent.metrics());
        assert_eq!(learnt, 1250, "{}", agent.metrics());
        what_fits_arrives(lab, agent, (socket, learnt));
    });
}

/// In a bridge it answers itself, as if the packet's receiver did, behind the translation and outside.
#[test]
fn row_10_6_3_vxlan_in_a_bridge_over_a_small_underlay() {
    Setting::tc(Shape::Vxlan).run_before_start(|lab, agent| {
        a_small_underlay(lab);
        lab.nat.ip(&format!(
            "link add {BRIDGE} type bridge
             addr flush dev {DEVICE}
             link set {DEVICE} master {BRIDGE}
             link set {BRIDGE} up
             addr add {NEAR}/30 dev {BRIDGE}
             route add 192.0.2.0/24 via {FAR}"
        ));
        let text = std::fs::read_to_string(agent.file()).expect("the configuration");
        let text = text.replace(&format!("[\"{DEVICE}\"]"), &format!("[\"{BRIDGE}\"]"));
        std::fs::write(agent.file(), text).expect("the configuration");
        agent.start();
        let pod = &lab.pods[0];
        established(pod);
        let socket = discovering(pod, 41000);
        socket.send(&[7; 1500 - 28]).expect("send what the way is thought to take");
        assert!(readable(&socket, patient(Duration::from_secs(2))), "no error\n{}", agent.metrics());
        let failure = socket.recv(&mut [0; 64]).expect_err("it does not fit");
        assert_eq!(failure.raw_os_error(), Some(libc::EMSGSIZE), "{failure}");
        let learnt = known_mtu(&socket);
        assert_eq!(learnt, 1250, "{}", agent.metrics());
        what_fits_arrives(lab, agent, (socket, learnt));
    });
}

/// A flow is on the fast path once the stack has found the neighbour for it.
fn established(pod: &Pod) {
    for _ in 0..3 {
        pod.udp_exchange(41000, VENDOR, b"small").expect("an answer");
    }
}

/// The tunnel's device is said to be as wide as any, its packets must not be fragmented, and the way below takes 1,300 bytes.
fn a_small_underlay(lab: &Topology<'_>) {
    lab.nat.ip(&format!(
        "route add 203.0.113.20/32 via {VPC} mtu 1300
         link set {DEVICE} mtu 1500
         link set {DEVICE} type vxlan df set"
    ));
}
