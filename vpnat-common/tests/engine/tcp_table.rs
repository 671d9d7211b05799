//! RFC 7857 section 2 as a table: from each state, each event, the state that follows and its timer.

use vpnat_common::layout::flow::Phase::{
    self, TcpBothFin as BothFin, TcpClientFin as ClientFin, TcpEstablished as Established, TcpInit as Init,
    TcpServerFin as ServerFin, TcpTrans as Trans,
};
use vpnat_common::layout::outcome::Outcome;

use crate::life::{PATHS, Path, pod, server};
use crate::tables::{EGRESS, World};
use crate::wire::tcp;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Who sends what: control bits, sequence and acknowledgement number. The client's numbers start with 100, the
/// server's with 500.
#[derive(Clone, Copy, Debug)]
enum Event {
    Client(u8, u32, u32),
    Server(u8, u32, u32),
}
use Event::{Client, Server};

const OPEN: [Event; 3] = [Client(SYN, 100, 0), Server(SYN | ACK, 500, 101), Client(ACK, 101, 501)];
const CLIENT_FIN: Event = Client(FIN | ACK, 101, 501);
const SERVER_FIN: Event = Server(FIN | ACK, 501, 101);

/// The events that lead to a state.
fn way_to(phase: Phase) -> Vec<Event> {
    let mut events = if phase == Init { vec![OPEN[0]] } else { OPEN.to_vec() };
    events.extend(match phase {
        ClientFin => vec![CLIENT_FIN],
        ServerFin => vec![SERVER_FIN],
        BothFin => vec![CLIENT_FIN, SERVER_FIN],
        Trans => vec![Server(RST, 501, 0)],
        _ => vec![],
    });
    events
}

/// State, event, state that follows, and the timer from then on; no timer: it is what it was.
const TABLE: [(Phase, Event, Phase, Option<u32>); 42] = [
    (Init, Client(SYN, 100, 0), Init, Some(240)),
    (Init, Server(SYN | ACK, 500, 101), Init, Some(240)),
    (Init, Server(SYN, 500, 0), Init, Some(240)),
    (Init, Server(RST | ACK, 0, 101), Init, None),
    (Init, Client(RST, 101, 0), Init, None),
    (Init, Client(ACK, 101, 501), Init, None),
    (Init, Server(ACK, 501, 101), Init, None),
    (Established, Client(ACK, 101, 501), Established, Some(7440)),
    (Established, Server(ACK, 501, 101), Established, Some(7440)),
    (Established, CLIENT_FIN, ClientFin, Some(7440)),
    (Established, SERVER_FIN, ServerFin, Some(7440)),
    (Established, Client(RST, 101, 0), Trans, Some(240)),
    (Established, Server(RST, 501, 0), Trans, Some(240)),
    (Established, Server(RST | ACK, 501, 101), Trans, Some(240)),
    (Established, Server(RST, 500, 0), Established, None),
    (Established, Server(RST, 501 + 70000, 0), Established, None),
    (Established, Client(RST, 101 + 70000, 0), Established, None),
    (Established, Server(FIN | ACK, 501 + 70000, 101), Established, Some(7440)),
    (Established, Client(SYN, 9000, 0), Established, None),
    (ClientFin, Client(ACK, 102, 501), ClientFin, Some(7440)),
    (ClientFin, Server(ACK, 501, 102), ClientFin, Some(7440)),
    (ClientFin, CLIENT_FIN, ClientFin, Some(7440)),
    (ClientFin, Server(FIN | ACK, 501, 102), BothFin, Some(240)),
    (ClientFin, Server(RST, 501, 0), Trans, Some(240)),
    (ClientFin, Client(SYN, 9000, 0), ClientFin, None),
    (ServerFin, Client(ACK, 101, 502), ServerFin, Some(7440)),
    (ServerFin, Server(ACK, 502, 101), ServerFin, Some(7440)),
    (ServerFin, SERVER_FIN, ServerFin, Some(7440)),
    (ServerFin, Client(FIN | ACK, 101, 502), BothFin, Some(240)),
    (ServerFin, Client(RST, 101, 0), Trans, Some(240)),
    // The acknowledgements of both FINs are still missing: packets renew the timer.
    (BothFin, Server(ACK, 502, 102), BothFin, Some(240)),
    (BothFin, Client(ACK, 102, 502), BothFin, Some(240)),
    (BothFin, SERVER_FIN, BothFin, Some(240)),
    (BothFin, Client(SYN, 9000, 0), Init, Some(240)),
    (BothFin, Server(RST, 501, 0), Trans, Some(240)),
    (Trans, Client(ACK, 101, 501), Established, Some(7440)),
    (Trans, Server(ACK, 501, 101), Established, Some(7440)),
    (Trans, CLIENT_FIN, ClientFin, Some(7440)),
    (Trans, SERVER_FIN, ServerFin, Some(7440)),
    (Trans, Client(RST, 101, 0), Trans, None),
    (Trans, Server(RST, 501, 0), Trans, None),
    (Trans, Client(SYN, 9000, 0), Init, Some(240)),
];

fn send(world: &mut World, path: Path, event: Event) {
    let (client, remote, public) = ((pod(1), 40000), (server(10), 443), (EGRESS, 40000));
    let outcome = match event {
        Client(flags, seq, ack) => world.out(path, &tcp(client, remote, flags, (seq, ack), b"")).0,
        Server(flags, seq, ack) => world.back(path, &tcp(remote, public, flags, (seq, ack), b"")).0,
    };
    let expected = if matches!(event, Client(..)) { Outcome::Outbound } else { Outcome::Inbound };
    assert_eq!(outcome, expected, "{event:?} goes through");
}

/// The phase of both halves, and when the later of their timers ends.
fn state(world: &mut World) -> (Phase, u32) {
    let table = world.table();
    let halves: Vec<_> = table.values().map(|(_, entry)| *entry).collect();
    assert_eq!(halves.len(), 2);
    assert_eq!(halves[0].phase, halves[1].phase, "both halves share the phase");
    (halves[0].phase, halves.iter().map(|entry| entry.expires.seconds).max().expect("two halves"))
}

#[test]
fn every_edge() {
    for path in PATHS {
        for (from, event, to, timer) in TABLE {
            let mut world = World::new();
            for before in way_to(from) {
                send(&mut world, path, before);
            }
            let (phase, ends) = state(&mut world);
            assert_eq!(phase, from, "the way to it");
            world.now += 30;
            send(&mut world, path, event);
            let (phase, later) = state(&mut world);
            let edge = format!("{path:?}: {from:?}, {event:?}");
            assert_eq!(phase, to, "{edge}");
            match timer {
                Some(timer) => {
                    let renewed = world.now + timer + 1;
                    assert_eq!(later, renewed, "{edge}: ends at {later} and not at {renewed}");
                }
                None => assert_eq!(later, ends, "{edge}: the timer is what it was"),
            }
        }
    }
}

/// Once both sides have acknowledged both FINs nothing keeps the connection: its timer runs out.
#[test]
fn a_settled_close_is_not_renewed() {
    for path in PATHS {
        let mut world = World::new();
        for event in way_to(BothFin) {
            send(&mut world, path, event);
        }
        send(&mut world, path, Server(ACK, 502, 102));
        send(&mut world, path, Client(ACK, 102, 502));
        let (_, ends) = state(&mut world);
        world.now += 100;
        send(&mut world, path, Server(ACK, 502, 102));
        send(&mut world, path, Client(ACK, 102, 502));
        assert_eq!(state(&mut world), (BothFin, ends), "{path:?}");
    }
}
