//! Sizes: a clean edge at the MTU, and the MSS that SYNs offer.

use tests::packet::{TCP, UDP, tcp, udp};
use vpnat_common::layout::outcome::{Hook, Outcome};

use super::{ACK, Flow, POD_END, SERVER_END, SYN, policy};
use crate::case::{EVERY, TC, Way, XDP, each};
use crate::model;
use crate::plan::{A, INSTANCE_INSIDE, POD_2};

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

/// What is too large for the pods' side: the stack's error to the vendor leaves as the pod's own would, from the egress
/// address and with the vendor's packet quoted as it sent it. Nothing else that the instance says does, and nothing about
/// what is no flow's.
#[test]
fn row_10_6_4_rfc5508_req10a_the_vendor_is_told_what_is_too_large_inside() {
    each(TC, |case| {
        for protocol in super::PROTOCOLS {
            case.restart();
            let flow = Flow::moved(case, protocol);
            let sent = match protocol {
                UDP => udp(flow.remote, flow.public, 64, &[7; 1400]),
                TCP => tcp(flow.remote, flow.public, ACK, (501, 101), &[7; 1400]),
                _ => flow.answer(),
            };
            for length in [28, 576 - 28, 1500] {
                let mtu = [0, 0, 0x05, 0x14];
                let [error, seen] = flow.refusal_of(&sent, INSTANCE_INSIDE, ((3, 4), mtu), length);
                case.local(&error).leaves_as(A, &seen);
                for other in [(3, 1), (3, 3), (3, 13), (11, 1), (12, 0)] {
                    let [error, _] = flow.refusal_of(&sent, INSTANCE_INSIDE, (other, mtu), length);
                    case.local(&error).ends_as(A, Outcome::LocalSource);
                }
            }
            let stray = Flow { pod: (POD_2, 7), public: (POD_2, 7), ..flow };
            let [error, _] = stray.refusal_of(&sent, INSTANCE_INSIDE, ((3, 4), [0, 0, 5, 0]), 28);
            case.local(&error).ends_as(A, Outcome::IcmpErrorNoFlow);
            flow.lives(case);
        }
    });
}

/// The way to the pods is as wide as its routes say, also where the kernel's lookup for programs tells the device's MTU only.
#[test]
fn row_10_6_1_a_clean_edge_on_the_way_to_the_pods() {
    each(&[Way::Xdp, Way::XdpOneArm, Way::Redirect, Way::RedirectOneArm], |case| {
        policy(case, |policy| policy.inside_mtu = 1400);
        let flow = Flow::open(case, UDP, POD_END, SERVER_END);
        for size in (1398..=1402).chain([1500, 576]) {
            let packet = udp(flow.remote, flow.public, 64, &vec![7; size - 28]);
            let seen = case.back(&packet);
            if size <= 1400 {
                seen.arrives_as(A, &flow.inside(&packet));
            } else if seen.hook == Hook::Xdp {
                assert_eq!((seen.ended(), &seen.output), (Outcome::ToStackMtu, &seen.input), "{size} bytes");
            } else {
                // TC ingress restores it, and the stack finds it too large.
                assert_eq!((seen.ended(), seen.returned), (Outcome::Inbound, u32::MAX), "{size} bytes");
            }
        }
        // The way out has a limit of its own.
        flow.leaves(case, &udp(flow.pod, flow.remote, 64, &[7; 1472]));
    });
}

/// The stack finds that a vendor's packet has no hop left; that, too, the vendor hears from the egress address.
#[test]
fn rfc1812_5_3_1_rfc5508_sec7_2_the_vendor_is_told_of_time_exceeded() {
    each(TC, |case| {
        for protocol in super::PROTOCOLS {
            case.restart();
            let flow = Flow::moved(case, protocol);
            let [error, seen] = flow.refusal_of(&flow.answer(), INSTANCE_INSIDE, ((11, 0), [0; 4]), 548);
            case.local(&error).leaves_as(A, &seen);
            flow.lives(case);
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
