//! Conformance where the stack has its part: errors that it makes, fragments, neighbours, real endpoints. A test's
//! name carries the ids of the rows of COMPLIANCE.md that it shows.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tests::capture::{Capture, Captured, Way};
use tests::link::mac;
use tests::packet::{self, ICMP, TCP, UDP, icmp, ipv4, tcp, udp};
use tests::raw::RawSender;
use tests::sockets::{PATIENCE, tcp_connect, udp_connect};
use tests::topology::{EGRESS, GATEWAY, Shape, Topology, VENDOR, VPC};
use tests::vendor::ECHO;

use crate::setting::Setting;

/// Both hooks.
const BOTH: [Setting; 2] = [Setting::tc(Shape::TwoArm), Setting::xdp(Shape::TwoArm)];

/// A router on the way that is nobody's vendor.
const TRANSIT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);

/// The packet with other bytes at `at` and its header checksum right.
fn patched(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = packet::checksum(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A datagram of `length` bytes in all, which may be fragmented or not.
fn datagram(from: Ipv4Addr, port: u16, length: usize, whole: bool) -> Vec<u8> {
    let packet = udp((from, port), (VENDOR, ECHO), 64, &vec![7; length - 28]);
    patched(packet, 6, &[if whole { 0x40 } else { 0 }])
}

/// ICMP errors that came to the capture's place.
fn errors(capture: &Capture) -> Vec<Captured> {
    capture.settle();
    capture.matching(|packet| {
        packet.way == Way::In
            && packet.is(|ip| ip.icmp_type().is_some_and(|(kind, _)| [3, 4, 5, 11, 12].contains(&kind)))
    })
}

/// A sender of crafted packets beside the instance, on its outside.
fn transit(lab: &Topology<'_>) -> RawSender {
    RawSender::new(&lab.site().vpc, "nat0", mac(lab.nat, "eth0"))
}

/// What may be fragmented is: as few parts as can be, none too large, the first one first, and it arrives.
#[test]
fn rfc4787_req13a_rfc1812_4_2_2_7_rfc5508_7_1_1_what_may_be_fragmented_is() {
    for setting in BOTH {
        setting.run_before_start(|lab, agent| {
            lab.nat.ip(&format!("route add 192.0.2.0/24 via {VPC} mtu 1300"));
            agent.start();
            let pod = &lab.pods[0];
            pod.udp_exchange(41000, VENDOR, b"the neighbours are known").expect("an answer");
            let before = lab.watch.vendor(0).count();
            pod.raw().send(&datagram(pod.address, 40000, 1500, false));
            let vendor = lab.watch.vendor(0);
            vendor.settle();
            let parts: Vec<_> = vendor
                .packets()
                .into_iter()
                .skip(before)
                .filter(|packet| packet.way == Way::In && packet.is(|ip| ip.is_fragment()))
                .collect();
            let offsets: Vec<_> = parts
                .iter()
                .map(|part| (u16::from_be_bytes([part.start()[6], part.start()[7]]) & 0x1fff) * 8)
                .collect();
            assert_eq!(offsets, [0, 1280], "{parts:?}");
            assert!(parts.iter().all(|part| part.length <= 1300), "{parts:?}");
            // The vendor's echo has put it together and answered.
            let answers = lab.watch.pod(0).matching(|packet| {
                packet.way == Way::In && packet.is(|ip| ip.ports().is_some_and(|(from, _)| from == ECHO))
            });
            assert!(answers.len() >= 2, "{:?}", lab.watch.pod(0).packets());
            // And 4,000 bytes, from a pod that fragments itself, both ways.
            let seen = pod.udp_exchange(40001, VENDOR, &[9; 4000]).expect("an answer in fragments");
            assert_eq!(*seen.ip(), EGRESS);
        });
    }
}

/// Byte by byte around the MTU: what fits arrives whole, what does not is an error with the size that fits, from
/// the inside address, quoting the pod.
#[test]
fn rfc8899_4821_rfc4787_req13_rfc1191_4_rfc5508_7_1_1_row_10_6_2_a_clean_edge() {
    for setting in BOTH {
        setting.run_before_start(|lab, agent| {
            lab.nat.ip(&format!("route add 192.0.2.0/24 via {VPC} mtu 1400"));
            agent.start();
            let pod = &lab.pods[0];
            for _ in 0..2 {
                pod.udp_exchange(41000, VENDOR, b"the neighbours are known").expect("an answer");
            }
            let raw = pod.raw();
            for length in 1395..=1405 {
                raw.send(&datagram(pod.address, 40000, length, true));
            }
            let vendor = lab.watch.vendor(0);
            vendor.settle();
            let came = vendor.matching(|packet| packet.way == Way::In && packet.length > 1000);
            let lengths: Vec<_> = came.iter().map(|packet| packet.length).collect();
            assert_eq!(lengths, [1395, 1396, 1397, 1398, 1399, 1400]);
            let errors = errors(lab.watch.pod(0));
            let mut refused = Vec::new();
            for error in &errors {
                let ip = error.ipv4().expect("IPv4");
                if ip.icmp_type() != Some((3, 4)) {
                    continue;
                }
                assert_eq!(ip.source(), GATEWAY);
                assert_eq!(ip.payload()[4..8], [0, 0, 0x05, 0x78], "the next hop's MTU, and zeros before it");
                let quoted = ip.quoted().expect("a quote");
                assert_eq!(quoted.source(), pod.address);
                refused.push(quoted.total_length());
            }
            assert_eq!(refused, [1401, 1402, 1403, 1404, 1405], "{errors:?}");
        });
    }
}

/// A router's "fragmentation needed" about a connection reaches the pod's kernel, which believes it.
#[test]
fn rfc5382_req9_rfc5508_7_1_2_the_pods_kernel_lowers_its_path_mtu() {
    for setting in BOTH {
        setting.run(|lab, _| {
            let pod = &lab.pods[0];
            // Another pod has the port, so that it is another one outside.
            let _rival = lab.pods[1].ns.enter(|| connect(40000));
            let stream = pod.ns.enter(|| connect(40000));
            let vendor = lab.watch.vendor(0);
            vendor.settle();
            let last = vendor
                .matching(|packet| packet.way == Way::Out && packet.is(|ip| ip.protocol() == TCP))
                .pop()
                .expect("the vendor's last segment");
            let ip = last.ipv4().expect("IPv4");
            let (_, port) = ip.ports().expect("ports");
            assert_ne!(port, 40000);
            let numbers = (number(ip.payload(), 8), number(ip.payload(), 4));
            let quote = tcp((EGRESS, port), (VENDOR, ECHO), 16, numbers, &[7; 100]);
            let error = icmp(TRANSIT, EGRESS, (3, 4), [0, 0, 0x05, 0x14], &quote[..28]);
            transit(lab).send(&error);
            lab.watch.pod(0).settle();
            let route = pod.ns.run(&format!("ip route get {VENDOR}"));
            assert!(route.contains("mtu 1300"), "{route}\n{:?}", lab.watch.pod(0).packets());
            drop(stream);
        });
    }
}

/// A connection to the vendor's echo server, over which something has gone.
fn connect(port: u16) -> std::net::TcpStream {
    use std::io::{Read, Write};
    let mut stream = tcp_connect(port, SocketAddrV4::new(VENDOR, ECHO), PATIENCE).expect("a connection");
    stream.write_all(b"hello").expect("send");
    stream.read_exact(&mut [0; 5]).expect("an echo");
    stream
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The time to live ends at the instance and one behind it: each says so once, from an address of its own, quoting
/// what the pod has sent, as much as fits.
#[test]
fn rfc5508_req10a_rfc5508_sec7_2_rfc1812_5_3_1_rfc1812_4_3_2_3_rfc1812_4_3_2_4_time_exceeded() {
    for setting in BOTH {
        setting.run(|lab, _| {
            let pod = &lab.pods[0];
            pod.udp_exchange(41000, VENDOR, b"the neighbours are known").expect("an answer");
            let raw = pod.raw();
            for (ttl, reporter) in [(1, GATEWAY), (2, VPC)] {
                for protocol in [UDP, TCP, ICMP] {
                    let before = errors(lab.watch.pod(0)).len();
                    let packet = match protocol {
                        UDP => udp((pod.address, 40000), (VENDOR, ECHO), 64, &[7; 700]),
                        TCP => tcp((pod.address, 40000), (VENDOR, ECHO), 2, (7, 0), b""),
                        _ => packet::echo_request(pod.address, VENDOR, 40000, 1),
                    };
                    let packet = patched(packet, 8, &[ttl]);
                    raw.send(&packet);
                    let errors = errors(lab.watch.pod(0));
                    assert_eq!(errors.len(), before + 1, "ttl {ttl}, protocol {protocol}: {errors:?}");
                    let error = errors[before].ipv4().expect("IPv4");
                    assert_eq!((error.icmp_type(), error.source()), (Some((11, 0)), reporter));
                    let quoted = error.quoted().expect("a quote");
                    assert_eq!((quoted.source(), quoted.destination()), (pod.address, VENDOR));
                    let shown = quoted.payload();
                    let head = shown.len().min(packet.len() - 20).min(64);
                    assert_eq!(
                        shown[..head],
                        packet[20..20 + head],
                        "ports and checksum as the pod sent them"
                    );
                    let expected = if packet.len() > 548 { 576 } else { packet.len() + 28 };
                    assert_eq!(errors[before].length, expected, "as much as fits in 576 bytes");
                }
            }
        });
    }
}

/// A vendor's packet whose hops end here: the vendor is told, from the egress address and with its own packet quoted.
#[test]
fn rfc1812_5_3_1_rfc5508_sec7_2_time_exceeded_towards_the_vendor() {
    for setting in [BOTH[0], BOTH[1], Setting::tc(Shape::Tun)] {
        setting.run(|lab, agent| {
            let pod = &lab.pods[0];
            let seen = pod.udp_exchange(41000, VENDOR, b"a flow").expect("an answer");
            let router = if lab.shape.is_tunnel() { &lab.site().gateway } else { &lab.site().vpc };
            let vendor = RawSender::new(&lab.site().vendors[0], "eth0", mac(router, "vendor0"));
            // One router on its way to the instance.
            let sent = patched(udp((VENDOR, ECHO), (*seen.ip(), seen.port()), 64, &[7; 300]), 8, &[2]);
            vendor.send(&sent);
            let capture = lab.watch.vendor(0);
            let errors = errors(capture);
            assert_eq!(errors.len(), 1, "{setting:?}: {:?}\n{}", capture.packets(), agent.metrics());
            let error = errors[0].ipv4().expect("IPv4");
            assert_eq!((error.icmp_type(), error.source()), (Some((11, 0)), EGRESS));
            let quoted = error.quoted().expect("a quote");
            assert_eq!((quoted.source(), quoted.destination()), (VENDOR, EGRESS));
            assert_eq!(quoted.payload()[..64], sent[20..84], "as the vendor sent it");
            pod.udp_exchange(41000, VENDOR, b"the flow goes on").expect("an answer");
        });
    }
}

/// No error about an error, a bad header, a later fragment, or a source that is nobody's.
#[test]
fn rfc5508_req10e_rfc1812_4_3_2_7_when_not_to_answer() {
    for setting in BOTH {
        setting.run(|lab, _| {
            let pod = &lab.pods[0];
            pod.udp_exchange(41000, VENDOR, b"the neighbours are known").expect("an answer");
            let raw = pod.raw();
            let from = |source: Ipv4Addr| udp((source, 40000), (VENDOR, ECHO), 1, b"ends here");
            let mut bad = from(pod.address);
            bad[0] = 0x44;
            let about = udp((VENDOR, ECHO), (pod.address, 40000), 64, b"quoted");
            let error = patched(icmp(pod.address, VENDOR, (3, 3), [0; 4], &about), 8, &[1]);
            raw.send(&bad);
            raw.send(&error);
            raw.send(&patched(from(pod.address), 6, &[0, 100]));
            for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 5], [255, 255, 255, 255]] {
                raw.send(&from(Ipv4Addr::from(source)));
            }
            // Too large and not to be fragmented, and a later part.
            raw.send(&patched(ipv4(pod.address, VENDOR, UDP, 1, &[7; 600]), 6, &[0x40, 100]));
            let found = errors(lab.watch.pod(0));
            assert!(found.is_empty(), "{found:?}");
            // The same place does answer.
            raw.send(&from(pod.address));
            assert_eq!(errors(lab.watch.pod(0)).len(), 1);
        });
    }
}

/// A flood of packets that end here does not become a flood of errors.
#[test]
fn rfc5508_req10f_rfc1812_4_3_2_8_errors_are_rate_limited() {
    for setting in BOTH {
        setting.run(|lab, _| {
            lab.nat.sysctl("net.ipv4.icmp_ratelimit", "1000");
            let pod = &lab.pods[0];
            pod.udp_exchange(41000, VENDOR, b"the neighbours are known").expect("an answer");
            let raw = pod.raw();
            for port in 0..1000 {
                raw.send(&udp((pod.address, 40000 + port), (VENDOR, ECHO), 1, b"ends here"));
            }
            let found = errors(lab.watch.pod(0)).len();
            assert!((1..=60).contains(&found), "{found} errors");
        });
    }
}

/// Whoever is next to the instance finds the egress address by itself.
#[test]
fn rfc3022_6_2_the_egress_address_is_answered_for() {
    for setting in BOTH {
        setting.run(|lab, _| {
            lab.site().vpc.ip("neigh flush dev nat0");
            let seen = lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
            assert_eq!(*seen.ip(), EGRESS);
            let known = lab.site().vpc.run(&format!("ip neigh show {EGRESS} dev nat0"));
            assert!(known.contains("lladdr"), "{known}");
        });
    }
}

/// A pod's packet to another pod's mapped port reaches neither that pod nor the vendor, and goes round in no loop.
#[test]
fn rfc4787_req9_rfc5382_req8_rfc5508_req7_a_hairpin_goes_nowhere() {
    for setting in BOTH {
        setting.run(|lab, _| {
            let [a, b] = [&lab.pods[0], &lab.pods[1]];
            let port = b.udp_exchange(40000, VENDOR, b"question").expect("an answer").port();
            for watched in [lab.watch.pod(1), lab.watch.underlay()] {
                watched.settle();
            }
            let (at_b, outside) = (lab.watch.pod(1).count(), lab.watch.underlay().count());
            let raw = a.raw();
            raw.send(&udp((a.address, 40000), (EGRESS, port), 64, b"hairpin"));
            raw.send(&tcp((a.address, 40000), (EGRESS, port), 2, (7, 0), b""));
            raw.send(&packet::echo_request(a.address, EGRESS, port, 1));
            lab.watch.pod(1).settle();
            let came = |capture: &Capture, before: usize| {
                let packets: Vec<_> = capture.packets().into_iter().skip(before).collect();
                packets.into_iter().filter(|packet| packet.ipv4().is_some()).collect::<Vec<_>>()
            };
            assert_eq!(came(lab.watch.pod(1), at_b), []);
            assert_eq!(came(lab.watch.underlay(), outside), []);
        });
    }
}

/// The instance's own connections from the egress address and the pods' from the same ports: nobody loses one.
#[test]
fn rfc3022_2_2_own_sessions_and_the_pods_do_not_clash() {
    for setting in BOTH {
        setting.run(|lab, _| {
            let own: Vec<_> = (0..100)
                .map(|number| {
                    lab.nat.enter(|| {
                        let socket = std::net::UdpSocket::bind((EGRESS, 42000 + number)).expect("a port");
                        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                        socket.connect((VENDOR, ECHO)).expect("an address");
                        socket.send(b"own").expect("send");
                        socket
                    })
                })
                .collect();
            let pods: Vec<_> = (0..100)
                .map(|number| {
                    lab.pods[0].ns.enter(|| {
                        let to = SocketAddrV4::new(VENDOR, ECHO);
                        let socket = udp_connect(42000 + number, to, PATIENCE).expect("a socket");
                        socket.send(b"pod").expect("send");
                        socket
                    })
                })
                .collect();
            let mut seen = std::collections::BTreeSet::new();
            for (sockets, said) in [(&own, "own"), (&pods, "pod")] {
                for socket in sockets {
                    let mut answer = [0; 64];
                    let length = socket.recv(&mut answer).expect("an answer");
                    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
                    let (from, data) = text.split_once(' ').expect("an address and what was sent");
                    assert_eq!(data, said, "{from} got another's answer");
                    assert!(seen.insert(from.to_string()), "{from} twice");
                }
            }
            assert_eq!(seen.len(), 200);
        });
    }
}

/// A vendor's SYN to nobody is met with silence, for six seconds and after; a connection that opens on the same
/// tuple meanwhile is none the worse for it.
#[test]
fn rfc5382_req4_rfc5382_req4a_silence_for_unsolicited_segments() {
    for setting in BOTH {
        setting.run(|lab, _| {
            let gateway = mac(&lab.site().vpc, "vendor0");
            let raw = RawSender::new(&lab.site().vendors[0], "eth0", gateway);
            raw.send(&tcp((VENDOR, ECHO), (EGRESS, 40000), 2, (500, 0), b""));
            raw.send(&tcp((VENDOR, ECHO), (EGRESS, 22), 2, (500, 0), b""));
            raw.send(&udp((VENDOR, ECHO), (EGRESS, 500), 64, b"who is there?"));
            std::thread::sleep(Duration::from_secs(3));
            let stream = lab.pods[0].ns.enter(|| connect(40000));
            std::thread::sleep(Duration::from_secs(4));
            drop(stream);
            let vendor = lab.watch.vendor(0);
            vendor.settle();
            let strange = vendor.matching(|packet| {
                packet.way == Way::In
                    && packet
                        .is(|ip| ip.protocol() == ICMP || ip.ports().is_some_and(|(from, _)| from != 40000))
            });
            assert!(strange.is_empty(), "{strange:?}");
            let resets = vendor.matching(|packet| {
                packet.way == Way::In && packet.is(|ip| ip.protocol() == TCP && ip.payload()[13] & 4 != 0)
            });
            assert!(resets.is_empty(), "{resets:?}");
        });
    }
}

/// Addresses that are inside and outside at once are refused before anything is attached.
#[test]
fn rfc4787_req7_overlapping_addresses_are_refused() {
    Setting::tc(Shape::TwoArm).run_before_start(|lab, agent| {
        let good = lab.config(tests::agent::Xdp::Off);
        let changes: [fn(&mut tests::agent::Vendor); 3] = [
            |vendor| vendor.egress = vec![Ipv4Addr::new(10, 0, 2, 50)],
            |vendor| vendor.egress = vec![VENDOR],
            |vendor| vendor.cidrs = vec!["10.0.2.0/25".into()],
        ];
        for change in changes {
            let mut config = good.clone();
            change(&mut config.vendors[0]);
            std::fs::write(agent.file(), config.toml()).expect("a configuration");
            for verb in ["check", "run"] {
                let output = agent.vpnat(verb);
                assert!(!output.status.success(), "vpnat {verb} accepts:\n{}", config.toml());
            }
            assert!(agent.attached().is_empty() && agent.pins().is_empty());
        }
    });
}

/// What an operator can read: metrics that move, status, flows. And a datapath that outlives its agent.
#[test]
fn rfc6888_req10_row_11_25_row_10_2_3_it_can_be_managed_and_outlives_its_manager() {
    let complete = Setting::tc_complete(Shape::TwoArm);
    for setting in [BOTH[0], complete, BOTH[1]] {
        setting.run(|lab, agent| {
            let translated = |agent: &tests::agent::Agent<'_>| {
                agent.metric("vpnat_hook_packets_total", &["outcome=\"outbound\""])
            };
            let before = translated(agent);
            let stream = lab.pods[0].ns.enter(|| connect(40000));
            assert!(translated(agent) > before, "{}", agent.metrics());
            assert!(agent.vpnat_ok("flows list").contains("40000"));
            agent.vpnat_ok("status");
            agent.kill9();
            agent.vpnat_ok("flows list");
            let talk = |mut stream: &std::net::TcpStream| {
                use std::io::{Read, Write};
                stream.write_all(b"again").expect("send");
                stream.read_exact(&mut [0; 5]).expect("an echo");
            };
            talk(&stream);
            agent.start();
            talk(&stream);
        });
    }
}

/// Three parts in all six orders, both ways, and what the vendor makes of two pods' with one identification.
#[test]
fn rfc4787_req14_row_10_4_3_row_10_4_9_parts_in_any_order() {
    for setting in BOTH {
        crate::fragments::any_order(setting);
    }
}

#[test]
fn rfc6864_5_3_1_rfc3022_6_3_row_10_4_8_two_pods_with_one_identification() {
    for setting in BOTH {
        crate::fragments::two_pods_with_one_identification(setting);
    }
}
