//! The identification (RFC 6864): to the vendor all pods are one host.

use std::collections::BTreeSet;

use tests::packet::{echo_request, may_fragment, tcp, udp};

use crate::case::{EVERY, TC, each};
use crate::model::{self, fragments, icmp_error};
use crate::plan::{A, EGRESS_A, End, POD, POD_2, SERVER};

const SERVER_END: End = (SERVER, 53);

fn public(port: u16) -> End {
    (EGRESS_A, port)
}

/// Section 4.1: nobody looks at an atomic datagram's, and rewriting it would cost for nothing.
#[test]
fn an_atomic_datagram_keeps_its_identification() {
    each(EVERY, |case| {
        for id in [0, 1, 0xffff] {
            let packet = model::with_id(&udp((POD, 40000), SERVER_END, 64, b"atomic"), id);
            assert_eq!(packet[6], 0x40);
            case.out(&packet).leaves_as(A, &model::source(&packet, public(40000)));
        }
    });
}

/// Section 5.3.1: two pods with equal identifications and every hook; none leaves twice, and DF stays clear.
#[test]
fn datagrams_that_may_be_fragmented_get_their_own() {
    each(EVERY, |case| {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            for (pod, port) in [(POD, 40001), (POD_2, 40002)] {
                let packet = may_fragment(udp((pod, port), SERVER_END, 64, b"not atomic"), 77);
                let expected = model::source(&packet, public(port));
                assert!(seen.insert(case.out(&packet).leaves_renamed(A, &expected)));
            }
        }
        assert_eq!(seen.len(), 40);
        for packet in [tcp((POD, 40003), SERVER_END, 2, (7, 0), b""), echo_request(POD, SERVER, 40003, 1)] {
            let packet = may_fragment(packet, 77);
            case.out(&packet).leaves_renamed(A, &model::source(&packet, public(40003)));
        }
    });
}

/// The vendor's own are its business: they arrive as they were.
#[test]
fn inbound_identifications_stay() {
    each(EVERY, |case| {
        let question = udp((POD, 40000), SERVER_END, 64, b"question");
        case.out(&question).leaves_as(A, &model::source(&question, public(40000)));
        let answer = may_fragment(udp(SERVER_END, public(40000), 64, b"answer"), 4711);
        case.back(&answer).arrives_as(A, &model::destination(&answer, (POD, 40000)));
    });
}

/// RFC 3022 section 6.3: fragments of two pods with one identification are told apart at the vendor.
#[test]
fn fragments_of_two_pods_do_not_mix() {
    each(TC, |case| {
        let payload = [0x5a; 999];
        let datagrams = [(POD, 40001), (POD_2, 40002)].map(|pod| udp(pod, SERVER_END, 64, &payload));
        let parts = datagrams.each_ref().map(|datagram| fragments(datagram, 77, &[512]));
        let expected = [(0, 40001), (1, 40002)].map(|(datagram, port)| {
            fragments(&model::source(&datagrams[datagram], public(port)), 77, &[512])
        });
        let mut ids = [[0; 2]; 2];
        for part in [0, 1] {
            for pod in [0, 1] {
                ids[pod][part] = case.out(&parts[pod][part]).leaves_renamed(A, &expected[pod][part]);
            }
        }
        assert_eq!((ids[0][0], ids[1][0]), (ids[0][1], ids[1][1]), "one for each datagram");
        assert_ne!(ids[0][0], ids[1][0]);
    });
}

#[test]
fn an_error_is_a_datagram_too() {
    each(TC, |case| {
        let question = udp((POD, 40000), SERVER_END, 64, b"question");
        case.out(&question).leaves_as(A, &model::source(&question, public(40000)));
        let answer = udp(SERVER_END, public(40000), 64, b"answer");
        let arrived = model::destination(&answer, (POD, 40000));
        let error = may_fragment(icmp_error((POD, SERVER), (3, 3), [0; 4], &arrived, &[]), 77);
        let told = may_fragment(icmp_error((EGRESS_A, SERVER), (3, 3), [0; 4], &answer, &[]), 77);
        let ids = [(); 2].map(|()| case.out(&error).leaves_renamed(A, &told));
        assert_ne!(ids[0], ids[1]);
    });
}
