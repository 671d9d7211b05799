//! Where packets to a vendor are routed: through devices that translate, or nowhere.

use tests::packet::udp;
use vpnat_common::layout::device::{Device, role};
use vpnat_common::layout::outcome::{Hook, Outcome};

use crate::case::{Case, TC, XDP, each};
use crate::model;
use crate::plan::{A, EGRESS_A, ELSEWHERE, EXEMPT_SERVER, End, NOBODY, OUTSIDE_SLOT, POD, SERVER, STRANGER};
use crate::seen::Seen;

const SERVER_END: End = (SERVER, 53);

fn question(to: std::net::Ipv4Addr) -> Vec<u8> {
    udp((POD, 40000), (to, 53), 64, b"question")
}

/// Sends a pod's packet by TC ingress of the inside device.
fn enters(case: &mut Case<'_>, packet: &[u8]) -> Seen {
    let program = match (case.way.ethernet(), case.site().one_arm()) {
        (true, false) => "ingress_inside_l2",
        (true, true) => "ingress_both_l2",
        (false, false) => "ingress_inside_l3",
        (false, true) => "ingress_both_l3",
    };
    let inside = case.site().inside.0;
    case.run(program, Hook::TcIngress, (inside, inside), packet)
}

fn set_roles(case: &mut Case<'_>, roles: u8) {
    let outside = case.site().outside.0;
    let device = Device { roles, xdp_slot: OUTSIDE_SLOT, ..Device::default() };
    case.world.maps.devices.insert(outside, device, 0).expect("a device");
}

/// A tunnel that has just come back, without its egress hook, is closed to packets for a vendor.
#[test]
fn pods_packets_go_on_only_towards_a_guarded_device() {
    each(TC, |case| {
        enters(case, &question(SERVER)).ends_as(A, Outcome::RoutedToGuarded);
        enters(case, &question(EXEMPT_SERVER)).ends_as(A, Outcome::Exempt);
        enters(case, &question(ELSEWHERE)).ends_as(NOBODY, Outcome::NotOurs);
        // Whether the source is admitted is egress's to say.
        let packet = udp((STRANGER, 9), SERVER_END, 64, b"");
        enters(case, &packet).ends_as(A, Outcome::RoutedToGuarded);
        let inside = if case.site().one_arm() { role::INSIDE } else { 0 };
        for roles in [0, role::OUTSIDE, role::GUARDED] {
            set_roles(case, roles | inside);
            enters(case, &question(SERVER)).ends_as(A, Outcome::Unguarded);
            enters(case, &question(ELSEWHERE)).ends_as(NOBODY, Outcome::NotOurs);
        }
        let outside = case.site().outside.0;
        case.world.maps.devices.remove(&outside).expect("the device");
        enters(case, &question(SERVER)).ends_as(A, Outcome::Unguarded);
        assert_eq!(case.entries(), 0);
    });
}

/// XDP sends nothing through a device that is not guarded, nor through one without slot; the stack and the TC
/// hooks have the packet as it came.
#[test]
fn xdp_sends_through_guarded_devices_only() {
    each(XDP, |case| {
        let inside = if case.site().one_arm() { role::INSIDE } else { 0 };
        for roles in [0, role::OUTSIDE, role::GUARDED] {
            set_roles(case, roles | inside);
            case.out(&question(SERVER)).ends_as(A, Outcome::ToStackRoute);
        }
        assert_eq!(case.entries(), 0);
        set_roles(case, role::OUTSIDE | role::GUARDED | inside);
        case.out(&question(SERVER)).leaves_as(A, &model::source(&question(SERVER), (EGRESS_A, 40000)));
        // Its routes have changed: the next hop that the flow keeps ends at once.
        set_roles(case, inside);
        case.world.maps.raise_route_generation().expect("the route generation");
        case.out(&question(SERVER)).ends((A, Outcome::ToStackRoute), (NOBODY, Outcome::ToStackRoute));
    });
}

/// What the device does not take whole goes to the stack, which answers the pod with the pod's own packet.
#[test]
fn xdp_leaves_large_packets_to_the_stack() {
    each(XDP, |case| {
        let large = udp((POD, 40000), SERVER_END, 64, &[0; 1473]);
        case.out(&large).ends_as(A, Outcome::ToStackMtu);
        assert_eq!(case.entries(), 0);
        case.out(&question(SERVER)).leaves_as(A, &model::source(&question(SERVER), (EGRESS_A, 40000)));
        case.out(&large).ends_as(A, Outcome::ToStackMtu);
        let largest = udp((POD, 40000), SERVER_END, 64, &[0; 1472]);
        case.out(&largest).leaves_as(A, &model::source(&largest, (EGRESS_A, 40000)));
    });
}

/// Every device that plays no part: nothing to a vendor leaves there, in whatever shape.
#[test]
fn the_guard_lets_nothing_to_a_vendor_out() {
    each(TC, |case| {
        let program = if case.way.ethernet() { "egress_guard_l2" } else { "egress_guard_l3" };
        let (other, inside) = (case.site().other, case.site().inside.0);
        let mut malformed = question(SERVER);
        malformed[0] = 0x4f;
        let fragment = model::fragments(&question(SERVER), 1, &[8]).remove(1);
        for ingress in [0, inside] {
            let mut guard = |packet: &[u8]| case.run(program, Hook::TcGuard, (other, ingress), packet);
            for packet in [&question(SERVER), &malformed, &fragment] {
                guard(packet).ends_as(A, Outcome::Unguarded);
            }
            guard(&udp((EGRESS_A, 9), SERVER_END, 64, b"")).ends_as(A, Outcome::Unguarded);
            guard(&question(EXEMPT_SERVER)).ends_as(A, Outcome::Exempt);
            guard(&question(ELSEWHERE)).ends_as(NOBODY, Outcome::NotOurs);
        }
    });
}
