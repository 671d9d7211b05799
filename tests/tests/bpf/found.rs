//! What was found by fuzzing and by trying to get past the guards: a row for each.

use std::net::Ipv4Addr;

use tests::packet::{TCP, UDP, tcp, udp};
use vpnat_common::addr::Ip4;
use vpnat_common::layout::outcome::{Hook, Outcome};
use vpnat_common::layout::vendor::EgressAddress;

use crate::case::{EVERY, Line, TC, Way, counter, each};
use crate::model::icmp_error;
use crate::plan::{A, EGRESS_A, EGRESS_B, ELSEWHERE, POD, POD_2, SERVER};
use crate::world::tc_context;

/// The mark of redirected packets in these tests.
const MARK: u32 = 0x7670_6e61;
/// Offset of the mark in the kernel's `struct __sk_buff`.
const SKB_MARK: usize = 8;

/// The instance's own packets can bear any mark. Those with the mark of redirected packets must not be taken for
/// translated ones: another vendor's egress address is as wrong a source as a pod's.
#[test]
fn the_redirect_mark_vouches_for_no_packet_of_the_instance() {
    each(&[Way::Redirect, Way::RedirectOneArm], |case| {
        for source in [EGRESS_B, POD] {
            for (protocol, packet) in [
                (TCP, tcp((source, 40000), (SERVER, 443), 2, (1, 0), b"")),
                (UDP, udp((source, 40000), (SERVER, 53), 64, b"question")),
            ] {
                let outside = case.site().outside;
                let frame = [&outside.1[..], &[2, 0, 0, 0, 0, 9], &[8, 0], &packet].concat();
                let mut context = tc_context(outside.0, 0);
                context[SKB_MARK..SKB_MARK + 4].copy_from_slice(&MARK.to_ne_bytes());
                let (verdict, output) = case.world.run("egress_outside_l2", &frame, &context);
                assert_eq!((verdict, &output), (2, &frame), "protocol {protocol} from {source}");
            }
        }
        let counted = case.world.counts();
        let count =
            counted.get(&counter(A, Hook::TcEgress, Outcome::LocalSource)).map_or(0, |count| count.packets);
        assert!(count >= 4, "{counted:?}");
        assert_eq!(case.entries(), 0);
    });
}

/// One of the two maps that name egress addresses is spoiled: the instance speaks to a vendor from the address that the other
/// one names, too, or not at all, and what is stacked on a device cannot vouch for more.
#[test]
fn one_map_alone_makes_no_egress_address() {
    each(&[Way::TcEthernet], |case| {
        let everybody = EgressAddress { vendors: u64::MAX };
        case.world.maps.egress.insert(Ip4::from(EGRESS_B), everybody, 0).expect("a spoiled egress address");
        for source in [EGRESS_B, POD] {
            let packet = udp((source, 40000), (SERVER, 53), 64, b"question");
            let outside = case.site().outside;
            let frame = [&outside.1[..], &[2, 0, 0, 0, 0, 9], &[8, 0], &packet].concat();
            for program in ["egress_outside_l2", "egress_carrier_l2"] {
                let (verdict, output) = case.world.run(program, &frame, &tc_context(outside.0, 0));
                assert_eq!((verdict, &output), (2, &frame), "{program}: from {source}");
            }
        }
        assert_eq!(case.entries(), 0);
        let own = udp((EGRESS_A, 40000), (SERVER, 53), 64, b"question");
        case.change_policy(A, |policy| policy.egress[0] = EGRESS_B.into());
        case.local(&own).ends_as(A, Outcome::LocalSource);
    });
}

/// What the next host takes for IPv4 is judged as IPv4, whatever the kernel calls it: behind VLAN tags, and on devices without
/// Ethernet header, whose packets bear no protocol of their own.
#[test]
fn no_packet_to_a_vendor_leaves_in_disguise() {
    const VLAN: [u8; 2] = [0x81, 0];
    let foreign = Ipv4Addr::new(10, 0, 2, 7);
    each(&[Way::TcEthernet], |case| {
        let to_vendor = udp((POD, 40000), (SERVER, 53), 64, b"question");
        let elsewhere = udp((POD, 40000), (ELSEWHERE, 53), 64, b"question");
        let (outside, inside, other) = (case.site().outside, case.site().inside.0, case.site().other);
        let tag = |control: u8| [&VLAN[..], &[control, 0]].concat();
        let ipv4 = [8, 0];
        for (tags, packet, verdict) in [
            (vec![tag(0)], &to_vendor, 2),
            (vec![tag(5)], &to_vendor, 2),
            (vec![tag(0), tag(0)], &to_vendor, 2),
            (vec![tag(0), tag(0), tag(0)], &to_vendor, 2),
            (vec![tag(0)], &elsewhere, u32::MAX),
            (vec![tag(5), tag(0)], &elsewhere, u32::MAX),
        ] {
            let header = [&outside.1[..], &[2, 0, 0, 0, 0, 9]].concat();
            let frame = [&header[..], &tags.concat(), &ipv4, packet].concat();
            for (program, ifindex) in [("egress_outside_l2", outside.0), ("egress_guard_l2", other)] {
                for came_by in [0, inside] {
                    let (returned, output) = case.world.run(program, &frame, &tc_context(ifindex, came_by));
                    assert_eq!((returned, &output), (verdict, &frame), "{program}, {} tag(s)", tags.len());
                }
            }
        }
        // A test run calls IPv4 only what starts with 8.0 here.
        let packet = udp((foreign, 40000), (SERVER, 53), 64, b"question");
        for program in ["egress_outside_l3", "egress_guard_l3"] {
            let (returned, output) = case.world.run(program, &packet, &tc_context(outside.0, 0));
            assert_eq!((returned, &output), (2, &packet), "{program}");
        }
        assert_eq!(case.entries(), 0);
    });
}

/// The kernel's IPsec leaves the Ethernet header of the device below in front of what it has decrypted: replies are restored
/// behind it, and what nobody asked for is dropped, whatever the header looks like.
#[test]
fn a_tunnels_packet_behind_the_header_of_the_device_below() {
    each(&[Way::TcTunnel, Way::TcTunnelOneArm], |case| {
        let one_arm = case.way == Way::TcTunnelOneArm;
        let program = if one_arm { "ingress_both_xfrm" } else { "ingress_outside_xfrm" };
        let outside = case.site().outside.0;
        let line = Line { protocol: UDP, pod: (POD, 40000), remote: (SERVER, 53), public: (EGRESS_A, 40000) };
        case.out(&udp(line.pod, line.remote, 64, b"question"));
        case.pair(&line);
        // The second reads as an IP header of a packet of 40 bytes.
        for to in [[2, 0, 0, 0, 0, 9], [0x45, 0, 0, 40, 0, 9]] {
            let framed = |packet: &[u8]| [&to[..], &[2, 0, 0, 0, 0, 1], &[8, 0], packet].concat();
            for answer in [&b"answer"[..], &[7; 1300]] {
                let reply = framed(&udp(line.remote, line.public, 60, answer));
                let (verdict, output) = case.world.run(program, &reply, &tc_context(outside, outside));
                assert_eq!((verdict, output), (u32::MAX, framed(&udp(line.remote, line.pod, 60, answer))));
            }
            for (to, text) in [((EGRESS_A, 40001), &b"unasked"[..]), ((POD, 40001), b"to a pod")] {
                let packet = framed(&udp((SERVER, 53), to, 60, text));
                let (verdict, output) = case.world.run(program, &packet, &tc_context(outside, outside));
                assert_eq!((verdict, output), (2, packet));
            }
        }
    });
}

/// On a device that outside VLAN devices are stacked on, one on the other, the inner tag lies in the frame: what was translated
/// passes, and nothing else does.
#[test]
fn a_carrier_sees_through_the_tags_of_stacked_devices() {
    each(&[Way::TcEthernet], |case| {
        let (outside, other) = (case.site().outside, case.site().other);
        let header = [&outside.1[..], &[2, 0, 0, 0, 0, 9], &[0x81, 0, 0, 5, 8, 0]].concat();
        for (source, verdict) in [(EGRESS_A, u32::MAX), (EGRESS_B, 2), (POD, 2)] {
            let frame = [&header[..], &udp((source, 40000), (SERVER, 53), 64, b"question")].concat();
            let (returned, output) = case.world.run("egress_carrier_l2", &frame, &tc_context(other, 0));
            assert_eq!((returned, &output), (verdict, &frame), "from {source}");
        }
    });
}

/// An error about a query of the vendor's, which no pod can have got: with identifier 0 it has the key of the pod's own query with
/// that identifier, and was translated as if it were about the answer.
#[test]
fn a_query_of_the_vendors_is_not_taken_for_an_answer() {
    each(TC, |case| {
        for (query, reply) in [(8, 0), (13, 14)] {
            let packet = |from, to, kind, [high, low]: [u8; 2]| {
                tests::packet::icmp(from, to, (kind, 0), [high, low, 0, 1], &[0; 12])
            };
            let error = |from, quote: &[u8]| icmp_error((from, SERVER), (3, 3), [0; 4], quote, &[]);
            let public = case.out(&packet(POD, SERVER, query, [0, 0])).port().to_be_bytes();
            case.out(&error(POD, &packet(SERVER, POD, query, [0, 0]))).ends_as(A, Outcome::IcmpErrorBad);
            let told = error(EGRESS_A, &packet(SERVER, EGRESS_A, reply, public));
            case.out(&error(POD, &packet(SERVER, POD, reply, [0, 0]))).leaves_as(A, &told);
        }
    });
}

/// A pod's reply that nobody asked for, with identifier 0, has the key of its own query with that identifier. What leaves bears the
/// flow's identifier and the egress address, and a vendor's query is no answer to either.
#[test]
fn a_reply_with_identifier_0_shows_no_pod() {
    each(EVERY, |case| {
        for (query, reply) in [(8, 0), (13, 14)] {
            let packet = |from, to, kind, [high, low]: [u8; 2]| {
                tests::packet::icmp(from, to, (kind, 0), [high, low, 0, 1], &[0; 12])
            };
            let stray = case.out(&packet(POD_2, SERVER, reply, [0, 0]));
            assert!(stray.was_dropped(), "{:?}", stray.ended());
            let public = case.out(&packet(POD, SERVER, query, [0, 0])).port().to_be_bytes();
            let entries = case.entries();
            case.out(&packet(POD, SERVER, reply, [0, 0]))
                .leaves_as(A, &packet(EGRESS_A, SERVER, reply, public));
            for id in [[0, 0], public] {
                let asked = case.back(&packet(SERVER, EGRESS_A, query, id));
                assert!(asked.was_dropped(), "{:?}", asked.ended());
            }
            assert_eq!(case.entries(), entries);
        }
    });
}
