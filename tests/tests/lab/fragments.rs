//! Fragments in any order, both ways, and of two pods at once.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use tests::agent::Agent;
use tests::packet::{fragments, udp};
use tests::pod::Pod;
use tests::raw::RawSender;
use tests::sockets::udp_connect;
use tests::topology::{EGRESS, VENDOR};
use tests::vendor::ECHO;

use crate::setting::Setting;

in_every_setting! { any_order, two_pods_with_one_identification }

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// A socket of the pod that the vendor has answered once, and the address that the vendor saw.
fn open(pod: &Pod, port: u16) -> (UdpSocket, SocketAddrV4) {
    let to = SocketAddrV4::new(VENDOR, ECHO);
    let socket = pod.ns.enter(|| udp_connect(port, to, Duration::from_secs(2))).expect("a socket");
    socket.send(b"hello").expect("send");
    let answer = receive(&socket).expect("an answer");
    let seen = std::str::from_utf8(&answer).ok().and_then(|text| text.split(' ').next()?.parse().ok());
    (socket, seen.expect("the address that the vendor saw"))
}

fn receive(socket: &UdpSocket) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn payload(mark: u8) -> Vec<u8> {
    (0..3000usize).map(|byte| (byte * 7) as u8 ^ mark).collect()
}

fn held(agent: &Agent<'_>) -> f64 {
    agent.metric("vpnat_hook_packets_total", &["fate=\"held\""])
}

/// 4787-REQ-14: three fragments in all six orders reassemble at the other side, both ways. Those that come before the
/// first are held, and counted so, six of eighteen each way.
pub fn any_order(setting: Setting) {
    setting.run(|lab, agent| {
        let pod = &lab.pods[0];
        let (socket, seen) = open(pod, 41000);
        let raw = pod.raw();
        for (number, order) in (0u8..).zip(ORDERS) {
            let datagram = udp((pod.address, 41000), (VENDOR, ECHO), 64, &payload(number));
            let parts = fragments(&datagram, 100 + u16::from(number), &[1200, 1200]);
            assert_eq!(parts.len(), 3);
            order.iter().for_each(|place| raw.send(&parts[*place]));
            let answer =
                receive(&socket).unwrap_or_else(|error| panic!("{order:?}: {error}\n{}", agent.metrics()));
            assert!(answer.ends_with(&payload(number)), "{order:?}");
        }
        assert_eq!(held(agent), 6.0, "{}", agent.metrics());

        let vendor = &lab.site().vendors[0];
        let gateway = if setting.shape.is_tunnel() { &lab.site().gateway } else { &lab.site().vpc };
        let raw = RawSender::new(vendor, "eth0", tests::link::mac(gateway, "vendor0"));
        for (number, order) in (0u8..).zip(ORDERS) {
            let datagram = udp((VENDOR, ECHO), (EGRESS, seen.port()), 64, &payload(number));
            let parts = fragments(&datagram, 200 + u16::from(number), &[1200, 1200]);
            order.iter().for_each(|place| raw.send(&parts[*place]));
            let answer =
                receive(&socket).unwrap_or_else(|error| panic!("{order:?}: {error}\n{}", agent.metrics()));
            assert_eq!(answer, payload(number), "{order:?}");
        }
        assert_eq!(held(agent), 12.0, "{}", agent.metrics());
    });
}

/// RFC 3022 section 6.3: two pods' fragments with one identification, alternately, to one place.
pub fn two_pods_with_one_identification(setting: Setting) {
    setting.run(|lab, agent| {
        let pods = [&lab.pods[0], &lab.pods[1]];
        let sockets = pods.map(|pod| open(pod, 41000).0);
        let raws = pods.map(Pod::raw);
        for order in ORDERS {
            let parts = [0, 1].map(|pod: u8| {
                let from = (pods[usize::from(pod)].address, 41000);
                fragments(&udp(from, (VENDOR, ECHO), 64, &payload(pod)), 77, &[1200, 1200])
            });
            for place in order {
                raws[0].send(&parts[0][place]);
                raws[1].send(&parts[1][place]);
            }
            for (pod, socket) in (0u8..).zip(&sockets) {
                let answer =
                    receive(socket).unwrap_or_else(|error| panic!("{order:?}: {error}\n{}", agent.metrics()));
                assert!(answer.ends_with(&payload(pod)), "{order:?}: pod {pod}");
            }
        }
    });
}
