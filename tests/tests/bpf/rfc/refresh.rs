//! What keeps a mapping, and what must not.

use tests::packet::{ICMP, TCP, UDP, tcp, udp};

use super::{ACK, Flow, ONE_OF_EACH_TC, POD_END, PROTOCOLS, RST, SERVER_END, SYN, dropped};
use crate::case::{EVERY, each};
use crate::plan::{ELSEWHERE, INSIDE_ROUTER, POD, SERVER, SERVER_2};

/// The timer of a flow that nothing renews, in seconds, and a bit more than half of it.
fn timer(protocol: u8) -> (u32, u32) {
    match protocol {
        TCP => (7440, 4000),
        UDP => (300, 160),
        _ => (60, 35),
    }
}

#[test]
fn rfc4787_req6_outbound_packets_refresh() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            case.restart();
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            // Every 0.8 of the timer, for four times the timer.
            for _ in 0..5 {
                case.wait(timer(protocol).0 * 4 / 5);
                flow.asks(case);
            }
            case.wait(timer(protocol).0 - 1);
            flow.lives(case);
        }
    });
}

/// Inbound packets keep TCP, whose peers vouch for them, and neither UDP nor queries.
#[test]
fn rfc4787_req6a_row_11_24_inbound_packets_refresh_tcp_only() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            case.restart();
            let (timer, half) = timer(protocol);
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            case.wait(half);
            flow.lives(case);
            case.wait(timer - half + 10);
            if protocol == TCP { flow.lives(case) } else { flow.is_over(case) }
        }
    });
}

/// What is dropped refreshes nothing: floods from others to the mapped port.
#[test]
fn rfc7857_7_row_11_24_dropped_packets_do_not_refresh() {
    each(EVERY, |case| {
        for protocol in PROTOCOLS {
            case.restart();
            let (timer, half) = timer(protocol);
            let flow = Flow::open(case, protocol, POD_END, SERVER_END);
            for wait in [half, timer - half - 1] {
                case.wait(wait);
                for from in [(SERVER_2, 443), (SERVER_2, 53)] {
                    let intruder = match protocol {
                        TCP => tcp(from, flow.public, ACK, (501, 101), b"intruder"),
                        UDP => udp(from, flow.public, 64, b"intruder"),
                        _ => super::echo_reply(from.0, flow.public),
                    };
                    dropped(case, &intruder, false);
                }
            }
            case.wait(11);
            flow.is_over(case);
        }
    });
}

/// What has nothing to do with the flow at hand does not keep it: the same pod, another port.
#[test]
fn rfc4787_req6_another_flow_of_the_pod_keeps_only_itself() {
    each(EVERY, |case| {
        let flow = Flow::open(case, UDP, POD_END, SERVER_END);
        case.wait(200);
        let other = Flow::open(case, UDP, (POD, 40001), SERVER_END);
        case.wait(110);
        flow.is_over(case);
        other.lives(case);
    });
}

/// The vendor sends every half timer and the pod, or a router beside it, refuses each time: the mapping ends in
/// its time. TCP's is kept by the vendor's segments, so there it is the errors alone.
#[test]
fn rfc7857_7_1_rfc5508_req6_rfc4787_req12_errors_do_not_refresh() {
    each(ONE_OF_EACH_TC, |case| {
        for protocol in PROTOCOLS {
            for from in [POD, INSIDE_ROUTER] {
                case.restart();
                let (timer, half) = timer(protocol);
                let flow = Flow::open(case, protocol, POD_END, SERVER_END);
                for wait in [half, timer - half - 1] {
                    case.wait(wait);
                    let packet = flow.answer();
                    if protocol != TCP {
                        flow.arrives(case, &packet);
                    }
                    let [sent, seen] = flow.refusal_of(&packet, from, ((3, 3), [0; 4]), 576);
                    case.out(&sent).leaves_as(crate::plan::A, &seen);
                }
                case.wait(11);
                flow.is_over(case);
            }
        }
    });
}

/// Errors from outside, from the vendor and from routers on the way: neither refreshed nor ended by them.
#[test]
fn rfc5508_req6_rfc4787_req12_rfc5382_req10_errors_from_outside_change_no_timer() {
    each(ONE_OF_EACH_TC, |case| {
        for protocol in PROTOCOLS {
            for from in [SERVER, ELSEWHERE] {
                for (last, alive) in [(false, true), (true, false)] {
                    case.restart();
                    let (timer, half) = timer(protocol);
                    let flow = Flow::open(case, protocol, POD_END, SERVER_END);
                    for wait in [half, timer - half - 1] {
                        case.wait(wait);
                        let packet = flow.question();
                        for kind in [(3, 1), (3, 3), (11, 0)] {
                            let [sent, seen] = flow.error_about(&packet, from, (kind, [0; 4]), 28);
                            case.back(&sent).arrives_as(crate::plan::A, &seen);
                        }
                    }
                    if last {
                        case.wait(11);
                    }
                    if alive { flow.lives(case) } else { flow.is_over(case) }
                }
            }
        }
    });
}

/// Resets refresh nothing, from whichever side and believed or not.
#[test]
fn rfc7857_7_1_resets_do_not_refresh() {
    each(EVERY, |case| {
        // Half-open: the server refuses, or the pod's stack answers a late SYN-ACK with a reset.
        for outbound in [false, true] {
            case.restart();
            let flow = Flow::begin(case, TCP, POD_END, SERVER_END);
            case.wait(200);
            if outbound {
                flow.client(case, RST, (101, 0), b"");
            } else {
                flow.server(case, RST | ACK, (0, 101), b"");
            }
            case.wait(50);
            super::dropped(case, &tcp(flow.remote, flow.public, SYN | ACK, (500, 101), b""), false);
        }
        // Established: out of window, so that nothing but the refresh could keep the flow.
        for outbound in [false, true] {
            case.restart();
            let flow = Flow::open(case, TCP, POD_END, SERVER_END);
            case.wait(7000);
            if outbound {
                flow.client(case, RST, (101 + 200_000, 0), b"");
            } else {
                flow.server(case, RST, (501 + 200_000, 0), b"");
            }
            case.wait(450);
            flow.is_over(case);
        }
    });
}

/// A packet that opens nothing keeps nothing.
#[test]
fn rfc7857_7_queries_of_a_vendor_open_nothing() {
    each(EVERY, |case| {
        let flow = Flow::open(case, ICMP, POD_END, SERVER_END);
        case.wait(59);
        dropped(case, &tests::packet::echo_request(SERVER, flow.public.0, flow.public.1, 1), false);
        case.wait(11);
        flow.is_over(case);
    });
}
