//! Sizes: a clean edge at the MTU, and the MSS that SYNs offer.

use tests::packet::{TCP, UDP, tcp, udp};
use vpnat_common::layout::outcome::Outcome;

use super::{ACK, Flow, POD_END, SERVER_END, SYN, policy};
use crate::case::{EVERY, TC, XDP, each};
use crate::model;
use crate::plan::A;

/// One byte decides, and every packet of a size ends alike: what is too large is the stack's to answer.
#[test]
fn rfc8899_4821_rfc4787_req13_row_10_6_1_a_clean_edge_at_the_routes_mtu() {
    each(XDP, |case| {
        policy(case, |policy| policy.path_mtu = 1400);
        for round in 0..2 {
            if round == 1 {
                // A flow keeps the size with its next hop.
                Flow::open(case, UDP, POD_END, SERVER_END);
            }
            for size in (1395..=1405).chain([1500, 576, 1400, 1401]) {
                let packet = udp(POD_END, SERVER_END, 64, &vec![7; size - 28]);
                let seen = case.out(&packet);
                if size <= 1400 {
                    seen.leaves_as(A, &model::source(&packet, super::PUBLIC));
                } else {
                    assert_eq!(seen.ended(), Outcome::ToStackMtu, "{size} bytes");
                    assert_eq!(seen.output, seen.input, "{size} bytes");
                }
            }
        }
    });
}

/// TC egress comes after the stack has judged the size: whatever is there goes out whole.
#[test]
fn rfc8899_4821_tc_egress_takes_what_the_stack_sends() {
    each(TC, |case| {
        let flow = Flow::open(case, UDP, POD_END, SERVER_END);
        for size in [1395, 1400, 1405, 1500] {
            flow.leaves(case, &udp(POD_END, SERVER_END, 64, &vec![7; size - 28]));
        }
    });
}

fn with_mss(packet: &[u8], mss: u16, odd: bool) -> Vec<u8> {
    let [high, low] = mss.to_be_bytes();
    let options: &[u8] = if odd { &[1, 2, 4, high, low, 1, 1, 1] } else { &[2, 4, high, low] };
    let mut packet = [packet, options].concat();
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[32] = 0x50 + (options.len() / 4) as u8 * 16;
    model::finished(packet)
}

/// SYN and SYN-ACK offer at most what the way takes; a smaller offer stays, and other segments too.
#[test]
fn rfc4459_3_2_mss_row_10_1_5_a_smaller_offer_both_ways() {
    each(EVERY, |case| {
        for odd in [false, true] {
            for (offered, expected) in
                [(1460, 1360), (1361, 1360), (1360, 1360), (1359, 1359), (536, 536), (0, 0), (65535, 1360)]
            {
                case.restart();
                policy(case, |policy| policy.mss = 1360);
                let flow = Flow { protocol: TCP, pod: POD_END, remote: SERVER_END, public: super::PUBLIC };
                let syn = flow.pods_segment(SYN, (100, 0), b"");
                let left = flow.outside(&with_mss(&syn, expected, odd));
                case.out(&with_mss(&syn, offered, odd)).leaves_as(A, &left);
                let answer = tcp(SERVER_END, flow.public, SYN | ACK, (500, 101), b"");
                let arrived = flow.inside(&with_mss(&answer, expected, odd));
                case.back(&with_mss(&answer, offered, odd)).arrives_as(A, &arrived);
                // Not a SYN: the same bytes are none of ours.
                flow.leaves(case, &with_mss(&flow.pods_segment(ACK, (101, 501), b""), offered, odd));
            }
        }
    });
}
