//! The life of a TCP connection: RFC 7857 section 2, edge by edge.

use tests::packet::{TCP, tcp};
use vpnat_common::layout::flow::Phase;
use vpnat_common::layout::outcome::Outcome;

use crate::case::{Case, EVERY, Line, each};
use crate::model;
use crate::plan::{A, EGRESS_A, End, POD, SERVER};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

const POD_END: End = (POD, 40000);
const SERVER_END: End = (SERVER, 443);
const PUBLIC: End = (EGRESS_A, 40000);

/// Who sends a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Pod,
    Server,
}
use Side::{Pod, Server};

/// Sends a segment with a sequence and an acknowledgement number, which must go through, and checks the phase
/// that both halves are in afterwards.
fn segment(case: &mut Case<'_>, side: Side, flags: u8, numbers: (u32, u32), phase: Phase) {
    match side {
        Pod => {
            let packet = tcp(POD_END, SERVER_END, flags, numbers, b"");
            case.out(&packet).leaves_as(A, &model::source(&packet, PUBLIC));
        }
        Server => {
            let packet = tcp(SERVER_END, PUBLIC, flags, numbers, b"");
            case.back(&packet).arrives_as(A, &model::destination(&packet, POD_END));
        }
    }
    let line = Line { protocol: TCP, pod: POD_END, remote: SERVER_END, public: PUBLIC };
    assert_eq!(case.pair(&line)[0].phase, phase, "{:?}: after {side:?} sent {flags:#04x}", case.way);
}

/// The pod's numbers start with 100, the server's with 500.
fn handshake(case: &mut Case<'_>) {
    segment(case, Pod, SYN, (100, 0), Phase::TcpInit);
    segment(case, Server, SYN | ACK, (500, 101), Phase::TcpInit);
    segment(case, Pod, ACK, (101, 501), Phase::TcpEstablished);
}

type Edge = (Side, u8, (u32, u32), Phase);

/// After a handshake, in order.
fn after_handshake(edges: &[Edge]) {
    each(EVERY, |case| {
        handshake(case);
        for (side, flags, numbers, phase) in edges {
            segment(case, *side, *flags, *numbers, *phase);
        }
        assert_eq!(case.entries(), 2);
    });
}

#[test]
fn the_client_closes_first() {
    after_handshake(&[
        (Pod, FIN | ACK, (101, 501), Phase::TcpClientFin),
        (Server, ACK, (501, 102), Phase::TcpClientFin),
        (Server, FIN | ACK, (501, 102), Phase::TcpBothFin),
        (Pod, ACK, (102, 502), Phase::TcpBothFin),
        (Server, FIN | ACK, (501, 102), Phase::TcpBothFin),
    ]);
}

#[test]
fn the_server_closes_first() {
    after_handshake(&[
        (Server, FIN | ACK, (501, 101), Phase::TcpServerFin),
        (Pod, ACK, (101, 502), Phase::TcpServerFin),
        (Pod, FIN | ACK, (101, 502), Phase::TcpBothFin),
    ]);
}

#[test]
fn both_close_at_once() {
    after_handshake(&[
        (Pod, FIN | ACK, (101, 501), Phase::TcpClientFin),
        (Server, FIN | ACK, (501, 101), Phase::TcpBothFin),
    ]);
}

/// 7857 section 2.2: a reset is no end yet; anything else that follows brings the connection back.
#[test]
fn a_reset_in_window_and_life_after_it() {
    for side in [Pod, Server] {
        let reset = if side == Pod { (101, 0) } else { (501, 0) };
        after_handshake(&[
            (side, RST, reset, Phase::TcpTrans),
            (side, RST, reset, Phase::TcpTrans),
            (Server, ACK, (501, 101), Phase::TcpEstablished),
            (Pod, RST | ACK, (101, 501), Phase::TcpTrans),
            (Pod, ACK, (101, 501), Phase::TcpEstablished),
        ]);
    }
}

/// 5382 section 9: what its receiver would not believe is forwarded and changes nothing.
#[test]
fn segments_out_of_window_change_nothing() {
    after_handshake(&[
        (Server, RST, (501 - 1, 0), Phase::TcpEstablished),
        (Server, RST, (501 + 70000, 0), Phase::TcpEstablished),
        (Pod, RST, (101 + 70000, 0), Phase::TcpEstablished),
        (Server, FIN | ACK, (501 + 70000, 101), Phase::TcpEstablished),
        (Pod, FIN | ACK, (101 + 70000, 501), Phase::TcpEstablished),
        (Pod, SYN, (9999, 0), Phase::TcpEstablished),
        (Server, ACK, (501, 101), Phase::TcpEstablished),
        (Server, SYN | ACK, (500, 101), Phase::TcpEstablished),
    ]);
}

/// A reset before the handshake is complete ends nothing: the SYN may be answered yet.
#[test]
fn a_reset_in_the_handshake_changes_nothing() {
    each(EVERY, |case| {
        segment(case, Pod, SYN, (100, 0), Phase::TcpInit);
        segment(case, Server, RST | ACK, (0, 101), Phase::TcpInit);
        segment(case, Pod, SYN, (100, 0), Phase::TcpInit);
        segment(case, Server, SYN | ACK, (500, 101), Phase::TcpInit);
        segment(case, Pod, ACK, (101, 501), Phase::TcpEstablished);
    });
}

/// 5382-REQ-2a: the server's bare SYN belongs to the session that the pod's SYN has opened.
#[test]
fn simultaneous_open() {
    each(EVERY, |case| {
        segment(case, Pod, SYN, (100, 0), Phase::TcpInit);
        segment(case, Server, SYN, (500, 0), Phase::TcpInit);
        segment(case, Pod, SYN | ACK, (100, 501), Phase::TcpEstablished);
        segment(case, Server, SYN | ACK, (500, 101), Phase::TcpEstablished);
        segment(case, Server, ACK, (501, 101), Phase::TcpEstablished);
    });
}

/// 5382-REQ-2: the same ports again, after a close and after a reset; with timers and tracking of their own.
#[test]
fn a_syn_reopens_a_closed_connection() {
    each(EVERY, |case| {
        for end in [Phase::TcpBothFin, Phase::TcpTrans] {
            case.restart();
            handshake(case);
            if end == Phase::TcpTrans {
                segment(case, Server, RST, (501, 0), end);
            } else {
                segment(case, Pod, FIN | ACK, (101, 501), Phase::TcpClientFin);
                segment(case, Server, FIN | ACK, (501, 102), end);
            }
            case.wait(200);
            segment(case, Pod, SYN, (70000, 0), Phase::TcpInit);
            segment(case, Server, SYN | ACK, (90000, 70001), Phase::TcpInit);
            segment(case, Pod, ACK, (70001, 90001), Phase::TcpEstablished);
            case.wait(7000);
            segment(case, Server, ACK, (90001, 70001), Phase::TcpEstablished);
            segment(case, Server, FIN | ACK, (90001, 70001), Phase::TcpServerFin);
        }
    });
}

/// A FIN at the end of a retransmission that begins before what was acknowledged is a FIN all the same.
#[test]
fn a_fin_behind_repeated_data_counts() {
    each(EVERY, |case| {
        handshake(case);
        let data = tcp(POD_END, SERVER_END, ACK, (101, 501), &[0x61; 100]);
        case.out(&data).leaves_as(A, &model::source(&data, PUBLIC));
        segment(case, Server, ACK, (501, 201), Phase::TcpEstablished);
        let again = tcp(POD_END, SERVER_END, FIN | ACK, (101, 501), &[0x61; 150]);
        case.out(&again).leaves_as(A, &model::source(&again, PUBLIC));
        segment(case, Server, ACK, (501, 252), Phase::TcpClientFin);
    });
}

/// Without a SYN there is no connection, and nothing tells where the segment belongs.
#[test]
fn a_segment_without_connection_does_not_leave() {
    each(EVERY, |case| {
        for flags in [ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, 0, SYN | FIN, SYN | RST] {
            let packet = tcp(POD_END, SERVER_END, flags, (101, 501), b"");
            case.out(&packet).ends_as(A, Outcome::NoConnection);
            let packet = tcp(SERVER_END, PUBLIC, flags, (501, 101), b"");
            case.back(&packet).ends_as(A, Outcome::Unsolicited);
        }
        assert_eq!(case.entries(), 0);
    });
}

/// With the vendor's setting, a connection that has outlived its state is picked up in the middle.
#[test]
fn a_connection_is_picked_up_if_the_vendor_says_so() {
    each(EVERY, |case| {
        case.change_policy(A, |policy| policy.flags |= vpnat_common::layout::vendor::flag::TCP_PICK_UP);
        segment(case, Pod, ACK, (101, 501), Phase::TcpInit);
        segment(case, Server, ACK, (501, 101), Phase::TcpEstablished);
        let stray = tcp((POD, 40001), SERVER_END, RST, (101, 0), b"");
        case.out(&stray).ends_as(A, Outcome::NoConnection);
    });
}

/// RFC 4459 section 3.2, in both directions, wherever the option stands; segments that offer no more stay.
#[test]
fn a_syn_offers_no_more_than_the_way_takes() {
    let with_options = |packet: &[u8], options: &[u8]| {
        let mut packet = [packet, options].concat();
        let total = packet.len() as u16;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[32] = 0x50 + ((options.len() / 4) as u8) * 16;
        model::finished(packet)
    };
    let lists: [(&[u8], &[u8]); 5] = [
        (&[2, 4, 0x23, 0x00], &[2, 4, 0x05, 0x14]),
        (&[1, 2, 4, 0x23, 0x00, 1, 1, 0], &[1, 2, 4, 0x05, 0x14, 1, 1, 0]),
        (&[3, 3, 7, 2, 4, 0xff, 0xff, 0], &[3, 3, 7, 2, 4, 0x05, 0x14, 0]),
        (&[2, 4, 0x05, 0x00, 4, 2, 1, 1], &[2, 4, 0x05, 0x00, 4, 2, 1, 1]),
        (&[4, 2, 3, 3, 7, 1, 1, 0], &[4, 2, 3, 3, 7, 1, 1, 0]),
    ];
    each(EVERY, |case| {
        for (offered, lowered) in lists {
            case.restart();
            case.change_policy(A, |policy| policy.mss = 1300);
            let syn = tcp(POD_END, SERVER_END, SYN, (100, 0), b"");
            let expected = model::source(&with_options(&syn, lowered), PUBLIC);
            case.out(&with_options(&syn, offered)).leaves_as(A, &expected);
            let answer = tcp(SERVER_END, PUBLIC, SYN | ACK, (500, 101), b"");
            let expected = model::destination(&with_options(&answer, lowered), POD_END);
            case.back(&with_options(&answer, offered)).arrives_as(A, &expected);
        }
    });
}
