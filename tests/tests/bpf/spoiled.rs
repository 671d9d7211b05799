//! Each entry of each map taken away or overwritten, one at a time, under packets: what is lost may cost a connection, but no
//! packet leaves with a wrong source.
//!
//! Every map that a program uses is tried, found by asking the kernel. What has nothing to stand in for it is listed.

use std::collections::BTreeMap;
use std::ops::Range;

use tests::packet::{Packet, TCP, UDP, tcp, udp};
use vpnat_common::addr::Port;
use vpnat_common::layout::names;
use vpnat_common::layout::outcome::Hook;

use crate::case::{Case, Course, ETHERNET, Way, each};
use crate::fuzz::random::Random;
use crate::model;
use crate::plan::{A, EGRESS_A, EGRESS_B, End, POD, POD_2, SERVER, STRANGER};
use crate::raw_map::RawMap;
use crate::world::{tc_context, xdp_context};

const ESTABLISHED: End = (POD, 40000);
const REMOTE: End = (SERVER, 53);

/// Bytes of values that nothing else vouches for.
const TRUSTED: &[(&str, Range<usize>)] = &[
    // Whose network a prefix is.
    (names::VENDOR_PREFIXES, 0..2),
];

/// What has no entries to try: programs only write it.
const UNTRIED: &[&str] = &[names::EVENTS];

/// Maps that are used by whoever finds no port: these are tried with one port towards each endpoint.
const WITHOUT_PORTS: &[&str] = &[names::EXHAUSTED];

/// Keys that are tried of a map which may be empty: the hints for the flows of [`begin`].
fn hints(map: &RawMap) -> Vec<Vec<u8>> {
    let (server, egress) = (SERVER.octets(), EGRESS_A.octets());
    match map.name.as_str() {
        names::PORT_POOLS => vec![[&server[..], &egress, &53u16.to_ne_bytes(), &[UDP, 0]].concat()],
        names::WORKING_SETS => {
            vec![[&POD_2.octets()[..], &server, &egress, &443u16.to_ne_bytes(), &[0, 0]].concat()]
        }
        _ => Vec::new(),
    }
}

/// Maps whose entries nothing stands in for if they are gone.
const NEEDED: &[&str] = &[names::VENDOR_PREFIXES];

/// Entries that are tried of a map that has more.
const ENTRIES: usize = 4;

/// Bytes of a value that are tried one by one if it has more.
const BYTES: usize = 88;

/// One in so many is tried, at random, on a slow machine; of each map what the kernel takes first, whatever the dice say.
const SHARE: usize = 8;

/// Every map of every program, by name.
fn maps(case: &Case<'_>) -> BTreeMap<String, RawMap> {
    let maps = case.world.map_ids().into_iter().filter_map(RawMap::open);
    maps.map(|map| (map.name.clone(), map)).collect()
}

/// What is tried in place of a value: each byte by itself, then all.
fn spoilt(map: &RawMap, value: &[u8], random: &mut Random) -> Vec<(String, Vec<u8>)> {
    let trusted = |at: &usize| TRUSTED.iter().any(|(name, bytes)| *name == map.name && bytes.contains(at));
    let places: Vec<usize> = if value.len() <= BYTES {
        (0..value.len()).collect()
    } else {
        (0..BYTES).map(|_| random.below(value.len())).collect()
    };
    let mut all = Vec::new();
    for at in places.into_iter().filter(|at| !trusted(at)) {
        for new in [value[at] ^ 1, !value[at], random.byte()] {
            let mut other = value.to_vec();
            other[at] = new;
            all.push((format!("byte {at} is {new:#04x}"), other));
        }
    }
    for (what, byte) in [("zeros", Some(0)), ("ones", Some(0xff)), ("noise", None)] {
        let mut other: Vec<u8> = value.iter().map(|_| byte.unwrap_or_else(|| random.byte())).collect();
        for at in (0..value.len()).filter(trusted) {
            other[at] = value[at];
        }
        all.push((format!("all {what}"), other));
    }
    all.retain(|(_, other)| other != value);
    all
}

/// Packets of all who send, of flows that there are and of others.
fn packets() -> Vec<Vec<u8>> {
    let mut packets =
        vec![udp(ESTABLISHED, REMOTE, 64, b"question"), udp((EGRESS_A, 40000), REMOTE, 64, b"own")];
    packets.extend(model::fragments(&udp(ESTABLISHED, REMOTE, 64, &[7; 64]), 5, &[24]));
    for (number, source) in [POD, POD_2, STRANGER, EGRESS_B].into_iter().enumerate() {
        let from = (source, 41000 + number as u16);
        packets.push(udp(from, REMOTE, 64, b"another"));
        packets.push(tcp(from, (SERVER, 443), 2, (1, 0), b""));
        packets.push(tcp(from, (SERVER, 443), 16, (2, 1), b"data"));
    }
    packets
}

/// Runs a packet; panics if it goes on towards the vendor from anybody but its egress address.
fn from_nobody_else(case: &mut Case<'_>, packet: &[u8], local: bool, what: &str) {
    let (program, hook) = if local {
        (Way::TcEthernet.program(Course::Out), Hook::TcEgress)
    } else {
        (case.way.program(Course::Out), case.way.hook(Course::Out))
    };
    let (inside, outside) = (case.site().inside.0, case.site().outside.0);
    let (device, came_by) = match hook {
        Hook::TcEgress => (outside, if local { 0 } else { inside }),
        _ => (inside, inside),
    };
    let input = case.frame(device, packet);
    let context =
        if hook == Hook::Xdp { xdp_context(device, input.len()) } else { tc_context(device, came_by) };
    let (returned, output) = case.world.run(program, &input, &context);
    let sent = match hook {
        Hook::TcEgress => returned as i32 == -1,
        Hook::Xdp => returned == 4,
        _ => returned == 7,
    };
    // What is left of a dropped packet is of no interest: it may be half an answer.
    if returned == if hook == Hook::Xdp { 1 } else { 2 } {
        return;
    }
    let link = if case.way.ethernet() { ETHERNET } else { 0 };
    // An answer has room for the Ethernet header of the device that it goes back by.
    let ip = Packet::new(&output[link..]).or_else(|| Packet::new(&output[ETHERNET..]));
    let ip = ip
        .unwrap_or_else(|| panic!("{what}: {program} in {:?} returned {returned}: {output:02x?}", case.way));
    assert!(
        !sent || ip.source() == EGRESS_A,
        "{what}: {program} in {:?} (the instance's own: {local}) lets out {ip:?}",
        case.way
    );
    // A refusal that is answered goes back to whom it came from.
    let sender = Packet::new(packet).expect("a packet").source();
    let answered = hook == Hook::TcEgress && returned == 7 && ip.destination() == sender && sender != SERVER;
    // What XDP and TC ingress leave to the stack is as it was: TC egress has its say.
    assert!(
        sent || answered || output == input,
        "{what}: {program} in {:?} changed what it passed",
        case.way
    );
}

fn try_all(case: &mut Case<'_>, what: &str) {
    for packet in packets() {
        assert!([TCP, UDP].contains(&packet[9]));
        from_nobody_else(case, &packet, false, what);
        if case.way == Way::TcEthernet {
            from_nobody_else(case, &packet, true, what);
        }
    }
}

/// Begins anew, with flows of sources that have accounts, and either with ports for more or without.
fn begin(case: &mut Case<'_>, ports: bool) {
    case.restart();
    case.change_policy(A, |policy| {
        (policy.max_flows_per_source, policy.new_flows_per_source) = (1000, 1000);
        if !ports {
            (policy.port_min, policy.port_max) = (Port::new(50000), Port::new(50000));
        }
    });
    // Without a reader for events nobody is told of a port that there is not.
    case.world.maps.change_settings(|settings| settings.events = 1).expect("the switch");
    for packet in
        [udp(ESTABLISHED, REMOTE, 64, b"question"), tcp((POD_2, 40000), (SERVER, 443), 2, (1, 0), b"")]
    {
        from_nobody_else(case, &packet, false, "before");
    }
    // Decides for the fragments of its datagram, where they are not left to the stack.
    let first = &model::fragments(&udp(ESTABLISHED, REMOTE, 64, &[7; 64]), 5, &[24])[0];
    from_nobody_else(case, first, false, "before");
    assert_eq!(case.entries(), 4, "two flows");
    if !ports {
        from_nobody_else(case, &udp((POD_2, 41000), REMOTE, 64, b"refused"), false, "before");
        assert_eq!(case.entries(), 4, "one port");
    }
}

/// As `cargo xtask chaos` asks: what stands for noise is another in each run.
fn seed() -> u64 {
    std::env::var("VPNAT_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[test]
fn no_entry_of_any_map_makes_a_wrong_source() {
    let tried = std::sync::Mutex::new(BTreeMap::<String, u64>::new());
    let (seed, all) = (seed(), tests::patience::times() == 1);
    if !all {
        println!("a slow machine: one in {SHARE} is tried");
    }
    each(&[Way::Xdp, Way::TcEthernet, Way::TcTunnel, Way::Redirect], |case| {
        let mut random = Random::new(seed);
        for map in maps(case).values() {
            let ports = !WITHOUT_PORTS.contains(&map.name.as_str());
            begin(case, ports);
            let mut count = 0;
            for key in hints(map).into_iter().chain(map.keys(ENTRIES)) {
                let value = match map.get(&key) {
                    Some(value) => value,
                    None if hints(map).contains(&key) => map.nothing(),
                    None => continue,
                };
                let mut losses: Vec<(String, Option<Vec<u8>>)> = spoilt(map, &value, &mut random)
                    .into_iter()
                    .map(|(what, other)| (what, Some(other)))
                    .collect();
                if !map.is_array && !NEEDED.contains(&map.name.as_str()) {
                    losses.push(("it is gone".into(), None));
                }
                for (loss, other) in losses {
                    if !all && count > 0 && other.is_some() && !random.once_in(SHARE) {
                        continue;
                    }
                    let what = format!("{} at {key:?}: {loss}", map.name);
                    for seconds in [0, 8] {
                        begin(case, ports);
                        let done = match &other {
                            Some(other) => map.set(&key, other),
                            None => map.remove(&key),
                        };
                        // The kernel does not take everything, and not everything is there each time.
                        if done.is_err() {
                            continue;
                        }
                        case.wait(seconds);
                        try_all(case, &what);
                        count += 1;
                        let _ = map.set(&key, &value);
                    }
                }
            }
            *tried.lock().expect("the counts").entry(map.name.clone()).or_default() += count;
        }
    });
    let tried = tried.into_inner().expect("the counts");
    println!("{tried:?}");
    println!("chaos: spoiled-entries={}", tried.values().sum::<u64>());
    for name in names::ALL.iter().filter(|name| !UNTRIED.contains(name)) {
        assert!(tried.get(*name).is_some_and(|count| *count > 0), "nothing was tried of {name}: {tried:?}");
    }
}
