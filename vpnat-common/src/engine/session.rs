//! A packet and its flow, in steps.
//!
//! A program asks for the translation by an existing flow; if something has to happen first (a look at the
//! timers, a change of the connection, the steps that make a new flow) that is a function of its own, called by the program
//! itself, and then the translation is asked for again. None of these functions calls another one, and what they do call
//! (for a pair's missing half, or a binding) has a small frame, so each has the BPF stack (512 bytes for a whole chain of
//! calls) nearly to itself, and the path of an established packet stays short. They return words, because the verifier
//! refuses functions that return through memory and leave a stack address in their return register.

use super::admission::Admission;
use super::flows::{self, Renewal};
use super::holding::Holding;
use super::tables::{NextHop, Tables};
use super::{Clock, Decision, account, binding, fragments, identification, mss, opening, rewrite};
use crate::addr::Port;
use crate::flow_ref::FlowRef;
use crate::ip_options;
use crate::layout::event::Tally;
use crate::layout::flow::{Direction, Phase, sent};
use crate::layout::outcome::Outcome;
use crate::layout::vendor::flag;
use crate::opaque::opaque;
use crate::packet::{Ip, Kind, Packet, Subject, transport};
use crate::tcp::{self, MAX_WINDOW_SCALE, flags};
use crate::tcp_options::TcpOptions;

/// How far a packet got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Step {
    code: u32,
}

impl Step {
    /// No flow translates it.
    pub const MISS: Self = Self { code: 0xffff_ff00 };
    /// Its flow's timers want a look: [`renew`].
    pub const STALE: Self = Self { code: 0xffff_ff01 };
    /// It may change its TCP connection: [`follow`].
    pub const CONTROL: Self = Self { code: 0xffff_ff02 };
    /// It decides for other fragments: [`fragments::first`].
    pub const FIRST: Self = Self { code: 0xffff_ff03 };

    /// It ended.
    #[inline(always)]
    pub const fn done(decision: Decision) -> Self {
        Self { code: decision.code }
    }

    /// A packet of the vendor in `slot` ended so. Not a closure of its callers: one that is not inlined has a parameter
    /// without a name in its BTF, which kernel 6.1 refuses.
    #[inline(always)]
    pub const fn of(slot: u8, outcome: Outcome) -> Self {
        Self::done(Decision::of(slot, outcome))
    }

    /// Whether it ended.
    #[inline(always)]
    pub const fn is_end(self) -> bool {
        self.code < Self::MISS.code
    }

    /// How it ended; [`Outcome::EntryInvalid`] if it should have and did not, because its flow was taken
    /// away between two steps.
    #[inline(always)]
    pub const fn ended(self) -> Decision {
        if !self.is_end() {
            return Decision::nobody(Outcome::EntryInvalid);
        }
        Decision { code: self.code }
    }
}

/// What has been done for a packet since it was first asked for a translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum After {
    /// Nothing yet.
    Nothing,
    /// Its flow's timers were looked at.
    Renewed,
    /// Its connection has taken note of it too.
    Followed,
    /// The decision for its datagram's other fragments is kept.
    Decided,
}

/// What a look at a flow's timers says of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Standing {
    /// Translate it.
    Current,
    /// The flow had ended and is gone; the packet stands alone.
    Over,
    /// Drop it.
    Invalid,
}

/// Translates a packet that belongs to a flow, with the stack around (TC).
#[inline(never)]
pub fn translate<T: Tables, P: Packet, const OUTBOUND: bool>(
    tables: &T,
    packet: &mut P,
    after: After,
) -> Step {
    let direction = if OUTBOUND { Direction::Outbound } else { Direction::Inbound };
    let Ok(mut ip) = Ip::read(packet) else { return Step::MISS };
    if ip.is_later_fragment() {
        return Step::MISS;
    }
    let Ok(subject) = Subject::read::<P, false>(packet, &ip) else { return Step::MISS };
    let key = subject.key;
    let Some(entry) = tables.flow(&key) else { return Step::MISS };
    let Some(to) = entry.rewrite(&key, direction) else { return Step::MISS };
    let ended = |outcome| Step::done(Decision::of(to.vendor, outcome));
    if ip_options::refused(tables, packet, &ip) {
        return ended(Outcome::OptionRefused);
    }
    let clock = Clock::read(tables);
    if after < After::Renewed && needs_a_look(&entry, &clock) {
        return Step::STALE;
    }
    if after < After::Followed {
        if !note(&subject, entry) {
            return Step::CONTROL;
        }
        refresh(tables, &clock, subject.kind, direction, to.vendor, &entry);
    }
    let mut id = ip.id;
    if ip.is_fragment() {
        if after < After::Decided {
            return Step::FIRST;
        }
        let Some(decision) = fragments::decision(tables, &ip, direction) else {
            return ended(Outcome::FragmentUnknown);
        };
        id = decision.id;
    } else if OUTBOUND && !ip.is_atomic() {
        id = identification::next(tables, packet, to.addr, &ip);
    }
    entry.count(ip.total_len);
    let old = subject.rewritten_port(direction);
    let done = (id == ip.id || identification::write(packet, &mut ip, id))
        && rewrite::transport_header::<P, false>(packet, ip.header_len, ip.protocol, direction, old, &to)
        && rewrite::address(packet, &ip, direction, &to);
    ended(match (done, direction) {
        (false, _) => Outcome::Unfinished,
        (true, Direction::Outbound) => Outcome::Outbound,
        (true, Direction::Inbound) => Outcome::Inbound,
    })
}

/// Translates a packet by its flow, after a look at the flow's timers if they want one. What is left to do is for [`conclude`], or, if it has
/// no flow or none any more ([`Step::MISS`]), for who may open one: `preferred` is then the port that a pod's flow had.
#[inline(always)]
pub fn approach<T: Tables, P: Packet, const OUTBOUND: bool>(
    tables: &T,
    packet: &mut P,
    preferred: &mut Port,
) -> Step {
    let step = translate::<T, P, OUTBOUND>(tables, packet, After::Nothing);
    if step != Step::STALE {
        return step;
    }
    if OUTBOUND {
        *preferred = flows::port_of(tables, packet);
    }
    match renew(tables, packet, false) {
        Standing::Current => translate::<T, P, OUTBOUND>(tables, packet, After::Renewed),
        Standing::Over => Step::MISS,
        Standing::Invalid => Step::done(Decision::nobody(Outcome::EntryInvalid)),
    }
}

/// Brings to its end what [`approach`] has begun: the packet's connection takes note of it, a first fragment decides for the others before it is
/// translated, and the MSS of what may be a SYN is lowered. A packet that had no flow has one now.
#[inline(always)]
pub fn conclude<T: Tables, P: Holding, const OUTBOUND: bool>(
    tables: &T,
    packet: &mut P,
    mut step: Step,
) -> Decision {
    let opened = step == Step::MISS;
    let control = opened || step == Step::CONTROL;
    if control {
        if !opened && !take_note(tables, packet, false) {
            return Decision::nobody(Outcome::EntryInvalid);
        }
        // One call for both: the verifier goes through a function once for each place that calls it.
        step = translate::<T, P, OUTBOUND>(tables, packet, After::Followed);
    }
    if step == Step::FIRST {
        let decided = fragments::first::<T, P, OUTBOUND>(tables, packet);
        if !decided.is_translated() {
            return decided;
        }
        step = translate::<T, P, OUTBOUND>(tables, packet, After::Decided);
    }
    if control { clamp(tables, packet, step).ended() } else { step.ended() }
}

/// Lets the packet's connection take note of it; false if there is none left that could.
#[inline(always)]
pub fn take_note<T: Tables, P: Packet>(tables: &T, packet: &P, keeps_next_hop: bool) -> bool {
    // Only a pair can take note; renewing completes it.
    follow(tables, packet) || renew(tables, packet, keeps_next_hop) == Standing::Current
}

/// Lowers the MSS of a SYN that was translated.
#[inline(always)]
pub fn clamp<T: Tables, P: Packet>(tables: &T, packet: &mut P, step: Step) -> Step {
    let decision = step.ended();
    if !decision.is_translated() || mss::clamp(tables, packet, decision.vendor()) {
        return step;
    }
    Step::done(decision.but(Outcome::Unfinished))
}

/// Whether something must be looked at before the entry may be used: its next hop and its other half, or whether the
/// flow is over.
#[inline(always)]
pub fn needs_a_look(entry: &FlowRef<'_>, clock: &Clock) -> bool {
    entry.stamp() != clock.stamp || !entry.expires().is_after(clock.now)
}

/// Starts this side's timer anew for a packet that [`note`] has passed, if it may (RFC 4787 REQ-6): what the pod sends
/// does, what comes in only where a connection vouches for it (TCP).
#[inline(always)]
pub fn refresh<T: Tables>(
    tables: &T,
    clock: &Clock,
    kind: Kind,
    direction: Direction,
    vendor: u8,
    entry: &FlowRef<'_>,
) {
    let phase = match kind {
        Kind::Tcp => Phase::TcpEstablished,
        Kind::Udp => Phase::Udp,
        Kind::Query | Kind::Reply => Phase::IcmpQuery,
    };
    if (kind == Kind::Tcp || matches!(direction, Direction::Outbound))
        && let Some(policy) = tables.policy(vendor)
    {
        entry.set_expires(clock.deadline(policy.timeouts.of(phase)));
    }
}

/// Takes note of a packet that changes nothing about its flow; false if it may.
#[inline(always)]
pub fn note(subject: &Subject, entry: FlowRef<'_>) -> bool {
    if subject.kind != Kind::Tcp {
        return true;
    }
    if entry.phase() != Some(Phase::TcpEstablished) || subject.tcp.is_control() {
        return false;
    }
    tcp::progress(&entry, &subject.tcp);
    true
}

/// Looks at the timers of the packet's flow. A hook that keeps the next hop in the entry (`keeps_next_hop`)
/// looks at that too, and renews the stamp when it has.
#[inline(never)]
pub fn renew<T: Tables, P: Packet>(tables: &T, packet: &P, keeps_next_hop: bool) -> Standing {
    let Ok(ip) = Ip::read(packet) else { return Standing::Invalid };
    let Ok(subject) = Subject::read::<P, false>(packet, &ip) else { return Standing::Invalid };
    let key = subject.key;
    let Some(entry) = tables.flow(&key) else { return Standing::Over };
    let Some(direction) = entry.direction() else { return Standing::Invalid };
    let Some(to) = entry.rewrite(&key, direction) else { return Standing::Invalid };
    let Some(policy) = tables.policy(to.vendor) else { return Standing::Invalid };
    let clock = Clock::read(tables);
    match flows::renew(tables, &clock, policy, &key, direction, &entry, &to) {
        Renewal::Over => return Standing::Over,
        Renewal::Invalid => return Standing::Invalid,
        Renewal::Alive => {}
    }
    if binding::are_kept(policy) {
        binding::keep(tables, &key, &entry);
    }
    if !keeps_next_hop {
        // A next hop is no fresher for what this hook saw: the fast path has to look for itself.
        entry.set_out_slot(0);
        entry.set_mtu(NextHop::UNKNOWN.mtu);
        entry.set_stamp(clock.stamp);
    }
    Standing::Current
}

/// Lets the packet's TCP connection take note of it; false if it has none that can.
#[inline(never)]
pub fn follow<T: Tables, P: Packet>(tables: &T, packet: &P) -> bool {
    let Ok(ip) = Ip::read(packet) else { return false };
    let Ok(subject) = Subject::read::<P, false>(packet, &ip) else { return false };
    let key = subject.key;
    let Some(entry) = tables.flow(&key) else { return false };
    let Some(direction) = entry.direction() else { return false };
    let Some(to) = entry.rewrite(&key, direction) else { return false };
    let Some(other) = tables.flow(&flows::pair_key(&key, direction, &to)) else { return false };
    let segment = subject.tcp;
    if segment.flags & flags::SYN != 0 {
        let options = options_of(tables, packet, &ip, &subject);
        entry.set_window_scale(options.window_scale);
        entry.set_ts_val(options.ts_val);
    } else if matches!(direction, Direction::Outbound) {
        // The newest that the vendor's end may have seen decides whether the port can be used again.
        let at = ip.header_len + transport::TCP_LEN;
        let newest = TcpOptions::timestamp(tables, packet, at, ip.header_len + segment.header_len as usize);
        if newest.wrapping_sub(entry.ts_val()) as i32 > 0 {
            entry.set_ts_val(newest);
        }
    }
    let before = entry.phase();
    let tracked = tcp::track(direction, &entry, &other, &segment);
    if Some(tracked.phase) != before {
        entry.set_phase(tracked.phase);
        other.set_phase(tracked.phase);
        if (before, tracked.phase) == (Some(Phase::TcpInit), Phase::TcpEstablished) {
            tables.tally(to.vendor, Tally::Established);
        }
    }
    if tracked.refresh
        && let Some(policy) = tables.policy(to.vendor)
    {
        let expires = Clock::read(tables).deadline(policy.timeouts.of(tracked.phase));
        entry.set_expires(expires);
        other.set_expires(expires);
        if binding::are_kept(policy) {
            binding::keep(tables, &key, &entry);
        }
    }
    true
}

/// The segment's TCP options.
#[inline(always)]
fn options_of<T: Tables, P: Packet>(tables: &T, packet: &P, ip: &Ip, subject: &Subject) -> TcpOptions {
    let at = ip.header_len + transport::TCP_LEN;
    let end = ip.header_len + subject.tcp.header_len as usize;
    TcpOptions::read(tables, packet, at, end)
}

/// Makes the flow of an outbound packet that has none. The outcome translates if there is one now.
#[inline(always)]
pub fn open<T: Tables, P: Packet>(tables: &T, packet: &P, vendor: u8, admission: &mut Admission) -> Decision {
    admission.forget();
    let vendor = opaque(vendor as u64) as u8;
    let mut decision = prepare(tables, packet, vendor, admission);
    if decision.is_translated() {
        decision = account::take(tables, vendor);
    }
    if !decision.is_translated() {
        return decision;
    }
    if tables.policy(vendor).is_some_and(binding::are_kept) && binding::find(tables, vendor, true) == 0 {
        decision = binding::prepare(tables, vendor);
        if decision.is_translated() {
            decision = opening::take_port(tables, vendor);
        }
        if decision.is_translated() {
            decision = opening::complete(tables, vendor);
        }
        // Of the binding that is in the table now, this one or another CPU's.
        if decision.is_translated() {
            decision = prepare(tables, packet, vendor, admission);
        }
        if decision.is_translated() && binding::find(tables, vendor, false) == 0 {
            decision = decision.but(Outcome::EntryInvalid);
        }
    }
    if decision.is_translated() {
        decision = opening::take_port(tables, vendor);
    }
    if decision.is_translated() {
        decision = opening::complete(tables, vendor);
    }
    if !decision.is_translated() {
        account::give_back(tables, vendor);
    }
    decision
}

/// Prepares both halves of the packet's flow, and the search for its port. The outcome translates if it may have one.
#[inline(never)]
fn prepare<T: Tables, P: Packet>(tables: &T, packet: &P, vendor: u8, admission: &Admission) -> Decision {
    let ends = |outcome| Decision::of(vendor, outcome);
    let (Some(policy), Some(search)) = (tables.policy(vendor), tables.search()) else {
        return ends(Outcome::NotReady);
    };
    let (Some(outbound), Some(inbound)) =
        (tables.scratch(Direction::Outbound), tables.scratch(Direction::Inbound))
    else {
        return ends(Outcome::NotReady);
    };
    let Ok(ip) = Ip::read(packet) else { return ends(Outcome::BadHeader) };
    let Ok(subject) = Subject::read::<P, false>(packet, &ip) else { return ends(Outcome::BadHeader) };
    let (key, segment) = (subject.key, subject.tcp);
    let before = admission.preferred;
    search.begin(&key, admission.egress, if before.number == 0 { key.src_port } else { before });
    search.set_returns((before.number != 0) as u32);
    if search.needs_seed() {
        search.set_seed(tables.unguessable(search.seeds()));
        if search.needs_seed() {
            // No port that can be guessed, not even one.
            return ends(Outcome::NotReady);
        }
    }
    let (mut sent, mut options) = (0, TcpOptions::default());
    let phase = match subject.kind {
        Kind::Tcp if segment.opens() => {
            options = options_of(tables, packet, &ip, &subject);
            sent = sent::SYN;
            search.set_is_syn(1);
            search.set_seq(segment.seq);
            search.set_ts_val(options.ts_val);
            // What the flow had before is taken without a look.
            if before.number == 0 {
                search.set_set_first(opening::is_crowded(tables, &key, admission.egress) as u32);
            }
            Phase::TcpInit
        }
        Kind::Tcp if policy.flags & flag::TCP_PICK_UP != 0 && !segment.is_control() => {
            // A connection that has outlived its state. The vendor's answer makes it established.
            options.window_scale = MAX_WINDOW_SCALE;
            sent = sent::SYN | sent::ACK;
            Phase::TcpInit
        }
        Kind::Tcp => return ends(Outcome::NoConnection),
        Kind::Udp => Phase::Udp,
        Kind::Query => Phase::IcmpQuery,
        // An answer to a question that nobody could have asked through here.
        Kind::Reply => return ends(Outcome::IcmpTypeRefused),
    };
    let clock = Clock::read(tables);
    let expires = clock.deadline(policy.timeouts.of(phase));
    // Only this half's way is known. The inbound half keeps stamp 0, so that its first packet asks for one.
    inbound.begin(vendor, phase, expires, clock.now);
    if sent & sent::ACK != 0 {
        // Nobody knows the vendor's scale either.
        inbound.set_window_scale(MAX_WINDOW_SCALE);
    }
    outbound.begin(vendor, phase, expires, clock.now);
    outbound.set_stamp(clock.stamp);
    let next_hop = admission.next_hop();
    outbound.set_out_slot(next_hop.slot);
    outbound.set_out_mac(next_hop.mac);
    outbound.set_mtu(next_hop.mtu);
    outbound.set_sent(sent);
    outbound.set_window_scale(options.window_scale);
    outbound.set_ts_val(options.ts_val);
    outbound.set_seq_end(segment.seq_end);
    outbound.set_ack(segment.ack);
    outbound.set_window(segment.window);
    ends(Outcome::Outbound)
}
