//! Idle timers, with the clock moved and not waited for.

use tests::packet::{ICMP, UDP, echo_request, icmp, tcp, udp};
use vpnat_common::addr::Port;
use vpnat_common::layout::outcome::Outcome;

use crate::case::{Case, EVERY, Line, each};
use crate::model;
use crate::plan::{A, EGRESS_A, End, POD, POD_2, SERVER};

const POD_END: End = (POD, 40000);
const SERVER_END: End = (SERVER, 443);
const PUBLIC: End = (EGRESS_A, 40000);

fn out(case: &mut Case<'_>, packet: &[u8]) {
    case.out(packet).leaves_as(A, &model::source(packet, PUBLIC));
}

fn back(case: &mut Case<'_>, packet: &[u8]) {
    case.back(packet).arrives_as(A, &model::destination(packet, POD_END));
}

/// A flow's first packets, the answer that shows whether it still lives, and its timer.
#[test]
fn a_flow_lives_as_long_as_its_timer_and_no_longer() {
    let pod = |flags, numbers| tcp(POD_END, SERVER_END, flags, numbers, b"");
    let server = |flags, numbers| tcp(SERVER_END, PUBLIC, flags, numbers, b"");
    let echo = icmp(SERVER, EGRESS_A, (0, 0), [0x9c, 0x40, 0, 1], b"");
    let lives = [
        (300, vec![udp(POD_END, SERVER_END, 64, b"question")], udp(SERVER_END, PUBLIC, 64, b"answer")),
        (60, vec![echo_request(POD, SERVER, 40000, 1)], echo),
        (240, vec![pod(2, (100, 0))], server(18, (500, 101))),
        (7440, vec![pod(2, (100, 0)), server(18, (500, 101)), pod(16, (101, 501))], server(16, (501, 101))),
        // Half-closed is open.
        (
            7440,
            vec![pod(2, (100, 0)), server(18, (500, 101)), pod(16, (101, 501)), pod(17, (101, 501))],
            server(16, (501, 102)),
        ),
        // Both FINs; the last acknowledgement comes late.
        (
            240,
            vec![
                pod(2, (100, 0)),
                server(18, (500, 101)),
                pod(16, (101, 501)),
                pod(17, (101, 501)),
                server(17, (501, 102)),
            ],
            server(16, (502, 102)),
        ),
        // A reset that belongs to the connection.
        (
            240,
            vec![pod(2, (100, 0)), server(18, (500, 101)), pod(16, (101, 501)), pod(4, (101, 0))],
            server(16, (501, 101)),
        ),
    ];
    each(EVERY, |case| {
        for (timer, packets, answer) in &lives {
            for (wait, alive) in [(timer - 1, true), (timer + 10, false)] {
                let way = case.way;
                case.restart();
                for packet in packets {
                    if packet[12..16] == POD.octets() { out(case, packet) } else { back(case, packet) }
                }
                case.wait(wait);
                println!("{way:?}: {wait} of {timer} s");
                if alive {
                    back(case, answer);
                } else {
                    case.back(answer).ends_as(A, Outcome::Unsolicited);
                    assert_eq!(case.entries(), 2, "the port rests, and is the pod's until then");
                }
            }
        }
    });
}

/// RFC 4787 REQ-6: what the pod sends renews; what comes in does not.
#[test]
fn only_outbound_packets_renew_a_udp_mapping() {
    each(EVERY, |case| {
        let (question, answer) =
            (udp(POD_END, SERVER_END, 64, b"question"), udp(SERVER_END, PUBLIC, 64, b"answer"));
        for _ in 0..4 {
            out(case, &question);
            case.wait(240);
        }
        back(case, &answer);
        case.wait(50);
        back(case, &answer);
        case.wait(30);
        case.back(&answer).ends_as(A, Outcome::Unsolicited);
    });
}

/// Downloads over hours: the pod may say nothing but acknowledgements that are lost.
#[test]
fn either_side_renews_a_tcp_connection() {
    each(EVERY, |case| {
        out(case, &tcp(POD_END, SERVER_END, 2, (100, 0), b""));
        back(case, &tcp(SERVER_END, PUBLIC, 18, (500, 101), b""));
        out(case, &tcp(POD_END, SERVER_END, 16, (101, 501), b""));
        for round in 0..4 {
            case.wait(7000);
            back(case, &tcp(SERVER_END, PUBLIC, 16, (501 + round, 101), b"d"));
        }
        for _ in 0..4 {
            case.wait(7000);
            out(case, &tcp(POD_END, SERVER_END, 16, (101, 505), b""));
        }
        back(case, &tcp(SERVER_END, PUBLIC, 16, (505, 101), b""));
    });
}

/// An ended flow's own pod comes back and is seen as before; its answers too.
#[test]
fn an_ended_flow_comes_back_with_its_port() {
    each(EVERY, |case| {
        // Not the pod's own port, so that keeping it is no accident.
        let rival = udp((POD_2, 40000), SERVER_END, 64, b"question");
        case.out(&rival).leaves_as(A, &model::source(&rival, PUBLIC));
        let question = udp(POD_END, SERVER_END, 64, b"question");
        let port = case.out(&question).port();
        case.wait(400);
        case.out(&question).leaves_as(A, &model::source(&question, (EGRESS_A, port)));
        let answer = udp(SERVER_END, (EGRESS_A, port), 64, b"answer");
        back(case, &answer);
        case.pair(&Line { protocol: UDP, pod: POD_END, remote: SERVER_END, public: (EGRESS_A, port) });
    });
}

/// What has ended may be taken over in place: one port, two pods, one after the other.
#[test]
fn an_ended_flows_port_is_taken_over() {
    each(EVERY, |case| {
        case.change_policy(A, |policy| {
            (policy.port_min, policy.port_max) = (Port::new(40000), Port::new(40000));
        });
        let rival = (POD_2, 41000);
        for (protocol, timer, question, late) in [
            (UDP, 300, udp(POD_END, SERVER_END, 64, b"question"), udp(rival, SERVER_END, 64, b"question")),
            (ICMP, 60, echo_request(POD, SERVER, 40000, 1), echo_request(POD_2, SERVER, 41000, 1)),
        ] {
            out(case, &question);
            case.out(&late).ends_as(A, Outcome::PortsExhausted);
            case.wait(timer + 20);
            case.out(&late).ends_as(A, Outcome::PortsExhausted);
            case.wait(120);
            case.out(&late).leaves_as(A, &model::source(&late, PUBLIC));
            let remote = if protocol == ICMP { (SERVER, 0) } else { SERVER_END };
            case.pair(&Line { protocol, pod: rival, remote, public: PUBLIC });
            case.out(&question).ends_as(A, Outcome::PortsExhausted);
        }
        assert_eq!(case.entries(), 4, "both halves of the ended flows are gone");
    });
}
