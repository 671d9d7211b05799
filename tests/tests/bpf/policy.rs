//! Who may talk to whom, and what happens to everybody else.

use aya::maps::lpm_trie::Key;
use tests::packet::{UDP, tcp, udp};
use vpnat_common::engine::STAMP_SECONDS;
use vpnat_common::layout::outcome::{Hook, Outcome};
use vpnat_common::layout::vendor::{SOURCE_KEY_VENDOR_BITS, SourceKey};

use crate::case::{ALL, Line, TC, each};
use crate::model;
use crate::plan::{
    A, ALLOWED, B, EGRESS_A, EGRESS_B, ELSEWHERE, EXEMPT_SERVER, NOBODY, POD, SERVER, SERVER_B, STRANGER,
};

#[test]
fn sources_that_no_vendor_admits_do_not_leave() {
    each(ALL, |case| {
        for source in [STRANGER, ELSEWHERE, EGRESS_A] {
            let packet = udp((source, 40000), (SERVER, 53), 64, b"question");
            case.out(&packet).ends_as(A, Outcome::SourceNotAllowed);
        }
        assert_eq!(case.entries(), 0);
    });
}

/// The instance's own packets: from an egress address they are a flow like any other, from any other address
/// they do not leave.
#[test]
fn the_instance_itself_speaks_from_the_egress_address_only() {
    each(TC, |case| {
        for source in [POD, STRANGER, ELSEWHERE, EGRESS_B] {
            let packet = udp((source, 40000), (SERVER, 53), 64, b"question");
            case.local(&packet).ends_as(A, Outcome::LocalSource);
        }
        assert_eq!(case.entries(), 0);
        let question = udp((EGRESS_A, 40000), (SERVER, 53), 64, b"question");
        case.local(&question).leaves_as(A, &question);
        let answer = udp((SERVER, 53), (EGRESS_A, 40000), 64, b"answer");
        case.back(&answer).arrives_as(A, &answer);
        let own = (EGRESS_A, 40000);
        case.pair(&Line { protocol: UDP, pod: own, remote: (SERVER, 53), public: own });
        // A pod with the same port gets another, and the instance's own socket keeps its answers.
        let rival = udp((POD, 40000), (SERVER, 53), 64, b"question");
        let seen = case.out(&rival);
        assert_ne!(seen.port(), 40000);
        seen.leaves_as(A, &model::source(&rival, (EGRESS_A, seen.port())));
    });
}

/// A packet with a pod's source that arrives from outside, flow or no flow.
#[test]
fn a_pods_source_from_outside_is_spoofed() {
    each(ALL, |case| {
        if case.site().one_arm() {
            return;
        }
        let packet = udp((POD, 40000), (SERVER, 53), 64, b"question");
        case.back(&packet).ends_as(A, Outcome::WrongSide);
        if !case.way.is_xdp() {
            let outside = case.site().outside.0;
            let program = case.way.program(crate::case::Course::Out);
            case.run(program, Hook::TcEgress, (outside, outside), &packet).ends_as(A, Outcome::WrongSide);
        }
        assert_eq!(case.entries(), 0);
        case.out(&packet).leaves_as(A, &model::source(&packet, (EGRESS_A, 40000)));
        case.back(&packet).ends_as(A, Outcome::WrongSide);
        // And an answer that comes from the pods' side.
        let answer = udp((SERVER, 53), (EGRESS_A, 40000), 64, b"answer");
        if case.way.is_xdp() {
            case.out(&answer).ends_as(A, Outcome::WrongSide);
        }
    });
}

#[test]
fn exempt_destinations_pass_untouched() {
    each(ALL, |case| {
        for source in [POD, STRANGER, ELSEWHERE] {
            case.out(&udp((source, 40000), (EXEMPT_SERVER, 53), 64, b"question")).ends_as(A, Outcome::Exempt);
        }
        let answer = udp((EXEMPT_SERVER, 53), (POD, 40000), 64, b"answer");
        case.back(&answer).ends_as(NOBODY, Outcome::NotOurs);
        let to_instance = udp((EXEMPT_SERVER, 53), (EGRESS_A, 40000), 64, b"not a vendor's packet");
        case.back(&to_instance).ends_as(NOBODY, Outcome::NotOurs);
        assert_eq!(case.entries(), 0);
    });
}

#[test]
fn everything_else_passes_untouched() {
    each(ALL, |case| {
        for (source, destination) in [(POD, ELSEWHERE), (STRANGER, ELSEWHERE), (EGRESS_A, ELSEWHERE)] {
            case.out(&udp((source, 9), (destination, 53), 64, b"")).ends_as(NOBODY, Outcome::NotOurs);
            case.back(&udp((destination, 53), (source, 9), 64, b"")).ends_as(NOBODY, Outcome::NotOurs);
        }
    });
}

/// Until the agent says that every map holds the configuration, no flow is made and nothing leaves.
#[test]
fn nothing_leaves_before_the_agent_is_ready() {
    each(ALL, |case| {
        let question = udp((POD, 40000), (SERVER, 53), 64, b"question");
        case.world.maps.change_settings(|settings| settings.ready = 0).expect("settings");
        case.out(&question).ends_as(A, Outcome::NotReady);
        case.world.maps.change_settings(|settings| settings.ready = 1).expect("settings");
        // A prefix whose vendor's slot is not filled.
        case.change_policy(A, |policy| policy.egress_count = 0);
        case.out(&question).ends_as(A, Outcome::NotReady);
        assert_eq!(case.entries(), 0);
    });
}

/// A vendor's flows are its own: the same pod and port, two egress addresses.
#[test]
fn each_vendor_sees_its_own_egress_address() {
    each(ALL, |case| {
        for (server, egress, vendor) in [(SERVER, EGRESS_A, A), (SERVER_B, EGRESS_B, B)] {
            let question = udp((POD, 40000), (server, 53), 64, b"question");
            case.out(&question).leaves_as(vendor, &model::source(&question, (egress, 40000)));
            // The other vendor's server cannot answer in its place.
            let other = if vendor == A { SERVER_B } else { SERVER };
            let intruder = tcp((other, 53), (egress, 40000), 16, (1, 1), b"");
            case.back(&intruder).ends_as(if vendor == A { B } else { A }, Outcome::Unsolicited);
        }
    });
}

/// A vendor that addresses a pod itself was not asked to: only a flow lets its packets in.
#[test]
fn a_vendor_does_not_reach_a_pod_by_the_pods_own_address() {
    each(ALL, |case| {
        let packet = udp((SERVER, 53), (POD, 40000), 64, b"surprise");
        case.back(&packet).ends_as(A, Outcome::Unsolicited);
        assert_eq!(case.entries(), 0);
    });
}

/// Where packets between two addresses go is remembered for a moment; a change of the configuration ends that.
#[test]
fn a_source_that_is_no_longer_allowed_opens_nothing_more() {
    each(ALL, |case| {
        let question = |port| udp((POD, port), (SERVER, 53), 64, b"question");
        for port in [40000, 40001] {
            case.out(&question(port)).leaves_as(A, &model::source(&question(port), (EGRESS_A, port)));
        }
        let allowed = Key::new(SOURCE_KEY_VENDOR_BITS + ALLOWED.1, SourceKey::new(A, ALLOWED.0.into()));
        case.world.maps.sources.remove(&allowed).expect("the admitted source");
        case.world.maps.raise_route_generation().expect("the route generation");
        case.out(&question(40002)).ends_as(A, Outcome::SourceNotAllowed);
        assert_eq!(case.entries(), 4);
    });
}

/// An egress address that the configuration takes away is a wrong source from then on, also for flows that had
/// it; they go on with the one that the vendor has now.
#[test]
fn a_flow_does_not_outlive_its_egress_address() {
    each(ALL, |case| {
        let question = udp((POD, 40000), (SERVER, 53), 64, b"question");
        case.out(&question).leaves_as(A, &model::source(&question, (EGRESS_A, 40000)));
        case.move_egress(A, EGRESS_B);
        case.wait(STAMP_SECONDS);
        case.out(&question).leaves_as(A, &model::source(&question, (EGRESS_B, 40000)));
        // While the list is being rewritten it may name nobody: then nothing leaves.
        case.change_policy(A, |policy| policy.egress[0] = vpnat_common::addr::Ip4::UNSPECIFIED);
        case.wait(STAMP_SECONDS);
        assert!(case.out(&question).was_dropped());
        let other = udp((POD, 40001), (SERVER, 53), 64, b"question");
        case.out(&other).ends_as(A, Outcome::NotReady);
    });
}
