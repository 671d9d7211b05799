//! IP headers, options, time to live, ports, and what else a hop owes to a packet.

use tests::packet::{ICMP, TCP, UDP, udp};
use vpnat_common::layout::outcome::Outcome;

use super::{Flow, POD_END, PROTOCOLS, SERVER_END, SYN, dropped, stopped};
use crate::case::{Case, Course, EVERY, TC, Way, XDP, each};
use crate::model::{finished, with_header_checksum, with_options, with_ttl};
use crate::plan::{A, POD, SERVER};
use crate::world::{tc_context, xdp_context};

/// The packet with a byte of its header changed and its checksum right.
fn with(packet: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at] = value;
    with_header_checksum(packet)
}

/// DSCP and ECN, the identification and DF are not a NAT's to change.
#[test]
fn rfc6864_4_3_rfc4459_3_4_row_10_1_2_dscp_ecn_and_df_stay() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            for tos in [0, 1, 2, 3, 0xb8, 0xbb, 0xff] {
                // Atomic: DF set, not a fragment; the identification means nothing.
                let question = with(&with(&flow.question(), 1, tos), 6, 0x40);
                flow.leaves(case, &question);
                let answer = with(&with(&flow.answer(), 1, tos), 6, 0x40);
                flow.arrives(case, &answer);
            }
            // DF clear stays clear. The identification of such a packet is a NAT's to own (RFC 6864).
            let question = with(&flow.question(), 6, 0);
            let seen = case.out(&question);
            assert_eq!(seen.output[seen.link + 6] & 0x40, 0, "{}", seen.title);
        }
    });
}

/// One less at every hop that sends it on, both ways; what ends here is the stack's to answer.
#[test]
fn rfc1812_5_3_1_row_10_5_4_the_time_to_live_counts_down_once() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            for ttl in [2, 3, 64, 128, 255] {
                // `leaves_as` and `arrives_as` expect one less where the hook is the hop.
                flow.leaves(case, &with_ttl(&flow.question(), ttl));
                flow.arrives(case, &with_ttl(&flow.answer(), ttl));
            }
        }
    });
    each(&[Way::Xdp, Way::XdpOneArm, Way::Redirect, Way::RedirectOneArm], |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            for ttl in [0, 1] {
                for (packet, outbound) in [(flow.question(), true), (flow.answer(), false)] {
                    let packet = with_ttl(&packet, ttl);
                    let seen = if outbound { case.out(&packet) } else { case.back(&packet) };
                    if case.way.redirects() && !outbound {
                        // Restored here, and the stack counts it down.
                        continue;
                    }
                    assert_eq!(seen.output, seen.input, "{}: ttl {ttl}", seen.title);
                    assert!(seen.ended() != Outcome::Outbound, "{}: ttl {ttl}", seen.title);
                }
            }
        }
    });
}

/// Headers that are too short, too long, of another version, or whose checksum is wrong: never translated.
#[test]
fn rfc1812_5_2_2_bad_headers_go_nowhere() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            for (packet, outbound) in [(flow.question(), true), (flow.answer(), false)] {
                let total = packet.len() as u16;
                let mut bad = vec![with(&packet, 0, 0x65), with(&packet, 0, 0x44), with(&packet, 0, 0x40)];
                for length in [0u16, 1, 19, total + 1, 0xffff] {
                    let mut packet = packet.clone();
                    packet[2..4].copy_from_slice(&length.to_be_bytes());
                    // A length of 0 is right only for a packet that is still to be cut into segments (BIG TCP), and these are not.
                    bad.push(with_header_checksum(packet));
                }
                // A test run takes no less than a header, and fills what a tunnel delivers up.
                if case.way.ethernet() {
                    bad.extend([20, 24, 27].map(|length| packet[..length].to_vec()));
                }
                for packet in bad {
                    if !case.way.is_xdp() && !outbound {
                        // A bad header from outside is the stack's to drop, which comes next.
                        let seen = case.back(&packet);
                        assert!(seen.ended() != Outcome::Inbound, "{}: {packet:02x?}", seen.title);
                        continue;
                    }
                    let seen = if outbound { case.out(&packet) } else { case.back(&packet) };
                    let gone = [Outcome::Outbound, Outcome::Inbound].contains(&seen.ended());
                    assert!(!gone, "{}: {packet:02x?}", seen.title);
                }
            }
            flow.lives(case);
        }
    });
    // XDP comes before the stack, which verifies the checksum.
    each(XDP, |case| {
        let flow = Flow::open(case, UDP, POD_END, SERVER_END);
        for (mut packet, outbound) in [(flow.question(), true), (flow.answer(), false)] {
            packet[11] ^= 1;
            stopped(case, &packet, outbound);
        }
    });
}

/// On a segment that floods, frames for other hosts arrive too: the fast path opens no flow for them, and keeps none.
#[test]
fn rfc1812_5_2_2_frames_for_others_open_and_keep_nothing() {
    each(&[Way::Xdp, Way::XdpOneArm, Way::Redirect, Way::RedirectOneArm], |case| {
        let inside = case.site().inside.0;
        let (program, xdp) = (case.way.program(Course::Out), case.way.is_xdp());
        let context = |length| if xdp { xdp_context(inside, length) } else { tc_context(inside, inside) };
        let foreign = |case: &mut Case<'_>, packet: &[u8]| {
            let mut frame = case.frame(inside, packet);
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0x77, 0x77]);
            let (returned, output) = case.world.run(program, &frame, &context(frame.len()));
            assert!(output == frame, "{program}: it is left as it was");
            assert!([2, u32::MAX].contains(&returned), "{program} returned {returned}");
        };
        foreign(case, &udp(POD_END, SERVER_END, 64, b"not for this host"));
        assert_eq!(case.entries(), 0, "{:?}", case.way);
        let flow = Flow::open(case, UDP, POD_END, SERVER_END);
        for _ in 0..5 {
            case.wait(60);
            if xdp {
                foreign(case, &flow.question());
            }
        }
        case.wait(10);
        if xdp {
            flow.is_over(case);
        }
    });
}

/// Options that name addresses or cannot be read, in an order of their own, with and without a flow.
#[test]
fn rfc3022_4_6_rfc5508_sec7_3_row_10_5_2_route_options_are_dropped() {
    let options: [&[u8]; 8] = [
        &[131, 7, 4, 8, 0, 77, 1, 0],
        &[137, 7, 4, 8, 0, 77, 1, 0],
        &[7, 7, 4, 0, 0, 0, 0, 0],
        &[68, 8, 5, 0, 0, 0, 0, 0],
        &[1, 1, 1, 1, 1, 131, 3, 4],
        &[148, 4, 0, 0, 131, 3, 4, 0],
        &[148, 1, 0, 0],
        &[131, 200, 4, 0],
    ];
    each(TC, |case| {
        for protocol in PROTOCOLS {
            for options in options {
                case.restart();
                let first = Flow { protocol, pod: POD_END, remote: SERVER_END, public: super::PUBLIC };
                let opening =
                    if protocol == TCP { first.pods_segment(SYN, (1, 0), b"") } else { first.question() };
                dropped(case, &with_options(&opening, options), true);
                let flow = Flow::open(case, protocol, POD_END, SERVER_END);
                dropped(case, &with_options(&flow.question(), options), true);
                dropped(case, &with_options(&flow.answer(), options), false);
                flow.lives(case);
            }
        }
    });
}

/// Harmless options and any length of header: kept byte for byte, and the transport found behind them.
#[test]
fn row_10_5_1_row_10_5_2_harmless_options_are_kept() {
    each(TC, |case| {
        for protocol in PROTOCOLS {
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            for words in 1..=10 {
                let mut options = vec![1; words * 4];
                options[..4].copy_from_slice(&[148, 4, 0, 0]);
                flow.leaves(case, &with_options(&flow.question(), &options));
                flow.arrives(case, &with_options(&flow.answer(), &options));
                *options.last_mut().expect("an option") = 0;
                flow.leaves(case, &with_options(&flow.question(), &options));
            }
            // An experimental one (RFC 4727), and a security option (RFC 1108).
            for options in [[94, 4, 0, 0, 1, 1, 1, 1], [130, 8, 0, 0, 0, 0, 0, 0]] {
                flow.leaves(case, &with_options(&flow.question(), &options));
                flow.arrives(case, &with_options(&flow.answer(), &options));
            }
        }
    });
}

/// Source port 0 is mapped as any other, destination port 0 is dropped.
#[test]
fn row_10_5_3_port_zero() {
    each(EVERY, |case| {
        let flow = Flow::open(case, UDP, (POD, 0), SERVER_END);
        assert!(flow.public.1 >= 1024, "{:?}: {flow:?}", case.way);
        flow.lives(case);
        stopped(case, &udp(POD_END, (SERVER, 0), 64, b"question"), true);
        stopped(case, &udp((SERVER, 0), flow.public, 64, b"answer"), false);
    });
}

/// What pads the frame behind the packet is no part of it, in any direction.
#[test]
fn row_10_5_5_padding_is_not_the_packets() {
    each(EVERY, |case: &mut Case<'_>| {
        for protocol in PROTOCOLS {
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            for padding in [1, 6, 18, 40] {
                let pad = vec![0xaa; padding];
                let packet = flow.question();
                let expected = [&flow.outside(&packet)[..], &pad].concat();
                case.out(&[&packet[..], &pad].concat()).leaves_as(A, &expected);
                let packet = flow.answer();
                let expected = [&flow.inside(&packet)[..], &pad].concat();
                case.back(&[&packet[..], &pad].concat()).arrives_as(A, &expected);
            }
        }
    });
}

/// A TCP segment with a header of any length, and one that says more than there is.
#[test]
fn rfc5382_req2_tcp_options_of_any_length() {
    each(EVERY, |case| {
        let flow = Flow::open(case, TCP, POD_END, SERVER_END);
        for words in 0..=10u8 {
            let segment = flow.pods_segment(16, (101, 501), &vec![1; usize::from(words) * 4]);
            let mut segment = segment;
            segment[32] = (5 + words) << 4;
            flow.leaves(case, &finished(segment.clone()));
            segment[32] = if words == 10 { 0x40 } else { (6 + words) << 4 };
            stopped(case, &finished(segment), true);
        }
        flow.lives(case);
    });
}

/// Queries keep their sequence number, code and data.
#[test]
fn rfc5508_req1_row_10_1_4_only_the_identifier_of_a_query_changes() {
    each(EVERY, |case| {
        let flow = Flow::moved(case, ICMP);
        for sequence in [0u16, 1, 0x1234, 0xffff] {
            for length in [0, 1, 2, 55, 56, 1400] {
                let mut data = vec![0x33; length];
                if let Some(first) = data.first_mut() {
                    *first = sequence as u8;
                }
                let id = |number: u16| {
                    let [a, b] = number.to_be_bytes();
                    let [c, d] = sequence.to_be_bytes();
                    [a, b, c, d]
                };
                flow.leaves(case, &tests::packet::icmp(POD, SERVER, (8, 0), id(flow.pod.1), &data));
                let reply = tests::packet::icmp(SERVER, flow.public.0, (0, 0), id(flow.public.1), &data);
                flow.arrives(case, &reply);
            }
        }
    });
}
