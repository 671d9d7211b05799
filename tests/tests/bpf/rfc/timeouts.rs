//! Idle timers: their least, their defaults, and that they can be set.

use tests::packet::{ICMP, TCP, UDP};
use vpnat_common::layout::vendor::Timeouts;

use super::{ACK, FIN, Flow, ONE_OF_EACH, POD_END, SERVER_END, SYN, policy};
use crate::case::{Case, EVERY, each};

/// How late a flow may end: timers are renewed once in four seconds, and set longer for it.
const LATE: u32 = 10;

/// A flow made by `make` lives `timer` seconds of silence, and not much longer.
fn lasts(case: &mut Case<'_>, timer: u32, make: impl Fn(&mut Case<'_>) -> Flow) {
    for (wait, alive) in [(timer - 1, true), (timer + LATE, false)] {
        case.restart();
        let flow = make(case);
        case.wait(wait);
        if alive { flow.lives(case) } else { flow.is_over(case) }
    }
}

/// One datagram, no answer yet, silence: the first answer after 299 s arrives.
#[test]
fn rfc4787_req5_rfc4787_req5c_row_11_18_udp_lives_for_300_s_unanswered() {
    each(EVERY, |case| {
        for silence in [119, 299] {
            case.restart();
            let flow = Flow::begin(case, UDP, POD_END, SERVER_END);
            case.wait(silence);
            flow.lives(case);
        }
        lasts(case, 300, |case| Flow::begin(case, UDP, POD_END, SERVER_END));
        lasts(case, 300, |case| {
            let flow = Flow::begin(case, UDP, POD_END, SERVER_END);
            flow.lives(case);
            flow
        });
    });
}

/// The port of the destination makes no difference (no shorter timer for well-known ones).
#[test]
fn rfc4787_req5a_well_known_ports_have_no_shorter_timer() {
    each(ONE_OF_EACH, |case| {
        for port in [53, 123, 1000] {
            case.restart();
            let flow = Flow::begin(case, UDP, POD_END, (SERVER_END.0, port));
            case.wait(299);
            flow.lives(case);
        }
    });
}

#[test]
fn rfc5382_req5_established_7440_s() {
    each(EVERY, |case| {
        lasts(case, 7440, |case| Flow::open(case, TCP, POD_END, SERVER_END));
        // From the pod as well.
        case.restart();
        let flow = Flow::open(case, TCP, POD_END, SERVER_END);
        case.wait(7439);
        flow.asks(case);
        case.wait(7439);
        flow.lives(case);
    });
}

/// Half-open, and after both FINs: a last acknowledgement that is sent again finds its way.
#[test]
fn rfc5382_req5_transitory_240_s() {
    each(EVERY, |case| {
        for (wait, alive) in [(239, true), (240 + LATE, false)] {
            case.restart();
            let flow = Flow::begin(case, TCP, POD_END, SERVER_END);
            case.wait(wait);
            let answer = tests::packet::tcp(flow.remote, flow.public, SYN | ACK, (500, 101), b"");
            if alive {
                flow.arrives(case, &answer);
            } else {
                super::dropped(case, &answer, false);
            }
        }
        lasts(case, 240, closed);
    });
}

fn closed(case: &mut Case<'_>) -> Flow {
    let flow = Flow::open(case, TCP, POD_END, SERVER_END);
    flow.client(case, FIN | ACK, (101, 501), b"");
    flow.server(case, FIN | ACK, (501, 102), b"");
    flow
}

#[test]
fn rfc5508_req2_queries_live_for_60_s() {
    each(EVERY, |case| {
        case.restart();
        let flow = Flow::begin(case, ICMP, POD_END, SERVER_END);
        case.wait(59);
        flow.lives(case);
        lasts(case, 60, |case| Flow::begin(case, ICMP, POD_END, SERVER_END));
    });
}

fn other_timers(case: &mut Case<'_>) {
    policy(case, |policy| {
        policy.timeouts = Timeouts {
            udp: 400,
            icmp_query: 90,
            tcp_init: 30,
            tcp_established: 9000,
            tcp_closing: 500,
            tcp_trans: 600,
        };
    });
}

/// Each timer is a setting of its own: half-open 30 s, closing 500 s, and the others.
#[test]
fn rfc4787_req5b_rfc5382_req5a_rfc5508_req2_rfc7857_2_1_every_timer_is_a_setting() {
    each(ONE_OF_EACH, |case| {
        let with = |make: fn(&mut Case<'_>) -> Flow| {
            move |case: &mut Case<'_>| {
                other_timers(case);
                make(case)
            }
        };
        lasts(case, 400, with(|case| Flow::begin(case, UDP, POD_END, SERVER_END)));
        lasts(case, 90, with(|case| Flow::begin(case, ICMP, POD_END, SERVER_END)));
        lasts(case, 30, with(|case| Flow::begin(case, TCP, POD_END, SERVER_END)));
        lasts(case, 9000, with(|case| Flow::open(case, TCP, POD_END, SERVER_END)));
        lasts(case, 500, with(closed));
        lasts(
            case,
            600,
            with(|case| {
                let flow = Flow::open(case, TCP, POD_END, SERVER_END);
                flow.server(case, super::RST, (501, 0), b"");
                flow
            }),
        );
    });
}

/// A mapping that is there already takes a changed timer when it is next renewed.
#[test]
fn rfc4787_req5b_a_living_mapping_takes_a_changed_timer() {
    each(EVERY, |case| {
        let flow = Flow::begin(case, UDP, POD_END, SERVER_END);
        policy(case, |policy| policy.timeouts.udp = 130);
        case.wait(200);
        flow.lives(case);
        flow.asks(case);
        case.wait(129);
        flow.lives(case);
        case.wait(1 + LATE);
        flow.is_over(case);
    });
}

/// Timers are the vendor's: another vendor's flows keep theirs.
#[test]
fn rfc5382_req5a_timers_are_per_vendor() {
    use crate::model;
    use crate::plan::{B, EGRESS_B, SERVER_B};
    use tests::packet::udp;
    each(ONE_OF_EACH, |case| {
        policy(case, |policy| policy.timeouts.udp = 120);
        let flow = Flow::begin(case, UDP, POD_END, SERVER_END);
        let question = udp(POD_END, (SERVER_B, 443), 64, b"question");
        case.out(&question).leaves_as(B, &model::source(&question, (EGRESS_B, 40000)));
        case.wait(130);
        flow.is_over(case);
        case.wait(160);
        let answer = udp((SERVER_B, 443), (EGRESS_B, 40000), 64, b"answer");
        case.back(&answer).arrives_as(B, &model::destination(&answer, POD_END));
    });
}
