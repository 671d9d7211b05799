//! Refusals are answered, at TC egress, in the packet's own buffer; the fast path leaves them to it.

use std::net::Ipv4Addr;

use tests::packet::{self, GRE, echo_request, icmp, ipv4, udp};
use vpnat_common::addr::Port;
use vpnat_common::layout::outcome::Outcome;
use vpnat_common::layout::vendor::flag;

use crate::case::{Case, TC, Way, each};
use crate::plan::{A, EGRESS_A, INSTANCE_INSIDE, POD, SERVER, STRANGER};
use crate::world::TABLE_ENTRIES;

const HOST: u8 = 1;
const PROHIBITED: u8 = 13;

/// What the sender of `packet` is told.
fn answer(packet: &[u8], code: u8) -> Vec<u8> {
    let pod = packet::Packet::new(packet).expect("a packet").source();
    let quote = &packet[..packet.len().min(548)];
    let mut answer = icmp(INSTANCE_INSIDE, pod, (3, code), [0; 4], quote);
    answer[1] = packet[1] & 0xfc;
    answer[6..8].fill(0);
    packet::with_header_checksum(answer)
}

fn set_rate(case: &mut Case<'_>, rate: u32) {
    case.world.maps.change_settings(|settings| settings.answers_per_s = rate).expect("settings");
}

/// One port, and a flow that has it.
fn exhaust(case: &mut Case<'_>) {
    set_rate(case, 1000);
    case.change_policy(A, |policy| (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000)));
    let first = question(b"first");
    assert_eq!(case.out(&first).port(), 50000);
}

fn question(data: &[u8]) -> Vec<u8> {
    udp((POD, 40000), (SERVER, 53), 64, data)
}

fn refused(data: &[u8]) -> Vec<u8> {
    udp((POD, 40001), (SERVER, 53), 64, data)
}

#[test]
fn rfc6888_req11_no_port_is_host_unreachable() {
    each(TC, |case| {
        exhaust(case);
        let before = case.world.answers();
        // Shorter than the answer's headers, of odd length, as long as the longest quote, and longer.
        for length in [0, 1, 7, 400, 519, 520, 521, 1400] {
            let packet = refused(&vec![0xa5; length]);
            case.out(&packet).is_answered(A, Outcome::PortsExhausted, &answer(&packet, HOST));
        }
        let after = case.world.answers();
        assert_eq!((after.sent - before.sent, after.suppressed - before.suppressed), (8, 0));
        assert_eq!(case.entries(), 2, "a refusal leaves nothing behind");
        // The flow that has the port goes on.
        assert_eq!(case.out(&question(b"again")).port(), 50000);
    });
}

#[test]
fn rfc5508_req10d_the_class_is_copied() {
    each(TC, |case| {
        exhaust(case);
        let mut packet = refused(b"expedited");
        packet[1] = 46 << 2 | 3;
        let packet = packet::with_header_checksum(packet);
        let told = answer(&packet, HOST);
        assert_eq!(told[1], 46 << 2, "and congestion marks are not");
        case.out(&packet).is_answered(A, Outcome::PortsExhausted, &told);
    });
}

#[test]
fn rfc5508_req8_the_code_is_a_setting() {
    each(TC, |case| {
        exhaust(case);
        let (packet, stranger) =
            (refused(b"question"), udp((STRANGER, 40000), (SERVER, 53), 64, b"let me in"));
        case.out(&stranger).is_answered(A, Outcome::SourceNotAllowed, &answer(&stranger, PROHIBITED));
        case.change_policy(A, |policy| policy.flags |= flag::REFUSE_PROHIBITED);
        case.out(&packet).is_answered(A, Outcome::PortsExhausted, &answer(&packet, PROHIBITED));
        case.out(&stranger).is_answered(A, Outcome::SourceNotAllowed, &answer(&stranger, PROHIBITED));
        case.change_policy(A, |policy| policy.flags |= flag::REFUSE_SILENTLY);
        case.out(&packet).ends_as(A, Outcome::PortsExhausted);
        case.out(&stranger).ends_as(A, Outcome::SourceNotAllowed);
    });
}

#[test]
fn rfc5508_req8_a_full_table_and_other_protocols() {
    each(TC, |case| {
        set_rate(case, 1000);
        for number in 0..TABLE_ENTRIES as u16 / 2 {
            case.out(&udp((POD, 30000 + number), (SERVER, 53), 64, b"question"));
        }
        let packet = refused(b"question");
        case.out(&packet).is_answered(A, Outcome::TableFull, &answer(&packet, HOST));
        let ping = echo_request(POD, SERVER, 7, 1);
        case.out(&ping).is_answered(A, Outcome::TableFull, &answer(&ping, HOST));
        let tunnel = ipv4(POD, SERVER, GRE, 64, &[0; 32]);
        case.out(&tunnel).is_answered(A, Outcome::ProtocolUnsupported, &answer(&tunnel, PROHIBITED));
    });
}

/// RFC 1812 section 4.3.2.7, and nobody outside.
#[test]
fn rfc1812_4_3_2_7_what_is_never_answered() {
    each(TC, |case| {
        exhaust(case);
        let before = case.world.answers();
        // The instance's own, and what claims an egress address or a vendor's.
        case.local(&udp((EGRESS_A, 40001), (SERVER, 53), 64, b"own")).ends_as(A, Outcome::PortsExhausted);
        case.local(&ipv4(EGRESS_A, SERVER, GRE, 64, &[0; 32])).ends_as(A, Outcome::ProtocolUnsupported);
        for source in [EGRESS_A, SERVER] {
            let packet = udp((source, 40000), (SERVER, 53), 64, b"spoofed");
            case.out(&packet).ends_as(A, Outcome::SourceNotAllowed);
        }
        let parts = packet::fragments(&packet::may_fragment(refused(&[1; 2000]), 77), 77, &[1000, 1028]);
        case.out(&parts[0]).is_answered(A, Outcome::PortsExhausted, &answer(&parts[0], HOST));
        assert!(case.out(&parts[1]).was_dropped());
        let error = icmp(POD, SERVER, (3, 3), [0; 4], &udp((SERVER, 53), (POD, 40001), 64, b"quoted"));
        case.out(&error).ends_as(A, Outcome::IcmpErrorNoFlow);
        if case.way.ethernet() {
            for first in [0, 127, 224, 240, 255] {
                let packet = udp((Ipv4Addr::new(first, 0, 0, 9), 40000), (SERVER, 53), 64, b"nobody");
                case.out(&packet).ends_as(A, Outcome::SourceNotAllowed);
            }
        }
        let after = case.world.answers();
        assert_eq!((after.sent - before.sent, after.suppressed - before.suppressed), (1, 0));
    });
}

#[test]
fn a_device_that_is_not_inside_or_has_no_address_gets_no_answer() {
    each(TC, |case| {
        exhaust(case);
        let inside = case.site().inside.0;
        let mut device = case.world.maps.devices.get(&inside, 0).expect("the inside device");
        device.address = vpnat_common::addr::Ip4::UNSPECIFIED;
        case.world.maps.devices.insert(inside, device, 0).expect("a device");
        case.out(&refused(b"question")).ends_as(A, Outcome::PortsExhausted);
        case.world.maps.devices.remove(&inside).expect("a device that is there");
        case.out(&ipv4(POD, SERVER, GRE, 64, &[0; 32])).ends_as(A, Outcome::ProtocolUnsupported);
    });
}

#[test]
fn rfc5508_req10f_answers_are_limited() {
    each(TC, |case| {
        exhaust(case);
        let rate = 5;
        set_rate(case, rate);
        for _ in 0..2 {
            case.wait(1);
            let before = case.world.answers();
            let answered = (0..20).filter(|_| !case.out(&refused(b"question")).was_dropped()).count() as u64;
            let after = case.world.answers();
            // The clock may have gone on meanwhile.
            assert!((5..=10).contains(&answered), "{answered} answers");
            assert_eq!(after.sent - before.sent, answered);
            assert_eq!(after.suppressed - before.suppressed, 20 - answered);
        }
        set_rate(case, 0);
        case.wait(1);
        let before = case.world.answers();
        case.out(&refused(b"question")).ends_as(A, Outcome::PortsExhausted);
        assert_eq!(case.world.answers(), before);
    });
}

/// The fast path changes nothing about what it leaves, and drops by itself when nobody would answer.
#[test]
fn the_fast_path_leaves_refusals_while_they_can_be_answered() {
    each(&[Way::Xdp, Way::XdpOneArm, Way::Redirect, Way::RedirectOneArm], |case| {
        exhaust(case);
        let left = ((A, Outcome::RoutedToGuarded), (A, Outcome::ToStackRefused));
        case.out(&refused(b"question")).ends(left.0, left.1);
        let stranger = udp((STRANGER, 40000), (SERVER, 53), 64, b"let me in");
        case.out(&stranger).ends(left.0, left.1);
        case.change_policy(A, |policy| policy.flags |= flag::REFUSE_SILENTLY);
        case.out(&refused(b"question")).ends_as(A, Outcome::PortsExhausted);
        case.change_policy(A, |policy| policy.flags = 0);
        set_rate(case, 0);
        case.out(&refused(b"question")).ends_as(A, Outcome::PortsExhausted);
        case.out(&stranger).ends_as(A, Outcome::SourceNotAllowed);
        assert_eq!(case.entries(), 2);
    });
}
