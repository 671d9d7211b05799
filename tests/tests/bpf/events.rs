//! What readers are told of flows: once when one is made, once when it goes, and only while somebody reads.

use tests::packet::{UDP, tcp, udp};
use vpnat_common::addr::Port;
use vpnat_common::engine::STAMP_SECONDS;
use vpnat_common::layout::event::{Cause, EVENT_VERSION, FlowEvent, Kind, Tally};
use vpnat_common::layout::flow::Phase;
use vpnat_common::layout::outcome::Outcome;
use vpnat_common::layout::upkeep::{REAP_HOW_AT, REAP_KEYS_AT, REAP_NOW};
use vpnat_common::layout::vendor::flag;

use crate::case::{Case, EVERY, Line, Way, each};
use crate::model;
use crate::plan::{A, EGRESS_A, POD, POD_2, SERVER, SERVER_2};
use crate::world::EVENT_BYTES;

/// TCP control bits.
const SYN: u8 = 2;
const ACK: u8 = 16;

fn line(number: u16) -> Line {
    let port = 40000 + number;
    Line { protocol: UDP, pod: (POD, port), remote: (SERVER, 53), public: (EGRESS_A, port) }
}

/// A reader is there; what was told before is read.
fn listen(case: &mut Case<'_>) {
    case.world.maps.change_settings(|settings| settings.events = 1).expect("the switch");
    case.world.events();
}

fn open(case: &mut Case<'_>, number: u16) {
    let packet = udp(line(number).pod, (SERVER, 53), 64, b"question");
    case.out(&packet).leaves_as(A, &model::source(&packet, line(number).public));
}

fn kill(case: &mut Case<'_>, line: &Line) -> u32 {
    let mut data = vec![0; REAP_KEYS_AT as usize];
    data[REAP_HOW_AT as usize] = REAP_NOW;
    for key in line.keys() {
        data.extend(key.src.octets);
        data.extend(key.dst.octets);
        data.extend(key.src_port.number.to_ne_bytes());
        data.extend(key.dst_port.number.to_ne_bytes());
        data.extend([key.protocol, 0, 0, 0]);
    }
    case.world.run("reap", &data, &[]).0
}

/// What an event says of the two ends and the middle, compared with the line; the rest for the caller.
fn of_line(event: &FlowEvent, line: &Line) -> (u8, u8) {
    assert_eq!((event.inside, event.inside_port.number), (line.pod.0.into(), line.pod.1), "{event:?}");
    assert_eq!((event.egress, event.egress_port.number), (line.public.0.into(), line.public.1), "{event:?}");
    assert_eq!((event.remote, event.remote_port.number), (line.remote.0.into(), line.remote.1), "{event:?}");
    assert_eq!((event.protocol, event.vendor, event.version), (line.protocol, A, EVENT_VERSION), "{event:?}");
    assert!(event.time_ns != 0, "{event:?}");
    (event.kind, event.cause)
}

#[test]
fn nobody_is_told_when_nobody_reads() {
    each(EVERY, |case| {
        case.world.events();
        let opened = case.world.tally(A, Tally::OpenedUdp);
        let idle = case.world.tally(A, Tally::EndedIdle);
        open(case, 0);
        case.wait(400);
        open(case, 0);
        assert_eq!(case.world.events(), []);
        // It is counted all the same.
        assert_eq!(case.world.tally(A, Tally::OpenedUdp) - opened, 2);
        assert_eq!(case.world.tally(A, Tally::EndedIdle) - idle, 1);
    });
}

#[test]
fn a_flow_is_told_of_when_it_is_made_and_when_it_goes() {
    each(EVERY, |case| {
        listen(case);
        let now = case.world.now();
        open(case, 0);
        let [start] = case.world.events()[..] else { panic!("one event") };
        assert_eq!(of_line(&start, &line(0)), (Kind::Started as u8, 0));
        assert_eq!((start.phase, start.out_packets), (Phase::Udp as u8, 0));
        assert!((0..2).contains(&(start.created.seconds - now)), "{start:?}");

        open(case, 0);
        let answer = udp((SERVER, 53), line(0).public, 64, b"an answer");
        case.back(&answer);
        assert_eq!(case.world.events(), [], "an established flow says nothing");

        // Its next packet finds it over: one flow ends, another one starts, with the same port.
        case.wait(400);
        open(case, 0);
        let [end, start] = case.world.events()[..] else { panic!("two events") };
        assert_eq!(of_line(&end, &line(0)), (Kind::Ended as u8, Cause::Expired as u8));
        assert_eq!(of_line(&start, &line(0)), (Kind::Started as u8, 0));
        assert_eq!((end.out_packets, end.in_packets), (2, 1));
        assert_eq!((end.out_bytes, end.in_bytes), (2 * (28 + 8), 28 + 9));
        assert!((400..403).contains(&(end.now.seconds - end.created.seconds)), "{end:?}");
    });
}

#[test]
fn every_way_to_go_has_its_cause() {
    each(&[Way::TcEthernet, Way::Xdp], |case| {
        // Another flow takes its port over.
        case.change_policy(A, |policy| {
            (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000));
        });
        listen(case);
        let first = udp((POD, 40000), (SERVER, 53), 64, b"question");
        let second = udp((POD, 40001), (SERVER, 53), 64, b"question");
        case.out(&first);
        // Until its port has rested, too.
        case.wait(500);
        case.out(&second);
        let told: Vec<_> = case.world.events().iter().map(|event| (event.kind, event.cause)).collect();
        let (started, ended) = (Kind::Started as u8, Kind::Ended as u8);
        assert_eq!(told, [(started, 0), (ended, Cause::Expired as u8), (started, 0)]);

        // The sweep.
        case.restart();
        listen(case);
        open(case, 1);
        case.wait(500);
        let mut data = vec![0; REAP_KEYS_AT as usize];
        data.extend([POD.octets(), SERVER.octets()].concat());
        data.extend([40001u16.to_ne_bytes(), 53u16.to_ne_bytes()].concat());
        data.extend([UDP, 0, 0, 0]);
        assert_eq!(case.world.run("reap", &data, &[]).0, 2);
        let [_, end] = case.world.events()[..] else { panic!("two events") };
        assert_eq!(of_line(&end, &line(1)), (ended, Cause::Expired as u8));

        // An operator: both halves go, whether the flow is over or not, and once only.
        open(case, 2);
        case.world.events();
        assert_eq!(kill(case, &line(2)), 2);
        assert_eq!((case.entries(), kill(case, &line(2))), (0, 0));
        let [end] = case.world.events()[..] else { panic!("one event") };
        assert_eq!(of_line(&end, &line(2)), (ended, Cause::Killed as u8));

        // The configuration takes the egress address away.
        open(case, 3);
        case.world.events();
        case.change_policy(A, |policy| policy.egress[0] = SERVER_2.into());
        case.wait(STAMP_SECONDS);
        let packet = udp(line(3).pod, (SERVER, 53), 64, b"question");
        case.out(&packet);
        let told = case.world.events();
        assert_eq!(of_line(&told[0], &line(3)), (ended, Cause::Policy as u8));
    });
}

/// Flows that share a mapping (endpoint-independent) are told of one by one, each with the port that all of them show; the mapping
/// is no flow, neither when it begins nor when it ends with the last of them.
#[test]
fn rfc8158_4_3_flows_of_one_mapping_bear_its_port() {
    each(EVERY, |case| {
        case.change_policy(A, |policy| policy.flags |= flag::ENDPOINT_INDEPENDENT);
        listen(case);
        let before = case.world.tally(A, Tally::OpenedUdp);
        let mut lines = Vec::new();
        for pod in [POD, POD_2] {
            for remote in [(SERVER, 53), (SERVER, 54), (SERVER_2, 53)] {
                let packet = udp((pod, 40000), remote, 64, b"question");
                let public = (EGRESS_A, case.out(&packet).port());
                lines.push(Line { protocol: UDP, pod: (pod, 40000), remote, public });
            }
        }
        let ports: Vec<u16> = lines.iter().map(|line| line.public.1).collect();
        assert!(ports[..3].iter().all(|port| *port == ports[0]), "{ports:?}");
        assert!(ports[3..].iter().all(|port| *port == ports[3] && *port != ports[0]), "{ports:?}");
        let told = case.world.events();
        assert_eq!(told.len(), lines.len(), "{told:?}");
        for (event, line) in told.iter().zip(&lines) {
            assert_eq!(of_line(event, line), (Kind::Started as u8, 0));
        }
        assert_eq!(case.world.tally(A, Tally::OpenedUdp) - before, lines.len() as u64);
        for line in &lines {
            assert!(kill(case, line) >= 2, "{line:?}");
            let [end] = case.world.events()[..] else { panic!("one event") };
            assert_eq!(of_line(&end, line), (Kind::Ended as u8, Cause::Killed as u8));
        }
        // The mapping has ended with its flows, and that its end finds it so is told to nobody either.
        case.wait(500);
        let again = udp((POD_2, 40000), (SERVER, 53), 64, b"question");
        case.out(&again);
        let [start] = case.world.events()[..] else { panic!("one event") };
        assert_eq!(of_line(&start, &lines[3]), (Kind::Started as u8, 0));
    });
}

/// The handshake is counted when it is complete, and a closed connection is told from an idle one.
#[test]
fn a_connection_is_counted_once_it_is_established() {
    each(EVERY, |case| {
        listen(case);
        let (pod, server, public) = ((POD, 40000), (SERVER, 443), (EGRESS_A, 40000));
        let before = case.world.tally(A, Tally::Established);
        let count = |case: &Case<'_>| case.world.tally(A, Tally::Established) - before;
        case.out(&tcp(pod, server, SYN, (100, 0), b""));
        assert_eq!(count(case), 0);
        case.back(&tcp(server, public, SYN | ACK, (500, 101), b""));
        case.out(&tcp(pod, server, ACK, (101, 501), b""));
        assert_eq!(count(case), 1);
        case.out(&tcp(pod, server, ACK, (101, 501), b"more"));
        assert_eq!(count(case), 1);
    });
}

/// A reader that does not come costs events, never packets, and they are counted.
#[test]
fn a_full_buffer_loses_events_and_no_packet() {
    each(&[Way::TcEthernet], |case| {
        listen(case);
        let lost = case.world.tally(0, Tally::EventsLost);
        let room = u64::from(EVENT_BYTES) / (size_of::<FlowEvent>() as u64 + 8);
        for _ in 0..room / 2 + 10 {
            open(case, 0);
            assert_eq!(kill(case, &line(0)), 2);
        }
        let told = case.world.events().len() as u64;
        assert!(told >= room - 1, "{told} of {room}");
        let lost = case.world.tally(0, Tally::EventsLost) - lost;
        assert_eq!(told + lost, 2 * (room / 2 + 10));
        assert!(lost > 0);
        open(case, 0);
        assert_eq!(case.world.events().len(), 1, "there is room again");
    });
}

/// RFC 8158 section 4.6.6: once per address and protocol and second, however many are refused.
#[test]
fn rfc8158_4_6_6_exhaustion_is_told_now_and_then() {
    each(EVERY, |case| {
        case.change_policy(A, |policy| {
            (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000));
        });
        listen(case);
        let question = |port| udp((POD, port), (SERVER, 53), 64, b"question");
        case.out(&question(40000));
        // A run may straddle a second.
        for number in 1..20 {
            case.out(&question(40000 + number)).ends_as(A, Outcome::PortsExhausted);
        }
        let told = case.world.events();
        let refused: Vec<_> = told.iter().filter(|event| event.kind == Kind::PortsExhausted as u8).collect();
        assert!((1..=2).contains(&refused.len()), "{told:?}");
        assert_eq!((refused[0].egress, refused[0].egress_port.number), (EGRESS_A.into(), 0));
        case.wait(5);
        case.out(&question(40001));
        assert_eq!(case.world.events().len(), 1);
    });
}
