//! Checksums through the loaded programs: one flow, the payload's first word going through its values.

use tests::packet::{ICMP, TCP, UDP, icmp, tcp, udp};

use super::{ACK, Flow, PROTOCOLS};
use crate::case::{Way, each};

/// Every value of the word that matters: those around 0 and 0xffff, and a walk through the rest. The whole
/// 65,536 run on the host, in the engine's tests; here it is the helpers of the kernel that count.
fn words() -> impl Iterator<Item = u16> {
    (0..=u16::MAX).filter(|word| {
        let near = *word < 40 || *word > 0xffff - 40;
        near || word % 257 == 0
    })
}

/// The word that makes the checksum of `packet(word)` the wanted one, found from a packet without it.
fn word_for(packet: &dyn Fn(u16) -> Vec<u8>, at: usize) -> u16 {
    let zero = packet(0);
    u16::from_be_bytes([zero[at], zero[at + 1]])
}

#[test]
fn row_10_1_1_row_10_1_3_row_10_1_6_row_10_2_1_rfc3022_4_1_every_kind_of_sum() {
    each(&[Way::Xdp, Way::TcEthernet, Way::Redirect], |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::moved(case, protocol);
            let (pod, remote, public) = (flow.pod, flow.remote, flow.public);
            let id = |number: u16| [(number >> 8) as u8, number as u8, 0, 1];
            let out = |word: u16| match protocol {
                TCP => tcp(pod, remote, ACK, (101, 501), &word.to_be_bytes()),
                UDP => udp(pod, remote, 64, &word.to_be_bytes()),
                _ => icmp(pod.0, remote.0, (8, 0), id(pod.1), &word.to_be_bytes()),
            };
            let back = |word: u16| match protocol {
                TCP => tcp(remote, public, ACK, (501, 101), &word.to_be_bytes()),
                UDP => udp(remote, public, 64, &word.to_be_bytes()),
                _ => icmp(remote.0, public.0, (0, 0), id(public.1), &word.to_be_bytes()),
            };
            let at = 20
                + match protocol {
                    TCP => 16,
                    UDP => 6,
                    ICMP => 2,
                    _ => unreachable!(),
                };
            // Words that give a sum of 0 before and after the translation.
            let before = word_for(&out, at);
            let after = word_for(&|word| flow.outside(&out(word)), at);
            for word in words().chain([before, after, before.wrapping_add(1), after.wrapping_sub(1)]) {
                flow.leaves(case, &out(word));
                flow.arrives(case, &back(word));
            }
            if protocol == UDP {
                let none = crate::model::without_udp_checksum(&out(7));
                flow.leaves(case, &none);
                flow.arrives(case, &crate::model::without_udp_checksum(&back(7)));
            }
        }
    });
}
