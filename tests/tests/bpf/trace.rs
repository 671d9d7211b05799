//! The traced programs: every one loads, decides as the program that it is a form of, and tells of it.

use tests::packet::{self, GRE, UDP, tcp, udp};
use vpnat_agent::trace::event::Decided;
use vpnat_common::addr::{Ip4, Port};
use vpnat_common::layout::clock::Moment;
use vpnat_common::layout::flow::FlowKey;
use vpnat_common::layout::outcome::{Hook, Outcome};
use vpnat_common::layout::trace::{TraceEnd, TraceFilter};

use crate::case::{Case, EVERY, Way};
use crate::model;
use crate::plan::{A, EGRESS_A, ELSEWHERE, End, NOBODY, POD, POD_2, SERVER, STRANGER};
use crate::world::{Tracer, World, key};

/// What the verifier looks at before it gives up, 6.1 and later (`BPF_COMPLEXITY_LIMIT_INSNS`).
const VERIFIER_LIMIT: u32 = 1_000_000;

/// Far enough for a test, in the datapath's seconds.
const LONG: u32 = 3600;

fn everything(now: u32) -> TraceFilter {
    TraceFilter {
        outcomes: u64::MAX,
        until: Moment::new(now.wrapping_add(LONG)),
        per_second: 50_000,
        hooks: u8::MAX,
        session: 7,
        ..TraceFilter::default()
    }
}

fn each(
    world: &mut World,
    ways: &[Way],
    tracer: &mut Tracer,
    scenario: impl Fn(&mut Case<'_>, &mut Tracer) + Sync,
) {
    for way in ways {
        let site = if way.one_arm() { &world.one_arm } else { &world.two_arms };
        let namespace = site.namespace.clone();
        let mut case = Case { world: &mut *world, way: *way };
        let tracer = &mut *tracer;
        namespace.enter(|| {
            case.restart();
            let filter = everything(case.world.now());
            tracer.wants(filter);
            tracer.told();
            scenario(&mut case, tracer);
        });
    }
}

#[track_caller]
fn one(tracer: &mut Tracer) -> Decided {
    match tracer.told()[..] {
        [decided] => decided,
        ref others => panic!("not one event: {others:?}"),
    }
}

#[track_caller]
fn tells(tracer: &mut Tracer, hook: Hook, (vendor, outcome): (u8, Outcome), [before, after]: [FlowKey; 2]) {
    let told = one(tracer);
    assert_eq!((told.hook, told.vendor, told.outcome), (hook, vendor, outcome));
    assert_eq!((told.raw.before, told.raw.after), (before, after));
    assert_eq!(told.raw.session, 7);
}

#[test]
fn decisions_are_told_as_they_are_made() {
    let mut world = World::load_alone();
    let (mut tracer, most) = world.trace(everything(0));
    println!("{most} instructions verified at most");
    assert!(most < VERIFIER_LIMIT / 2, "{most}");
    every_decision(&mut world, &mut tracer);
    filters(&mut world, &mut tracer);
    bounds(&mut world, &mut tracer);
}

fn every_decision(world: &mut World, tracer: &mut Tracer) {
    each(world, EVERY, tracer, |case, tracer| {
        let (pod, server, public) = ((POD, 40000), (SERVER, 53), (EGRESS_A, 40000));
        let (out, back) = (case.way.hook(crate::case::Course::Out), case.way.hook(crate::case::Course::Back));
        let question = udp(pod, server, 64, b"question");
        case.out(&question).leaves_as(A, &model::source(&question, public));
        tells(tracer, out, (A, Outcome::Outbound), [key(UDP, pod, server), key(UDP, public, server)]);
        let answer = udp(server, public, 64, b"answer");
        case.back(&answer).arrives_as(A, &model::destination(&answer, pod));
        tells(tracer, back, (A, Outcome::Inbound), [key(UDP, server, public), key(UDP, server, pod)]);

        // What nobody asked for is as it was.
        let unsolicited: End = (EGRESS_A, 50000);
        let seen = case.back(&udp(server, unsolicited, 64, b"hello"));
        tells(tracer, back, (A, seen.ended()), [key(UDP, server, unsolicited); 2]);
        // A refusal: its answer is not what is told of.
        let stranger = (STRANGER, 40000);
        let seen = case.out(&udp(stranger, server, 64, b"let me in"));
        tells(tracer, out, (A, seen.ended()), [key(UDP, stranger, server); 2]);
        // Nobody's.
        let elsewhere = (ELSEWHERE, 443);
        case.out(&tcp(pod, elsewhere, 2, (1, 0), b"")).ends_as(NOBODY, Outcome::NotOurs);
        tells(tracer, out, (NOBODY, Outcome::NotOurs), [key(6, pod, elsewhere); 2]);
        // What has no ports.
        let gre = packet::ipv4(POD, SERVER, GRE, 64, &[0; 32]);
        let ended = case.out(&gre).ended();
        // The fast path does not ask whose it is.
        let whose = if ended == Outcome::ToStackShape { NOBODY } else { A };
        let told = one(tracer);
        assert_eq!((told.hook, told.outcome, told.raw.before), (out, ended, key(GRE, (POD, 0), (SERVER, 0))));
        assert!(told.vendor == whose || told.outcome == Outcome::RoutedToGuarded, "{told:?}");
        assert_eq!(tracer.missed(), (0, 0));
    });
}

fn end((address, port): End) -> TraceEnd {
    TraceEnd { address: address.into(), mask: Ip4 { octets: [255; 4] }, port: Port::new(port), _pad: 0 }
}

/// What the programs look for is what the filter says; the host's tests have every combination.
fn filters(world: &mut World, tracer: &mut Tracer) {
    each(world, &[Way::Xdp, Way::TcEthernet, Way::TcTunnel], tracer, |case, tracer| {
        let (pod, server, public) = ((POD, 40000), (SERVER, 53), (EGRESS_A, 40000));
        let all = everything(case.world.now());
        let mut both_ways = |filter: TraceFilter| {
            tracer.wants(filter);
            case.out(&udp(pod, server, 64, b"question"));
            case.back(&udp(server, public, 64, b"answer"));
            case.out(&udp((POD_2, 40001), server, 64, b"question"));
            case.out(&udp((STRANGER, 40000), server, 64, b"let me in"));
            tracer.told().len()
        };
        assert_eq!(both_ways(all), 4);
        assert_eq!(both_ways(TraceFilter { from: end((POD, 0)), ..all }), 1);
        assert_eq!(both_ways(TraceFilter { to: end(pod), ..all }), 1);
        assert_eq!(both_ways(TraceFilter { host: end((POD, 0)), ..all }), 2);
        assert_eq!(both_ways(TraceFilter { from: end((EGRESS_A, 0)), ..all }), 2);
        assert_eq!(both_ways(TraceFilter { to: end((SERVER, 443)), ..all }), 0);
        assert_eq!(both_ways(TraceFilter { outcomes: 1 << Outcome::Inbound as u32, ..all }), 1);
        assert_eq!(both_ways(TraceFilter { vendor: A + 1, ..all }), 0);
        assert_eq!(both_ways(TraceFilter { protocol: 6, ..all }), 0);
        assert_eq!(both_ways(TraceFilter { hooks: 1 << Hook::TcGuard as u32, ..all }), 0);
    });
}

/// The limit holds, what is above it is counted, and a tracer whose time is up is told nothing.
fn bounds(world: &mut World, tracer: &mut Tracer) {
    each(world, &[Way::Xdp, Way::TcEthernet], tracer, |case, tracer| {
        const LIMIT: usize = 10;
        let question = udp((POD, 40000), (SERVER, 53), 64, b"question");
        let all = everything(case.world.now());
        tracer.wants(TraceFilter { per_second: LIMIT as u32, ..all });
        // A second in which nothing was told yet: each way begins at the same moment of the clock.
        case.wait(if case.way.is_xdp() { 10 } else { 20 });
        let (suppressed, began) = (tracer.missed().0, case.world.now());
        const SENT: usize = 100;
        for _ in 0..SENT {
            case.out(&question);
        }
        let seconds = (case.world.now() - began) as usize + 1;
        let told = tracer.told().len();
        assert!((1..=LIMIT * seconds).contains(&told), "{told} in {seconds} s, {:?}", tracer.missed());
        assert_eq!(tracer.missed().0 - suppressed, (SENT - told) as u64);
        case.wait(LONG + 2);
        case.out(&question);
        assert!(tracer.told().is_empty());
        assert_eq!(tracer.missed().0 - suppressed, (SENT - told) as u64);
    });
}
