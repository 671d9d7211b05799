//! UDP's checksum, which may be absent, and payloads of every length.

use tests::packet::udp;

use crate::case::{EVERY, each};
use crate::model;
use crate::plan::{A, EGRESS_A, End, POD, SERVER};

const POD_END: End = (POD, 40000);
const SERVER_END: End = (SERVER, 53);
const PUBLIC: End = (EGRESS_A, 40000);

/// RFC 768: 0 is no checksum, and stays none (RFC 3022 section 4.1).
#[test]
fn no_checksum_stays_no_checksum() {
    each(EVERY, |case| {
        let question = model::without_udp_checksum(&udp(POD_END, SERVER_END, 64, b"question"));
        case.out(&question).leaves_as(A, &model::source(&question, PUBLIC));
        let answer = model::without_udp_checksum(&udp(SERVER_END, PUBLIC, 64, b"answer"));
        case.back(&answer).arrives_as(A, &model::destination(&answer, POD_END));
    });
}

/// A datagram whose payload is chosen so that the translated packet adds up to 0 must carry 0xffff.
#[test]
fn a_sum_of_zero_is_written_as_all_ones() {
    each(EVERY, |case| {
        let with = |word: u16| udp(POD_END, SERVER_END, 64, &word.to_be_bytes());
        // The payload's word that makes up for everything else: the checksum of the packet without it.
        let expected = model::source(&with(0), PUBLIC);
        let missing = u16::from_be_bytes([expected[26], expected[27]]);
        let question = with(missing);
        let expected = model::source(&question, PUBLIC);
        assert_eq!(expected[26..28], [0xff, 0xff], "the packet that this test is about");
        case.out(&question).leaves_as(A, &expected);

        let with = |word: u16| udp(SERVER_END, PUBLIC, 64, &word.to_be_bytes());
        let expected = model::destination(&with(0), POD_END);
        let answer = with(u16::from_be_bytes([expected[26], expected[27]]));
        let expected = model::destination(&answer, POD_END);
        assert_eq!(expected[26..28], [0xff, 0xff], "the packet that this test is about");
        case.back(&answer).arrives_as(A, &expected);
    });
}

#[test]
fn payloads_of_any_length() {
    each(EVERY, |case| {
        let payload: Vec<u8> = (0..1472).map(|byte| (byte * 7) as u8).collect();
        for length in [0, 1, 2, 3, 17, 511, 1471, 1472] {
            let question = udp(POD_END, SERVER_END, 64, &payload[..length]);
            case.out(&question).leaves_as(A, &model::source(&question, PUBLIC));
            let answer = udp(SERVER_END, PUBLIC, 64, &payload[..length]);
            case.back(&answer).arrives_as(A, &model::destination(&answer, POD_END));
        }
    });
}

/// A short packet is padded to Ethernet's least length; the padding is no part of it.
#[test]
fn padding_behind_the_packet_stays_as_it_is() {
    each(EVERY, |case| {
        let question = udp(POD_END, SERVER_END, 64, b"a");
        let padded = [&question[..], &[0xaa; 17]].concat();
        let expected = [&model::source(&question, PUBLIC)[..], &[0xaa; 17]].concat();
        case.out(&padded).leaves_as(A, &expected);
    });
}
