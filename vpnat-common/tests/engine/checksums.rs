//! RFC 1624: a checksum changed by difference is the one that a full sum gives, for every sum there is.

use crate::life::{PATHS, pod, server};
use crate::tables::{EGRESS, World};
use crate::wire::{ICMP, TCP, UDP, assert_same, echo, rewritten, tcp, udp};
use vpnat_common::checksum::{Sum, apply, delta16, delta32, of_bytes};

/// One word goes through all its values, so that every sum occurs, 0 and 0xffff among them. The words around it
/// are not all zero: there is no such packet.
#[test]
fn every_sum_and_a_change_of_one_word() {
    for new in [0u16, 1, 0x1234, 0x7fff, 0x8000, 0xfffe, 0xffff] {
        for old in 0..=u16::MAX {
            let sum = |word: u16| of_bytes(&[0x45, 0x00, word.to_ne_bytes()[0], word.to_ne_bytes()[1]]);
            assert_eq!(apply(sum(old), Sum(u32::from(delta16(old, new)))), sum(new), "{old:#x} to {new:#x}");
        }
    }
}

/// As above, with an address: two words whose difference is folded once for all packets of a flow.
#[test]
fn every_sum_and_a_change_of_an_address() {
    let pairs = [(0x0a00_0207u32, 0x0a00_010au32), (0x0a00_0207, 0x0a00_0207), (u32::MAX, 1), (1, u32::MAX)];
    for (old, new) in pairs {
        let delta = delta32(old, new);
        for word in 0..=u16::MAX {
            let sum = |address: u32| {
                let mut bytes = vec![0x45, 0x00];
                bytes.extend(word.to_ne_bytes());
                bytes.extend(address.to_ne_bytes());
                of_bytes(&bytes)
            };
            assert_eq!(apply(sum(old), Sum(u32::from(delta))), sum(new), "{word:#x}");
        }
    }
}

/// The product's sum from scratch against the tests' own.
#[test]
fn a_sum_from_scratch() {
    for length in 0..100 {
        let bytes: Vec<u8> = (0..length).map(|byte| (byte * 37 + 11) as u8).collect();
        assert_eq!(of_bytes(&bytes).to_be_bytes(), crate::wire::checksum(&bytes).to_ne_bytes());
    }
}

/// Whole packets of one flow, one payload word going through all its values.
#[test]
fn every_packet_of_a_flow() {
    for path in PATHS {
        for protocol in [TCP, UDP, ICMP] {
            let mut world = World::new();
            // Taken by another pod, so that the port changes too.
            for first in [1u8, 7] {
                for word in 0..=u16::MAX {
                    let (from, to) = ((pod(first), 40000), (server(10), 443));
                    let payload = word.to_be_bytes();
                    let packet = match protocol {
                        TCP => tcp(from, to, 2, (7, 0), &payload),
                        UDP => udp(from, to, &payload),
                        _ => echo(8, from.0, to.0, from.1, &payload),
                    };
                    let (outcome, found) = world.out(path, &packet);
                    let port = crate::wire::source(&found).1;
                    assert_eq!(port == 40000, first == 1, "{outcome:?}");
                    assert_same(&found, &rewritten(&packet, 0, (EGRESS, port)));
                    if first == 1 {
                        break;
                    }
                }
            }
        }
    }
}
