//! One packet of an existing flow, and the first packet of a new one: what both directions and all hooks
//! share between reading the headers and rewriting them.

use super::flows::{self, NewFlow, Renewal};
use super::tables::Tables;
use super::{Clock, rewrite};
use crate::addr::{Ip4, Port};
use crate::flow_ref::{FlowRef, Rewrite};
use crate::layout::flow::{Direction, Phase, sent};
use crate::layout::outcome::Outcome;
use crate::layout::vendor::{VendorPolicy, flag};
use crate::packet::{Ip, Kind, Packet, Subject, TcpHead};
use crate::tcp::{self, MAX_WINDOW_SCALE, Segment, flags};
use crate::tcp_options::TcpOptions;

/// What an existing flow says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Translate it.
    Current,
    /// The flow had ended and is gone; the packet stands alone.
    Over,
    /// Drop it.
    Invalid,
}

/// Looks at timers, if their stamp is no longer current. A hook that keeps the next hop in the entry
/// (`keeps_next_hop`) looks at that too before the stamp may be renewed by it.
#[inline(always)]
pub fn renew<T: Tables>(
    tables: &T,
    clock: &Clock,
    subject: &Subject,
    direction: Direction,
    entry: &FlowRef<'_>,
    rewrite: &Rewrite,
    keeps_next_hop: bool,
) -> Standing {
    if entry.stamp() == clock.stamp {
        return Standing::Current;
    }
    let Some(policy) = tables.policy(rewrite.vendor) else { return Standing::Invalid };
    // RFC 4787 REQ-6: outbound packets renew. Inbound ones only where a connection vouches for them (TCP),
    // resets never (RFC 7857 section 7.1), and closed connections not at all.
    let refresh = match subject.kind {
        Kind::Tcp => subject.tcp.flags & flags::RST == 0 && entry.phase() != Some(Phase::TcpBothFin),
        _ => matches!(direction, Direction::Outbound),
    };
    let stamp = entry.stamp();
    match flows::renew(tables, clock, policy, &subject.key, direction, entry, rewrite, refresh) {
        Renewal::Over => return Standing::Over,
        Renewal::Invalid => return Standing::Invalid,
        Renewal::Alive => {}
    }
    if !keeps_next_hop && entry.out_slot() != 0 {
        // XDP's next hop is no fresher for what this hook saw.
        entry.set_stamp(stamp);
    }
    Standing::Current
}

/// Follows the TCP connection of an existing flow.
#[inline(always)]
pub fn follow<T: Tables, P: Packet>(
    tables: &T,
    clock: &Clock,
    packet: &P,
    ip: &Ip,
    subject: &Subject,
    direction: Direction,
    entry: &FlowRef<'_>,
    to: &Rewrite,
) {
    if subject.kind != Kind::Tcp {
        return;
    }
    let head = &subject.tcp;
    let segment = Segment::new(head, ip.total_len - ip.header_len as u32);
    let before = entry.phase();
    if before == Some(Phase::TcpEstablished) && !segment.is_control() {
        tcp::progress(entry, &segment);
        return;
    }
    let Some(other) = tables.flow(&flows::pair_key(&subject.key, direction, to)) else { return };
    if segment.flags & flags::SYN != 0 {
        let at = ip.header_len + size_of::<TcpHead>();
        let end = ip.header_len + (head.data_offset >> 4) as usize * 4;
        let options = TcpOptions::read(packet, at, end);
        entry.set_window_scale(options.window_scale);
        entry.set_ts_val(options.ts_val);
    }
    let tracked = tcp::track(direction, entry, &other, &segment);
    if Some(tracked.phase) != before {
        entry.set_phase(tracked.phase);
        other.set_phase(tracked.phase);
    }
    if tracked.refresh
        && let Some(policy) = tables.policy(to.vendor)
    {
        let expires = clock.deadline(policy.timeouts.of(tracked.phase));
        entry.set_expires(expires);
        other.set_expires(expires);
    }
}

/// Rewrites the packet and counts it in its flow, if it has an entry.
#[inline(always)]
#[must_use]
pub fn translate<P: Packet>(
    packet: &mut P,
    ip: &Ip,
    subject: &Subject,
    direction: Direction,
    to: &Rewrite,
) -> bool {
    let old = subject.rewritten_port(direction);
    rewrite::transport_header(packet, ip.header_len, ip.protocol, direction, old, to)
        && rewrite::address(packet, ip, direction, to)
}

/// Makes the flow of an outbound packet that has none.
///
/// # Errors
/// Why there can be no such flow.
#[inline(always)]
pub fn open<T: Tables, P: Packet>(
    tables: &T,
    clock: &Clock,
    packet: &P,
    ip: &Ip,
    subject: &Subject,
    slot: u8,
    policy: &VendorPolicy,
    egress: Ip4,
    preferred: Port,
) -> Result<Rewrite, Outcome> {
    let mut new = NewFlow {
        key: subject.key,
        preferred,
        phase: Phase::Udp,
        sent: 0,
        window_scale: 0,
        seq_end: 0,
        ack: 0,
        ts_val: 0,
        window: 0,
        bytes: ip.total_len,
    };
    match subject.kind {
        Kind::Tcp => {
            let head = &subject.tcp;
            let segment = Segment::new(head, ip.total_len - ip.header_len as u32);
            new.phase = Phase::TcpInit;
            new.seq_end = segment.seq_end;
            new.ack = segment.ack;
            new.window = segment.window;
            if segment.opens() {
                let at = ip.header_len + size_of::<TcpHead>();
                let end = ip.header_len + (head.data_offset >> 4) as usize * 4;
                let options = TcpOptions::read(packet, at, end);
                new.sent = sent::SYN;
                new.window_scale = options.window_scale;
                new.ts_val = options.ts_val;
            } else if policy.flags & flag::TCP_PICK_UP != 0 && !segment.is_control() {
                // A connection that has outlived its state. The vendor's answer makes it established.
                new.sent = sent::SYN | sent::ACK;
                new.window_scale = MAX_WINDOW_SCALE;
            } else {
                return Err(Outcome::NoConnection);
            }
        }
        Kind::Udp => {}
        Kind::Query => new.phase = Phase::IcmpQuery,
        // An answer to a question that nobody could have asked through here.
        Kind::Reply => return Err(Outcome::IcmpTypeRefused),
    }
    flows::create(tables, clock, policy, slot, egress, &new)
}
