//! How long a program takes per packet. Printed for information; nothing is asserted about it.
//!
//! A repeated test run hands the program the packet that it has just rewritten. So the flow of these runs is
//! one whose rewrite changes nothing (from the pod's end to the pod's own end), written into the table by hand:
//! the program does all that it does for an established flow that keeps its port, and finds the same packet
//! again. XDP counts the time to live down, which bounds a run to 250 packets; the figure is the median of
//! many runs. What the kernel does before and after the program, the redirect itself included, is not in it.

use std::io::Write as _;

use tests::packet::{TCP, tcp, udp};
use vpnat_common::addr::Port;
use vpnat_common::layout::flow::{Direction, FlowEntry};
use vpnat_common::layout::user::FlowEntryBytes;

use crate::case::{Case, Course, Line, Way, each};
use crate::model::{self, with_ttl};
use crate::plan::{A, EGRESS_A, ELSEWHERE, End, POD, SERVER};
use crate::world::{tc_context, xdp_context};

const POD_END: End = (POD, 40000);
const SERVER_END: End = (SERVER, 443);
const PUBLIC: End = (EGRESS_A, 40000);
const RUNS: usize = 200;
const REPEAT: u32 = 250;

/// Opens a flow, establishes it, and makes its rewrite one that changes nothing.
fn identity(case: &mut Case<'_>, protocol: u8) -> Vec<u8> {
    let question = if protocol == TCP {
        for (packet, out) in [
            (tcp(POD_END, SERVER_END, 2, (100, 0), b""), true),
            (tcp(SERVER_END, PUBLIC, 18, (500, 101), b""), false),
            (tcp(POD_END, SERVER_END, 16, (101, 501), b""), true),
        ] {
            if out {
                case.out(&packet).leaves_as(A, &model::source(&packet, PUBLIC));
            } else {
                case.back(&packet).arrives_as(A, &model::destination(&packet, POD_END));
            }
        }
        tcp(POD_END, SERVER_END, 16, (101, 501), &[0; 24])
    } else {
        let packet = udp(POD_END, SERVER_END, 64, &[0; 36]);
        case.out(&packet).leaves_as(A, &model::source(&packet, PUBLIC));
        packet
    };
    let key = Line { protocol, pod: POD_END, remote: SERVER_END, public: PUBLIC }.keys()[0];
    let FlowEntryBytes(mut bytes) = case.world.flows.get(&key, 0).expect("the outbound half");
    let at = std::mem::offset_of!(FlowEntry, new_addr);
    bytes[at..at + 4].copy_from_slice(&POD.octets());
    let at = std::mem::offset_of!(FlowEntry, addr_delta);
    bytes[at..at + 2].copy_from_slice(&[0xff, 0xff]);
    let at = std::mem::offset_of!(FlowEntry, check);
    let check = key.check(Direction::Outbound, POD.into(), Port::new(POD_END.1));
    bytes[at..at + 2].copy_from_slice(&check.to_ne_bytes());
    case.world.flows.insert(key, FlowEntryBytes(bytes), 0).expect("the outbound half");
    with_ttl(&question, 255)
}

/// Median nanoseconds per packet.
fn measure(case: &mut Case<'_>, packet: &[u8]) -> u64 {
    let (inside, outside) = (case.site().inside, case.site().outside);
    let header = [&inside.1[..], &[2, 0, 0, 0, 0, 9], &[8, 0]].concat();
    let frame = if case.way.ethernet() { [&header[..], packet].concat() } else { packet.to_vec() };
    let context =
        if case.way.is_xdp() { xdp_context(inside.0, frame.len()) } else { tc_context(outside.0, inside.0) };
    let program = case.way.program(Course::Out);
    let mut times: Vec<_> =
        (0..RUNS).map(|_| case.world.run_repeatedly(program, &frame, &context, REPEAT).2).collect();
    times.sort_unstable();
    times[RUNS / 2]
}

#[test]
fn nanoseconds_per_packet() {
    each(&[Way::Xdp, Way::TcEthernet, Way::TcTunnel], |case| {
        let passed = measure(case, &with_ttl(&udp(POD_END, (ELSEWHERE, 53), 64, &[0; 36]), 255));
        let mut figures = format!("not ours {passed} ns");
        for (name, protocol) in [("UDP", tests::packet::UDP), ("TCP", TCP)] {
            case.restart();
            let packet = identity(case, protocol);
            let nanoseconds = measure(case, &packet);
            // By this flow and no other.
            let key = Line { protocol, pod: POD_END, remote: SERVER_END, public: PUBLIC }.keys()[0];
            let entry = case.world.flows.get(&key, 0).expect("the flow").decode().expect("a sound entry");
            assert!(entry.packets > RUNS as u64 * u64::from(REPEAT), "{:?} {name}: {entry:?}", case.way);
            figures += &format!(", established {name} {nanoseconds} ns");
        }
        // Past the harness, which keeps to itself what a test that succeeds prints.
        writeln!(std::io::stderr(), "{:?}, outbound, 64 bytes: {figures}", case.way).expect("standard error");
    });
}
