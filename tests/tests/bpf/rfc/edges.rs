//! TCP's states, edge by edge (RFC 7857 section 2 after RFC 6146 section 3.5.2), seen from outside only.
//!
//! Each phase has a timer of its own here, so that silence tells the phase: the flow answers one second before
//! its end, and not ten after it. What the three open phases share is told apart by one more FIN of each side.

use tests::packet::{TCP, tcp};
use vpnat_common::layout::vendor::Timeouts;

use super::{ACK, FIN, Flow, POD_END, RST, SERVER_END, SYN, dropped, policy};
use crate::case::{Case, EVERY, Way, each};

use Side::{Client, Server};
use State::{BothFin, ClientFin, Established, Init, ServerFin, Trans};

const TIMERS: Timeouts = Timeouts {
    udp: 300,
    icmp_query: 60,
    tcp_init: 300,
    tcp_established: 8000,
    tcp_closing: 400,
    tcp_trans: 500,
};

/// Idle time between two packets: longer than a stamp, so that every packet may renew.
const PAUSE: u32 = 50;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Client,
    Server,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Init,
    Established,
    ClientFin,
    ServerFin,
    BothFin,
    Trans,
}

/// Who sends which flags, with which numbers.
type Event = (Side, u8, (u32, u32));

const CLIENT_FIN: Event = (Client, FIN | ACK, (101, 501));
const SERVER_FIN: Event = (Server, FIN | ACK, (501, 101));

impl State {
    /// A way there, from nothing. Numbers start with 100 and 500.
    fn way(self) -> Vec<Event> {
        let mut way = vec![(Client, SYN, (100, 0))];
        if self != Init {
            way.extend([(Server, SYN | ACK, (500, 101)), (Client, ACK, (101, 501))]);
        }
        match self {
            Init | Established => {}
            ClientFin => way.push(CLIENT_FIN),
            ServerFin => way.push(SERVER_FIN),
            BothFin => way.extend([CLIENT_FIN, SERVER_FIN]),
            Trans => way.push((Server, RST, (501, 0))),
        }
        way
    }

    fn timer(self) -> u32 {
        match self {
            Init => TIMERS.tcp_init,
            Established | ClientFin | ServerFin => TIMERS.tcp_established,
            BothFin => TIMERS.tcp_closing,
            Trans => TIMERS.tcp_trans,
        }
    }

    /// The state after one more FIN from `side`.
    fn after_fin(self, side: Side) -> Option<Self> {
        match (self, side) {
            (Established, Client) | (ClientFin, Client) => Some(ClientFin),
            (Established, Server) | (ServerFin, Server) => Some(ServerFin),
            (ClientFin, Server) | (ServerFin, Client) => Some(BothFin),
            _ => None,
        }
    }
}

/// Whether the event starts the timer anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timer {
    Anew,
    Kept,
}
use Timer::{Anew, Kept};

/// From, what happens, to, what the timer does.
const TABLE: &[(State, Event, State, Timer)] = &[
    (Init, (Server, SYN, (500, 0)), Init, Anew),
    (Init, (Server, SYN | ACK, (500, 101)), Init, Anew),
    (Init, (Client, SYN, (100, 0)), Init, Anew),
    (Init, (Server, RST | ACK, (0, 101)), Init, Kept),
    (Init, (Client, RST, (101, 0)), Init, Kept),
    (Init, (Client, ACK, (101, 501)), Init, Kept),
    (Init, (Server, ACK, (501, 101)), Init, Kept),
    (Established, (Client, ACK, (101, 501)), Established, Anew),
    (Established, (Server, ACK, (501, 101)), Established, Anew),
    (Established, CLIENT_FIN, ClientFin, Anew),
    (Established, SERVER_FIN, ServerFin, Anew),
    (Established, (Client, RST, (101, 0)), Trans, Anew),
    (Established, (Server, RST, (501, 0)), Trans, Anew),
    (Established, (Server, RST | ACK, (501, 101)), Trans, Anew),
    // Nobody believes these: RFC 5961 section 3, RFC 5382 section 9.
    (Established, (Server, RST, (500, 0)), Established, Kept),
    (Established, (Server, RST, (501 + 70_000, 0)), Established, Kept),
    (Established, (Client, RST, (101 + 70_000, 0)), Established, Kept),
    (Established, (Server, FIN | ACK, (501 + 70_000, 101)), Established, Anew),
    (Established, (Client, SYN, (9000, 0)), Established, Kept),
    (Established, (Server, SYN | ACK, (500, 101)), Established, Anew),
    (ClientFin, (Client, ACK, (102, 501)), ClientFin, Anew),
    (ClientFin, (Server, ACK, (501, 102)), ClientFin, Anew),
    (ClientFin, CLIENT_FIN, ClientFin, Anew),
    (ClientFin, (Server, FIN | ACK, (501, 102)), BothFin, Anew),
    (ClientFin, (Server, RST, (501, 0)), Trans, Anew),
    (ServerFin, (Client, ACK, (101, 502)), ServerFin, Anew),
    (ServerFin, (Server, ACK, (502, 101)), ServerFin, Anew),
    (ServerFin, SERVER_FIN, ServerFin, Anew),
    (ServerFin, (Client, FIN | ACK, (101, 502)), BothFin, Anew),
    (ServerFin, (Client, RST, (101, 0)), Trans, Anew),
    (BothFin, (Client, ACK, (102, 502)), BothFin, Anew),
    (BothFin, (Server, ACK, (502, 102)), BothFin, Anew),
    (BothFin, (Client, SYN, (9000, 0)), Init, Anew),
    (Trans, (Client, ACK, (101, 501)), Established, Anew),
    (Trans, (Server, ACK, (501, 101)), Established, Anew),
    (Trans, CLIENT_FIN, ClientFin, Anew),
    (Trans, SERVER_FIN, ServerFin, Anew),
    (Trans, (Client, RST, (101, 0)), Trans, Kept),
    (Trans, (Server, RST, (501, 0)), Trans, Kept),
    (Trans, (Client, SYN, (9000, 0)), Init, Anew),
];

/// A scheme's name for the flow under test.
const FLOW: Flow = Flow { protocol: TCP, pod: POD_END, remote: SERVER_END, public: super::PUBLIC };

/// The event's segment goes through.
#[track_caller]
fn send(case: &mut Case<'_>, (side, flags, numbers): Event) {
    match side {
        Client => FLOW.client(case, flags, numbers, b""),
        Server => FLOW.server(case, flags, numbers, b""),
    }
}

/// Plays `events` with a pause before the last one.
#[track_caller]
fn play(case: &mut Case<'_>, events: &[Event]) {
    case.restart();
    policy(case, |policy| policy.timeouts = TIMERS);
    for (number, event) in events.iter().enumerate() {
        if number + 1 == events.len() {
            case.wait(PAUSE);
        }
        send(case, *event);
    }
}

/// After the events the flow lives `silence` seconds, and not much longer. A stale acknowledgement of the
/// server's asks: it goes through wherever there is a flow.
#[track_caller]
fn ends_after(case: &mut Case<'_>, events: &[Event], silence: u32) {
    let probe = tcp(FLOW.remote, FLOW.public, ACK, (501, 101), b"");
    play(case, events);
    case.wait(silence - 1);
    FLOW.arrives(case, &probe);
    play(case, events);
    case.wait(silence + 10);
    dropped(case, &probe, false);
}

/// The state after the events is `state`, whose timer runs from the last event, or from the one before it.
#[track_caller]
fn leads_to(case: &mut Case<'_>, events: &[Event], state: State, timer: Timer) {
    ends_after(case, events, state.timer() - if timer == Kept { PAUSE } else { 0 });
    for side in [Client, Server] {
        if let Some(next) = state.after_fin(side) {
            let fin = match (side, state) {
                (Client, ServerFin) => (Client, FIN | ACK, (101, 502)),
                (Client, _) => CLIENT_FIN,
                (Server, ClientFin) => (Server, FIN | ACK, (501, 102)),
                (Server, _) => SERVER_FIN,
            };
            ends_after(case, &[events, &[fin]].concat(), next.timer());
        }
    }
}

/// The hooks that track connections, one of each.
const WAYS: &[Way] = &[Way::Xdp, Way::TcEthernet];

fn edges(which: impl Fn(State, Event, State) -> bool + Sync) {
    each(WAYS, |case| {
        let mut seen = 0;
        for (from, event, to, timer) in TABLE {
            if !which(*from, *event, *to) {
                continue;
            }
            println!("{:?}: {from:?}, {event:?} to {to:?}", case.way);
            let events = [&from.way()[..], &[*event]].concat();
            leads_to(case, &events, *to, *timer);
            seen += 1;
        }
        assert!(seen > 0, "no edge is like that");
    });
}

#[test]
fn rfc7857_2_row_11_1_row_11_5_row_11_6_row_11_7_row_11_20_edges_of_init() {
    each(WAYS, |case| {
        for state in [Init, Established, ClientFin, ServerFin, BothFin, Trans] {
            leads_to(case, &state.way(), state, Anew);
        }
    });
    edges(|from, _, _| from == Init);
}

#[test]
fn rfc7857_2_row_11_8_row_11_9_row_11_10_row_11_22_edges_of_established() {
    edges(|from, _, to| from == Established && to != Established);
    edges(|from, (_, flags, _), to| from == Established && to == Established && flags & RST == 0);
}

#[test]
fn rfc5382_sec9_row_11_23_segments_out_of_window_shorten_nothing() {
    edges(|from, (_, flags, _), to| from == Established && to == Established && flags & (RST | FIN) != 0);
}

#[test]
fn rfc7857_2_row_11_12_row_11_13_row_11_21_edges_of_the_half_closed() {
    edges(|from, _, _| matches!(from, ClientFin | ServerFin));
}

#[test]
fn rfc7857_2_row_11_14_row_11_15_row_11_16_row_11_19_edges_of_the_closed() {
    edges(|from, _, _| matches!(from, BothFin | Trans));
}

/// Only the receiver's own segments move its window: whatever is forged in the vendor's name makes no reset of the vendor's
/// believed, and the next true segment undoes it.
#[test]
fn rfc5382_sec9_forged_segments_open_no_window() {
    each(WAYS, |case| {
        let flow = Flow::open(case, TCP, POD_END, SERVER_END);
        for far in [200_000, 1 << 30, 1 << 31, 3 << 30] {
            let (seq, ack) = (501u32.wrapping_add(far), 101u32.wrapping_add(far));
            flow.server(case, ACK, (seq, ack), b"forged");
            flow.server(case, RST, (seq, 0), b"");
            flow.server(case, RST | ACK, (seq.wrapping_add(6), ack), b"");
            flow.server(case, FIN | ACK, (seq.wrapping_add(6), ack), b"");
        }
        // A reset that counted would have left 240 s.
        case.wait(7000);
        flow.server(case, ACK, (501, 101), b"true");
        flow.client(case, ACK, (101, 505), b"");
        case.wait(7000);
        flow.lives(case);
        // And the pod's own reset is believed again.
        flow.client(case, RST, (101, 0), b"");
        case.wait(250);
        flow.is_over(case);
    });
}

/// Once both FINs are acknowledged nothing keeps a closed connection.
#[test]
fn row_11_14_a_settled_close_is_not_kept() {
    each(WAYS, |case| {
        let mut events = BothFin.way();
        events.extend([(Server, ACK, (502, 102)), (Client, ACK, (102, 502))]);
        play(case, &events);
        for _ in 0..3 {
            case.wait(100);
            send(case, (Server, ACK, (502, 102)));
            send(case, (Client, ACK, (102, 502)));
        }
        case.wait(110);
        dropped(case, &tcp(FLOW.remote, FLOW.public, ACK, (502, 102), b""), false);
    });
}

/// A port whose flow has expired is free, for whoever comes.
#[test]
fn row_11_11_row_11_17_expiry_frees_the_port() {
    each(EVERY, |case| {
        use crate::plan::POD_2;
        use vpnat_common::addr::Port;
        policy(case, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000)));
        let flow = Flow::open(case, TCP, POD_END, SERVER_END);
        case.wait(7440 + 10);
        flow.is_over(case);
        case.wait(120);
        let next = Flow::open(case, TCP, (POD_2, 41000), SERVER_END);
        assert_eq!(next.public, flow.public);
        next.lives(case);
    });
}

/// Silent drop from outside; from inside, what opens nothing leaves nothing.
#[test]
fn rfc5382_sec5_row_11_4_segments_without_state() {
    use vpnat_common::layout::vendor::flag;
    each(EVERY, |case| {
        for picks_up in [false, true] {
            case.restart();
            policy(case, |policy| policy.flags = if picks_up { flag::TCP_PICK_UP } else { 0 });
            for (number, flags) in
                [SYN | ACK, FIN | ACK, RST, RST | ACK, SYN | FIN, SYN | RST].iter().enumerate()
            {
                let from = (POD_END.0, 41000 + number as u16);
                dropped(case, &tcp(from, SERVER_END, *flags, (101, 501), b""), true);
                dropped(case, &tcp(SERVER_END, (FLOW.public.0, from.1), *flags, (501, 101), b""), false);
            }
            let segment = FLOW.pods_segment(ACK, (101, 501), b"data");
            if picks_up {
                FLOW.leaves(case, &segment);
                FLOW.lives(case);
                case.wait(7000);
                FLOW.lives(case);
            } else {
                dropped(case, &segment, true);
            }
        }
    });
}
