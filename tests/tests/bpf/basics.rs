//! New flows, their answers, and who gets which port.

use tests::packet::{ICMP, TCP, UDP, echo_request, icmp, tcp, udp};
use vpnat_common::layout::flow::Phase;
use vpnat_common::layout::outcome::Outcome;

use crate::case::{ALL, Case, EVERY, Line, TC, each};
use crate::model;
use crate::plan::{A, B, EGRESS_A, EGRESS_B, ELSEWHERE, End, NOBODY, POD, POD_2, SERVER, SERVER_2, SERVER_B};

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;

/// An echo reply to the request with `id`.
fn echo_reply(from: std::net::Ipv4Addr, to: std::net::Ipv4Addr, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    icmp(from, to, (0, 0), [high, low, 0, 1], b"abcdefghijklmnop")
}

/// Protocol, first phase, a pod's packet, and the answer to it as it comes to a public end.
type Opening = (u8, Phase, Vec<u8>, Box<dyn Fn(End) -> Vec<u8>>);

/// What one pod's packet of each protocol looks like, with the answer to it as it comes to `public`, and how
/// its flow begins.
fn openings(pod: End, remote: End) -> [Opening; 3] {
    [
        (
            TCP,
            Phase::TcpInit,
            tcp(pod, remote, SYN, (1000, 0), b""),
            Box::new(move |public| tcp(remote, public, SYN_ACK, (5000, 1001), b"")),
        ),
        (
            UDP,
            Phase::Udp,
            udp(pod, remote, 64, b"question"),
            Box::new(move |public| udp(remote, public, 64, b"answer to it")),
        ),
        (
            ICMP,
            Phase::IcmpQuery,
            echo_request(pod.0, remote.0, pod.1, 1),
            Box::new(move |public| echo_reply(remote.0, public.0, public.1)),
        ),
    ]
}

/// The remote port of a flow: queries have none.
fn remote_of(protocol: u8, remote: End) -> End {
    if protocol == ICMP { (remote.0, 0) } else { remote }
}

fn opens_and_answers(case: &mut Case<'_>, pod: End, remote: End, egress: std::net::Ipv4Addr, vendor: u8) {
    for (protocol, phase, question, answer) in openings(pod, remote) {
        let before = case.entries();
        case.out(&question).leaves_as(vendor, &model::source(&question, (egress, pod.1)));
        let line = Line { protocol, pod, remote: remote_of(protocol, remote), public: (egress, pod.1) };
        let length = question.len() as u64;
        for (entry, counted) in case.pair(&line).iter().zip([(1, length), (0, 0)]) {
            assert_eq!((entry.vendor, entry.phase), (vendor, phase));
            assert_eq!((entry.packets, entry.bytes), counted);
        }
        let answer = answer(line.public);
        case.back(&answer).arrives_as(vendor, &model::destination(&answer, pod));
        let [outbound, inbound] = case.pair(&line);
        assert_eq!((outbound.packets, inbound.packets, inbound.bytes), (1, 1, answer.len() as u64));
        assert_eq!(case.entries(), before + 2);
    }
}

#[test]
fn a_new_flow_keeps_its_port_and_its_answer_comes_back() {
    each(EVERY, |case| opens_and_answers(case, (POD, 40000), (SERVER, 443), EGRESS_A, A));
}

#[test]
fn the_longest_prefix_says_whose_a_server_is() {
    each(EVERY, |case| {
        opens_and_answers(case, (POD, 40000), (SERVER_B, 443), EGRESS_B, B);
        opens_and_answers(case, (POD, 40000), (SERVER, 443), EGRESS_A, A);
    });
}

#[test]
fn a_second_pod_with_the_same_port_gets_another() {
    each(EVERY, |case| {
        let (first, second, remote) = ((POD, 40000), (POD_2, 40000), (SERVER, 443));
        for ((protocol, _, question, _), (_, _, rival, answer)) in
            openings(first, remote).into_iter().zip(openings(second, remote))
        {
            case.out(&question).leaves_as(A, &model::source(&question, (EGRESS_A, 40000)));
            let seen = case.out(&rival);
            let port = seen.port();
            assert!(port >= 1024 && port != 40000, "{port}");
            seen.leaves_as(A, &model::source(&rival, (EGRESS_A, port)));
            let public = (EGRESS_A, port);
            case.pair(&Line { protocol, pod: second, remote: remote_of(protocol, remote), public });
            // Each answer finds the pod that asked, and a second packet keeps what the first was given.
            let answer = answer(public);
            case.back(&answer).arrives_as(A, &model::destination(&answer, second));
            case.out(&rival).leaves_as(A, &model::source(&rival, public));
        }
    });
}

/// The mapping is endpoint-dependent: another remote is another flow, and may have the same port.
#[test]
fn another_server_may_see_the_same_port() {
    each(EVERY, |case| {
        for (pod, server) in [(POD, SERVER), (POD_2, SERVER_2), (POD, SERVER_2)] {
            let question = udp((pod, 40000), (server, 53), 64, b"question");
            let seen = case.out(&question);
            let port = seen.port();
            seen.leaves_as(A, &model::source(&question, (EGRESS_A, port)));
            assert_eq!(
                port == 40000,
                (pod, server) != (POD, SERVER_2),
                "taken only by the flow to the same end"
            );
        }
        assert_eq!(case.entries(), 6);
    });
}

/// Ports below the range belong to the instance.
#[test]
fn a_low_source_port_is_lifted_into_the_range() {
    each(EVERY, |case| {
        let question = udp((POD, 700), (SERVER, 53), 64, b"question");
        let seen = case.out(&question);
        assert!(seen.port() >= 1024);
        seen.leaves_as(A, &model::source(&question, (EGRESS_A, seen.port())));
    });
}

/// Nobody outside gets in without having been asked, not even the server itself from another port.
#[test]
fn what_nobody_asked_for_is_dropped() {
    each(EVERY, |case| {
        let question = udp((POD, 40000), (SERVER, 53), 64, b"question");
        case.out(&question).leaves_as(A, &model::source(&question, (EGRESS_A, 40000)));
        let public = (EGRESS_A, 40000);
        for intruder in [
            udp((SERVER, 54), public, 64, b"from another port"),
            udp((SERVER_2, 53), public, 64, b"from another server"),
            udp((SERVER, 53), (EGRESS_A, 40001), 64, b"to another port"),
            tcp((SERVER, 53), public, SYN, (1, 0), b""),
            tcp((SERVER, 53), public, SYN_ACK, (1, 1), b""),
            echo_request(SERVER, EGRESS_A, 40000, 1),
            echo_reply(SERVER, EGRESS_A, 40000),
        ] {
            case.back(&intruder).ends_as(A, Outcome::Unsolicited);
        }
        assert_eq!(case.entries(), 2);
    });
}

/// The instance's own services are its own business; but a vendor gets at them no more than at a pod.
#[test]
fn others_may_talk_to_the_instance() {
    each(ALL, |case| {
        for packet in [
            tcp((ELSEWHERE, 999), (EGRESS_A, 22), SYN, (1, 0), b""),
            udp((ELSEWHERE, 500), (EGRESS_A, 500), 64, b"key exchange"),
        ] {
            case.back(&packet).ends_as(NOBODY, Outcome::NotOurs);
        }
        let intruder = udp((SERVER_B, 53), (EGRESS_A, 40000), 64, b"to another vendor's address");
        case.back(&intruder).ends_as(B, Outcome::Unsolicited);
    });
}

/// An outbound echo reply answers a question that nobody can have asked.
#[test]
fn an_echo_reply_opens_nothing() {
    each(ALL, |case| {
        case.out(&echo_reply(POD, SERVER, 7)).ends_as(A, Outcome::IcmpTypeRefused);
        assert_eq!(case.entries(), 0);
    });
}

#[test]
fn timestamp_queries_are_queries_too() {
    each(TC, |case| {
        let question = icmp(POD, SERVER, (13, 0), [0, 7, 0, 1], &[0; 12]);
        // The identifier is below the range, so that it changes.
        let seen = case.out(&question);
        assert!(seen.port() >= 1024, "{}", seen.port());
        seen.leaves_as(A, &model::source(&question, (EGRESS_A, seen.port())));
    });
}
