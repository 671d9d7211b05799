//! Legal TCP conversations that a NAT must not disturb (RFC 5382 REQ-2).

use tests::packet::TCP;

use super::{ACK, FIN, Flow, POD_END, RST, SERVER_END, SYN};
use crate::case::{Case, EVERY, each};

fn opened(case: &mut Case<'_>) -> Flow {
    case.restart();
    Flow::open(case, TCP, POD_END, SERVER_END)
}

/// The pod has closed its side; the server goes on for hours, with pauses of an hour and of nearly the timer.
#[test]
fn rfc5382_req2_row_11_13_half_closed_for_hours() {
    each(EVERY, |case| {
        for pod_closes in [true, false] {
            let flow = opened(case);
            if pod_closes {
                flow.client(case, FIN | ACK, (101, 501), b"");
                flow.server(case, ACK, (501, 102), b"");
            } else {
                flow.server(case, FIN | ACK, (501, 101), b"");
                flow.client(case, ACK, (101, 502), b"");
            }
            let mut sequence = 0;
            for pause in [1, 3600, 3600, 7439] {
                case.wait(pause);
                if pod_closes {
                    flow.server(case, ACK, (501 + sequence, 102), &[7; 1000]);
                    flow.client(case, ACK, (102, 1501 + sequence), b"");
                } else {
                    flow.client(case, ACK, (101 + sequence, 502), &[7; 1000]);
                    flow.server(case, ACK, (502, 1101 + sequence), b"");
                }
                sequence += 1000;
            }
            // And the other side closes at last.
            if pod_closes {
                flow.server(case, FIN | ACK, (501 + sequence, 102), b"");
                flow.client(case, ACK, (102, 502 + sequence), b"");
            } else {
                flow.client(case, FIN | ACK, (101 + sequence, 502), b"");
                flow.server(case, ACK, (502, 102 + sequence), b"");
            }
        }
    });
}

/// Both FINs at once, and each with data in it, sent again until acknowledged.
#[test]
fn rfc5382_req2_both_fins_with_data() {
    each(EVERY, |case| {
        let flow = opened(case);
        for _ in 0..3 {
            flow.client(case, FIN | ACK, (101, 501), b"last words");
            flow.server(case, FIN | ACK, (501, 101), b"famous");
            case.wait(60);
        }
        flow.client(case, ACK, (112, 508), b"");
        flow.server(case, ACK, (508, 112), b"");
    });
}

/// A SYN again and again, an answer again and again, and the last acknowledgement lost.
#[test]
fn rfc5382_req2_handshakes_with_losses() {
    each(EVERY, |case| {
        let flow = Flow::begin(case, TCP, POD_END, SERVER_END);
        for pause in [1, 2, 4, 8, 16, 32, 64] {
            case.wait(pause);
            flow.client(case, SYN, (100, 0), b"");
        }
        for pause in [1, 2, 4] {
            flow.server(case, SYN | ACK, (500, 101), b"");
            case.wait(pause);
        }
        flow.client(case, ACK, (101, 501), b"data with the acknowledgement");
        flow.server(case, SYN | ACK, (500, 101), b"");
        flow.client(case, ACK, (130, 501), b"");
        case.wait(7439);
        flow.lives(case);
    });
}

/// Data in a SYN (RFC 9293 section 3.4, TCP Fast Open) and in its answer.
#[test]
fn rfc5382_req2_data_in_the_handshake() {
    each(EVERY, |case| {
        let flow = Flow { protocol: TCP, pod: POD_END, remote: SERVER_END, public: super::PUBLIC };
        flow.client(case, SYN, (100, 0), b"early data");
        flow.server(case, SYN | ACK, (500, 111), b"early answer");
        flow.client(case, ACK, (111, 513), b"");
        case.wait(7439);
        flow.lives(case);
    });
}

/// A window of zero, probes into it for an hour (RFC 9293 section 3.8.6.1), and its opening.
#[test]
fn rfc5382_req2_a_window_of_zero() {
    let window = |packet: &[u8], size: u16| {
        let mut packet = packet.to_vec();
        packet[34..36].copy_from_slice(&size.to_be_bytes());
        crate::model::finished(packet)
    };
    each(EVERY, |case| {
        let flow = opened(case);
        let closed = window(&flow.pods_segment(ACK, (101, 501), b""), 0);
        flow.leaves(case, &closed);
        for _ in 0..60 {
            case.wait(60);
            flow.server(case, ACK, (501, 101), b"?");
            flow.leaves(case, &closed);
        }
        flow.client(case, ACK, (101, 501), b"");
        flow.server(case, ACK, (501, 101), &[7; 1000]);
        // Into a window of zero only the exact sequence number is a reset (RFC 5961 section 3.2).
        flow.leaves(case, &window(&flow.pods_segment(ACK, (101, 1501), b""), 0));
        flow.server(case, RST, (1502, 0), b"");
        case.wait(1000);
        flow.lives(case);
    });
}

/// The bare SYN of a server that opens at the same time belongs to the session that the pod's SYN has opened.
#[test]
fn rfc5382_req2a_row_11_5_simultaneous_open() {
    each(EVERY, |case| {
        let flow = Flow::begin(case, TCP, POD_END, SERVER_END);
        flow.server(case, SYN, (500, 0), b"");
        flow.client(case, SYN | ACK, (100, 501), b"");
        flow.server(case, SYN | ACK, (500, 101), b"");
        flow.client(case, ACK, (101, 501), b"data");
        flow.server(case, ACK, (501, 105), b"data");
        case.wait(7439);
        flow.lives(case);
    });
}

/// The same tuple again: after a close, after a reset, and on a connection that is half closed or thought open.
#[test]
fn rfc5382_req2_row_11_19_a_new_syn_on_an_old_tuple() {
    each(EVERY, |case| {
        for end in 0..5 {
            let flow = opened(case);
            match end {
                0 => {
                    flow.client(case, FIN | ACK, (101, 501), b"");
                    flow.server(case, FIN | ACK, (501, 102), b"");
                    flow.client(case, ACK, (102, 502), b"");
                }
                1 => flow.server(case, RST, (501, 0), b""),
                2 => flow.client(case, FIN | ACK, (101, 501), b""),
                3 => flow.server(case, FIN | ACK, (501, 101), b""),
                _ => {}
            }
            case.wait(200);
            flow.client(case, SYN, (70_000, 0), b"");
            flow.server(case, SYN | ACK, (90_000, 70_001), b"");
            flow.client(case, ACK, (70_001, 90_001), b"");
            // However the old one stood, the new one is open.
            case.wait(7000);
            flow.server(case, ACK, (90_001, 70_001), b"data");
            case.wait(7000);
            flow.client(case, ACK, (70_001, 90_005), b"data");
        }
    });
}

/// A reset goes through in every state, from both sides.
#[test]
fn rfc7857_2_2_a_reset_is_forwarded_in_every_state() {
    each(EVERY, |case| {
        for outbound in [true, false] {
            for state in 0..6 {
                case.restart();
                let flow = Flow::begin(case, TCP, POD_END, SERVER_END);
                if state > 0 {
                    flow.server(case, SYN | ACK, (500, 101), b"");
                }
                if state > 1 {
                    flow.client(case, ACK, (101, 501), b"");
                }
                if matches!(state, 3 | 5) {
                    flow.client(case, FIN | ACK, (101, 501), b"");
                }
                if matches!(state, 4 | 5) {
                    flow.server(case, FIN | ACK, (501, 101), b"");
                }
                for _ in 0..2 {
                    if outbound {
                        flow.client(case, RST | ACK, (102, 502), b"");
                    } else {
                        flow.server(case, RST | ACK, (502, 102), b"");
                    }
                }
            }
        }
    });
}

/// Data ten seconds after a reset, from either side: it passes, and the connection is established again.
#[test]
fn rfc7857_2_2_life_after_a_reset() {
    each(EVERY, |case| {
        for (reset_by_pod, life_from_pod) in [(true, true), (true, false), (false, true), (false, false)] {
            let flow = opened(case);
            if reset_by_pod {
                flow.client(case, RST, (101, 0), b"");
            } else {
                flow.server(case, RST, (501, 0), b"");
            }
            case.wait(10);
            if life_from_pod {
                flow.asks(case)
            } else {
                flow.lives(case)
            }
            case.wait(7439);
            flow.lives(case);
        }
    });
}

/// The answer to a SYN in an established connection is a challenge ACK, which must pass (RFC 5961 section 4).
#[test]
fn rfc5382_sec9_row_11_22_challenge_acks_pass() {
    each(EVERY, |case| {
        let flow = opened(case);
        flow.client(case, SYN, (9000, 0), b"");
        flow.server(case, ACK, (501, 101), b"");
        flow.server(case, SYN, (9000, 0), b"");
        flow.client(case, ACK, (101, 501), b"");
        flow.client(case, RST, (101, 0), b"");
        flow.server(case, ACK, (501, 101), b"");
        case.wait(7439);
        flow.lives(case);
    });
}
