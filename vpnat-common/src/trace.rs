//! Which packets a tracer wants, and what is told of one.

use crate::addr::{Ip4, Port};
use crate::engine::Decision;
use crate::layout::flow::{FlowKey, protocol};
use crate::layout::trace::{TraceEnd, TraceFilter};
use crate::packet::{Ipv4Head, Packet, icmp, ipv4};

/// What tells a packet from others, read without judging it: what is missing, or no header is known for, is 0.
#[inline(always)]
pub fn key_of<P: Packet>(packet: &P) -> FlowKey {
    let Some(ip) = packet.load::<Ipv4Head>(0) else { return FlowKey::default() };
    let none = Port::new(0);
    let bare = FlowKey::new(ip.src, none, ip.dst, none, ip.protocol);
    let at = ((ip.version_ihl & 0xf) as usize) << 2;
    if at < ipv4::LEN || u16::from_be(ip.fragment) & ipv4::FRAGMENT_OFFSET != 0 {
        return bare;
    }
    let Some(head) = packet.load_at::<[u8; 8]>(at) else { return bare };
    let port = |high: u8, low: u8| Port::new(u16::from_be_bytes([high, low]));
    let (src_port, dst_port) = match ip.protocol {
        protocol::TCP | protocol::UDP => (port(head[0], head[1]), port(head[2], head[3])),
        protocol::ICMP => match head[0] {
            icmp::ECHO | icmp::TIMESTAMP => (port(head[4], head[5]), none),
            icmp::ECHO_REPLY | icmp::TIMESTAMP_REPLY => (none, port(head[4], head[5])),
            _ => (none, none),
        },
        _ => (none, none),
    };
    FlowKey { src_port, dst_port, ..bare }
}

impl TraceEnd {
    #[inline(always)]
    fn is(&self, address: Ip4, port: Port) -> bool {
        address.to_ne() & self.mask.to_ne() == self.address.to_ne()
            && (self.port.number == 0 || self.port.number == port.number)
    }

    #[inline(always)]
    fn is_source(&self, key: &FlowKey) -> bool {
        self.is(key.src, key.src_port)
    }

    #[inline(always)]
    fn is_destination(&self, key: &FlowKey) -> bool {
        self.is(key.dst, key.dst_port)
    }
}

impl TraceFilter {
    /// Whether this decision about this packet, `before` and `after`, is wanted.
    #[inline(always)]
    pub fn wants(&self, hook: u32, decision: Decision, before: &FlowKey, after: &FlowKey) -> bool {
        let either = |end: &TraceEnd, key: &FlowKey| end.is_source(key) || end.is_destination(key);
        self.outcomes >> (decision.number() & 63) & 1 != 0
            && self.hooks as u32 >> (hook & 7) & 1 != 0
            && (self.vendor == 0 || self.vendor == decision.vendor())
            && (self.protocol == 0 || self.protocol == before.protocol)
            && (self.from.is_source(before) || self.from.is_source(after))
            && (self.to.is_destination(before) || self.to.is_destination(after))
            && (either(&self.host, before) || either(&self.host, after))
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::layout::outcome::{Hook, Outcome};

    const POD: Ip4 = Ip4::new(10, 0, 2, 7);
    const EGRESS: Ip4 = Ip4::new(10, 0, 1, 10);
    const VENDOR: Ip4 = Ip4::new(192, 0, 2, 10);
    const ALL: TraceFilter = TraceFilter {
        outcomes: u64::MAX,
        from: ANY,
        to: ANY,
        host: ANY,
        session: 1,
        until: crate::layout::clock::Moment::new(0),
        per_second: 1,
        hooks: 0xff,
        protocol: 0,
        vendor: 0,
        _pad: 0,
    };
    const ANY: TraceEnd =
        TraceEnd { address: Ip4::UNSPECIFIED, mask: Ip4::UNSPECIFIED, port: Port::new(0), _pad: 0 };

    fn key(src: Ip4, src_port: u16, dst: Ip4, dst_port: u16) -> FlowKey {
        FlowKey::new(src, Port::new(src_port), dst, Port::new(dst_port), protocol::TCP)
    }

    fn net(address: Ip4, bits: u32, port: u16) -> TraceEnd {
        let mask = Ip4 { octets: u32::MAX.checked_shl(32 - bits).unwrap_or(0).to_be_bytes() };
        TraceEnd { address, mask, port: Port::new(port), _pad: 0 }
    }

    /// A pod's packet on its way out, and the answer.
    fn out(filter: TraceFilter) -> bool {
        let (before, after) = (key(POD, 40000, VENDOR, 443), key(EGRESS, 41000, VENDOR, 443));
        filter.wants(Hook::TcEgress as u32, Decision::of(2, Outcome::Outbound), &before, &after)
    }

    fn back(filter: TraceFilter) -> bool {
        let (before, after) = (key(VENDOR, 443, EGRESS, 41000), key(VENDOR, 443, POD, 40000));
        filter.wants(Hook::TcIngress as u32, Decision::of(2, Outcome::Inbound), &before, &after)
    }

    #[test]
    fn nothing_asked_for_is_everything() {
        assert!(out(ALL) && back(ALL));
    }

    #[test]
    fn ends_are_looked_for_before_and_after() {
        let from = |end| TraceFilter { from: end, ..ALL };
        let to = |end| TraceFilter { to: end, ..ALL };
        let host = |end| TraceFilter { host: end, ..ALL };
        // As the pod, and as what it becomes.
        assert!(out(from(net(POD, 32, 0))) && out(from(net(EGRESS, 32, 0))));
        assert!(!back(from(net(POD, 32, 0))));
        // The answer to a pod is found by the pod's address.
        assert!(back(to(net(POD, 32, 40000))) && back(to(net(EGRESS, 32, 41000))));
        assert!(!out(to(net(POD, 32, 0))));
        // Address and port belong together.
        assert!(!out(from(net(POD, 32, 41000))) && !back(to(net(EGRESS, 32, 40000))));
        // Both ways.
        for end in [net(POD, 32, 0), net(EGRESS, 32, 41000), net(VENDOR, 24, 443), net(VENDOR, 32, 0)] {
            let end = TraceEnd { address: Ip4 { octets: masked(end) }, ..end };
            assert!(out(host(end)) && back(host(end)), "{end:?}");
        }
        assert!(!out(host(net(Ip4::new(10, 0, 2, 8), 32, 0))));
        assert!(out(from(net(Ip4::new(10, 0, 0, 0), 16, 0))));
        assert!(!out(from(net(Ip4::new(10, 1, 0, 0), 16, 0))));
    }

    fn masked(end: TraceEnd) -> [u8; 4] {
        (end.address.to_ne() & end.mask.to_ne()).to_ne_bytes()
    }

    #[test]
    fn all_conditions_hold_together() {
        assert!(out(TraceFilter { vendor: 2, ..ALL }) && !out(TraceFilter { vendor: 1, ..ALL }));
        assert!(out(TraceFilter { protocol: 6, ..ALL }) && !out(TraceFilter { protocol: 17, ..ALL }));
        let only = |outcome: Outcome| TraceFilter { outcomes: 1 << outcome as u32, ..ALL };
        assert!(out(only(Outcome::Outbound)) && !back(only(Outcome::Outbound)));
        assert!(!out(only(Outcome::SourceNotAllowed)));
        let at = |hook: Hook| TraceFilter { hooks: 1 << hook as u32, ..ALL };
        assert!(out(at(Hook::TcEgress)) && !out(at(Hook::Xdp)) && !back(at(Hook::TcEgress)));
        let both = TraceFilter { from: net(POD, 32, 0), to: net(EGRESS, 32, 0), ..ALL };
        assert!(!out(both) && !back(both));
    }

    struct Bytes(Vec<u8>);

    impl Packet for Bytes {
        fn load<T: crate::packet::Wire>(&self, offset: usize) -> Option<T> {
            let bytes = self.0.get(offset..offset + size_of::<T>())?;
            // SAFETY: as many bytes as the type has, and any are one (`Wire`).
            Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
        }

        fn load_at<T: crate::packet::Wire>(&self, offset: usize) -> Option<T> {
            self.load(offset)
        }

        fn store<T: crate::packet::Wire>(&mut self, _: usize, _: T) -> bool {
            false
        }

        fn store_at<T: crate::packet::Wire>(&mut self, _: usize, _: T) -> bool {
            false
        }

        fn len(&self) -> u32 {
            self.0.len() as u32
        }

        fn change_checksum<const PLAIN: bool>(
            &mut self,
            _: usize,
            _: u16,
            _: crate::checksum::Sum,
            _: bool,
        ) -> bool {
            false
        }
    }

    fn packet(version_ihl: u8, fragment: [u8; 2], protocol: u8, rest: &[u8]) -> FlowKey {
        let head = [version_ihl, 0, 0, 40, 0, 1, fragment[0], fragment[1], 64, protocol, 0, 0];
        let options = vec![1; (version_ihl as usize & 0xf).saturating_sub(5) * 4];
        key_of(&Bytes([&head[..], &POD.octets, &VENDOR.octets, &options, rest].concat()))
    }

    #[test]
    fn a_key_is_read_of_whatever_comes() {
        let ports = [0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 0];
        let whole = key(POD, 40000, VENDOR, 443);
        let bare = key(POD, 0, VENDOR, 0);
        assert_eq!(packet(0x45, [0x40, 0], 6, &ports), whole);
        assert_eq!(packet(0x47, [0, 0], 6, &ports), whole, "behind options");
        assert_eq!(packet(0x45, [0x20, 0], 6, &ports), whole, "a first fragment");
        assert_eq!(packet(0x45, [0x20, 5], 6, &ports), bare, "a later fragment");
        assert_eq!(packet(0x45, [0, 0], 6, &ports[..7]), bare, "cut short");
        assert_eq!(packet(0x41, [0, 0], 6, &ports), bare, "a header that cannot be");
        assert_eq!(packet(0x45, [0, 0], 47, &ports), FlowKey { protocol: 47, ..bare });
        let query = packet(0x45, [0, 0], 1, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]);
        assert_eq!((query.src_port.number, query.dst_port.number), (0x1234, 0));
        let reply = packet(0x45, [0, 0], 1, &[0, 0, 0, 0, 0x12, 0x34, 0, 1]);
        assert_eq!((reply.src_port.number, reply.dst_port.number), (0, 0x1234));
        let error = packet(0x45, [0, 0], 1, &[3, 4, 0, 0, 0, 0, 5, 0x78]);
        assert_eq!((error.src_port.number, error.dst_port.number), (0, 0));
        assert_eq!(key_of(&Bytes(vec![0x45; 19])), FlowKey::default());
    }
}
