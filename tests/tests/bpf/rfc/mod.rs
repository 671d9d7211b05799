//! Conformance: what the RFCs ask of a NAT, requirement by requirement. A test's name carries the ids of the
//! rows of COMPLIANCE.md that it shows.
//!
//! Packets go in and packets come out; nothing is looked up in a table. Whether a flow lives is asked the way a
//! vendor would: by sending an answer. Time is moved, not waited for.

mod address;
mod edges;
mod endpoint_independent;
mod error_quotes;
mod exhaustion;
mod filtering;
mod fragments;
mod headers;
mod limits;
mod mapping;
mod mtu;
mod own_errors;
mod refresh;
mod sequences;
mod sums;
mod timeouts;

use std::net::Ipv4Addr;

use tests::packet::{ICMP, TCP, UDP, echo_request, icmp, tcp, udp};
use vpnat_common::layout::outcome::{Fate, Outcome};
use vpnat_common::layout::vendor::VendorPolicy;

use crate::case::{Case, Way};
use crate::model::{self, icmp_error};
use crate::plan::{A, EGRESS_A, End, POD, POD_2, SERVER};

/// Protocols with flows.
pub const PROTOCOLS: [u8; 3] = [TCP, UDP, ICMP];

/// One way of each kind, for tables that would take long in all of them.
pub const ONE_OF_EACH: &[Way] = &[Way::Xdp, Way::TcEthernet, Way::TcTunnelOneArm, Way::Redirect];

/// Those of them that take packets of every shape.
pub const ONE_OF_EACH_TC: &[Way] = &[Way::TcEthernet, Way::TcTunnelOneArm];

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// The first pod's end.
pub const POD_END: End = (POD, 40000);
/// The server's end.
pub const SERVER_END: End = (SERVER, 443);
/// What the vendor sees of the first pod if it may keep its port.
pub const PUBLIC: End = (EGRESS_A, 40000);

/// A flow, by the packets at its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    pub protocol: u8,
    pub pod: End,
    /// The server; its port means nothing to ICMP.
    pub remote: End,
    /// What the server sees of the pod.
    pub public: End,
}

impl Flow {
    /// Opens a flow from `pod`; TCP's with its handshake. Numbers start with 100 at the pod and 500 at the server.
    #[track_caller]
    pub fn open(case: &mut Case<'_>, protocol: u8, pod: End, remote: End) -> Self {
        let flow = Self::begin(case, protocol, pod, remote);
        if protocol == TCP {
            flow.server(case, SYN | ACK, (500, 101), b"");
            flow.client(case, ACK, (101, 501), b"");
        }
        flow
    }

    /// Opens a flow by its first packet only.
    #[track_caller]
    pub fn begin(case: &mut Case<'_>, protocol: u8, pod: End, remote: End) -> Self {
        let mut flow = Self { protocol, pod, remote, public: pod };
        let first = if protocol == TCP { flow.pods_segment(SYN, (100, 0), b"") } else { flow.question() };
        let seen = case.out(&first);
        flow.public = (seen.source(), seen.port());
        seen.leaves_as(A, &model::source(&first, flow.public));
        flow
    }

    /// A flow whose port is another outside than inside, so that a port not restored shows.
    #[track_caller]
    pub fn moved(case: &mut Case<'_>, protocol: u8) -> Self {
        Self::open(case, protocol, (POD_2, 40000), SERVER_END);
        let flow = Self::open(case, protocol, POD_END, SERVER_END);
        assert_ne!(flow.public.1, flow.pod.1);
        flow
    }

    /// A segment of the pod's, as the pod sends it.
    pub fn pods_segment(&self, flags: u8, numbers: (u32, u32), data: &[u8]) -> Vec<u8> {
        tcp(self.pod, self.remote, flags, numbers, data)
    }

    /// A packet from the pod, as it sends it.
    pub fn question(&self) -> Vec<u8> {
        match self.protocol {
            TCP => self.pods_segment(ACK, (101, 501), b"question"),
            UDP => udp(self.pod, self.remote, 64, b"question"),
            _ => echo_request(self.pod.0, self.remote.0, self.pod.1, 1),
        }
    }

    /// The server's answer, as it sends it.
    pub fn answer(&self) -> Vec<u8> {
        match self.protocol {
            TCP => tcp(self.remote, self.public, ACK, (501, 101), b"answer"),
            UDP => udp(self.remote, self.public, 64, b"answer"),
            _ => echo_reply(self.remote.0, self.public),
        }
    }

    /// A packet of the pod's, as the vendor must see it.
    pub fn outside(&self, packet: &[u8]) -> Vec<u8> {
        model::source(packet, self.public)
    }

    /// A packet of the server's, as the pod must see it.
    pub fn inside(&self, packet: &[u8]) -> Vec<u8> {
        model::destination(packet, self.pod)
    }

    /// The pod's packet reaches the vendor as this flow's.
    #[track_caller]
    pub fn leaves(&self, case: &mut Case<'_>, packet: &[u8]) {
        case.out(packet).leaves_as(A, &self.outside(packet));
    }

    /// The server's packet reaches the pod.
    #[track_caller]
    pub fn arrives(&self, case: &mut Case<'_>, packet: &[u8]) {
        case.back(packet).arrives_as(A, &self.inside(packet));
    }

    /// A segment of the pod's goes through.
    #[track_caller]
    pub fn client(&self, case: &mut Case<'_>, flags: u8, numbers: (u32, u32), data: &[u8]) {
        self.leaves(case, &self.pods_segment(flags, numbers, data));
    }

    /// A segment of the server's goes through.
    #[track_caller]
    pub fn server(&self, case: &mut Case<'_>, flags: u8, numbers: (u32, u32), data: &[u8]) {
        self.arrives(case, &tcp(self.remote, self.public, flags, numbers, data));
    }

    /// The pod asks and the vendor sees it as this flow's.
    #[track_caller]
    pub fn asks(&self, case: &mut Case<'_>) {
        self.leaves(case, &self.question());
    }

    /// The flow lives: an answer arrives.
    #[track_caller]
    pub fn lives(&self, case: &mut Case<'_>) {
        self.arrives(case, &self.answer());
    }

    /// The flow is over: an answer does not arrive.
    #[track_caller]
    pub fn is_over(&self, case: &mut Case<'_>) {
        let seen = case.back(&self.answer());
        assert!(seen.was_dropped(), "{}: an answer to {self:?} arrived", seen.title);
    }

    /// An error from `from` about the first `length` bytes of the pod's `packet`, as it comes from outside and
    /// as the pod must see it.
    pub fn error_about(
        &self,
        packet: &[u8],
        from: Ipv4Addr,
        (kind, rest): ((u8, u8), [u8; 4]),
        length: usize,
    ) -> [Vec<u8>; 2] {
        let length = length.min(packet.len());
        let seen = self.outside(packet);
        [
            icmp_error((from, self.public.0), kind, rest, &seen[..length], &[]),
            icmp_error((from, self.pod.0), kind, rest, &packet[..length], &[]),
        ]
    }

    /// An error from `from` (the pod, or a router beside it) about the server's `packet`, as it is sent and as
    /// the vendor must see it.
    pub fn refusal_of(
        &self,
        packet: &[u8],
        from: Ipv4Addr,
        (kind, rest): ((u8, u8), [u8; 4]),
        length: usize,
    ) -> [Vec<u8>; 2] {
        let length = length.min(packet.len());
        let arrived = self.inside(packet);
        [
            icmp_error((from, self.remote.0), kind, rest, &arrived[..length], &[]),
            icmp_error((self.public.0, self.remote.0), kind, rest, &packet[..length], &[]),
        ]
    }
}

/// An echo reply from `server` to what it has seen.
pub fn echo_reply(server: Ipv4Addr, public: End) -> Vec<u8> {
    let [high, low] = public.1.to_be_bytes();
    icmp(server, public.0, (0, 0), [high, low, 0, 1], b"abcdefghijklmnop")
}

/// The packet did not go on: dropped, or by XDP left to the stack and its hooks unchanged.
#[track_caller]
pub fn stopped(case: &mut Case<'_>, packet: &[u8], outbound: bool) {
    let seen = if outbound { case.out(packet) } else { case.back(packet) };
    assert_eq!(seen.output, seen.input, "{}: nothing of it has changed", seen.title);
    let passed = seen.ended().fate() == Fate::Passed && seen.fast;
    assert!(passed || seen.was_dropped(), "{}: it ended as {:?}", seen.title, seen.ended());
}

/// Changes the first vendor's policy.
pub fn policy(case: &mut Case<'_>, change: impl FnOnce(&mut VendorPolicy)) {
    case.change_policy(A, change);
}

/// A packet that is dropped, whatever hook sees it.
#[track_caller]
pub fn dropped(case: &mut Case<'_>, packet: &[u8], outbound: bool) -> Outcome {
    let seen = if outbound { case.out(packet) } else { case.back(packet) };
    assert!(seen.was_dropped(), "{}: it ended as {:?}", seen.title, seen.ended());
    seen.ended()
}
