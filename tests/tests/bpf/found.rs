//! What was found by fuzzing and by trying to get past the guards: a row for each.

use tests::packet::{TCP, tcp, udp};
use vpnat_common::layout::outcome::{Hook, Outcome};

use crate::case::{Way, counter, each};
use crate::plan::{A, EGRESS_B, POD, SERVER};
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
                (tests::packet::UDP, udp((source, 40000), (SERVER, 53), 64, b"question")),
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
