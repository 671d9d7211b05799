//! TC programs, one per part that a device plays and per kind of link layer, and the same once more for rehearsals and for tracers.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use vpnat_common::addr::Ip4;
use vpnat_common::engine::ingress::{redirect, restore};
use vpnat_common::engine::refusal::Answering as _;
use vpnat_common::engine::tables::Tables;
use vpnat_common::engine::{Decision, egress, own_errors, refusal};
use vpnat_common::layout::device::role::{INSIDE, OUTSIDE};
use vpnat_common::layout::outcome::{Hook, Outcome};
use vpnat_common::packet::{Packet as _, ipv4, transport};

use crate::rehearsal::Rehearsal;
use crate::skb::{Skb, bounds};
use crate::tables::{Kernel, Surroundings};
use crate::trace::Traced;
use crate::unaligned::distance;

/// Length of an Ethernet header; tunnels have none.
const ETHERNET: usize = 14;
const NONE: usize = 0;
/// Single-arm: pods' and the vendor's packets arrive on one device.
const BOTH: u8 = INSIDE | OUTSIDE;

/// What is read in place: an IP header without options and TCP's.
const HEADERS: usize = ipv4::LEN + transport::TCP_LEN;

const ETH_P_IP: u32 = (0x0800u16).to_be() as u32;
/// EtherTypes of VLAN tags, in network byte order (IEEE 802.1Q clause 9.5; the last is older than it).
const TAGS: [u16; 3] = [(0x8100u16).to_be(), (0x88a8u16).to_be(), (0x9100u16).to_be()];

/// Runs `decide` on an IPv4 packet, counts how it ended and turns that into a verdict. "Unspecified" lets
/// the next program have its say; a drop is final. `carries`: what an outside device that is stacked on this one has
/// translated passes.
#[inline(always)]
fn run<T: Surroundings, const L2: usize>(
    context: &TcContext,
    hook: Hook,
    carries: bool,
    decide: impl FnOnce(&T::Tables, &mut Skb<'_, L2>) -> Decision,
) -> i32 {
    // SAFETY: the context is that of the running program.
    let (protocol, ifindex) = unsafe { ((*context.skb.skb).protocol, (*context.skb.skb).ifindex) };
    let tables = T::tables(context.as_ptr(), ifindex);
    let mut packet = Skb::<L2>::new(context, HEADERS, tables.settings().redirect_mark);
    let bytes = packet.len();
    T::arrived(&packet, hook, ifindex, protocol == ETH_P_IP);
    let mut decision = if T::REHEARSES || protocol == ETH_P_IP {
        decide(&tables, &mut packet)
    } else {
        Decision::nobody(Outcome::NotOurs)
    };
    let leaves = !T::REHEARSES && matches!(hook, Hook::TcEgress | Hook::TcGuard);
    if leaves && !decision.is_translated() {
        // TC egress of an outside device has found out already; elsewhere nothing else has been asked.
        if matches!(hook, Hook::TcGuard)
            && decision == Decision::nobody(Outcome::NotOurs)
            && protocol == ETH_P_IP
            && packet.arrived_by() == 0
            && own_errors::may_be(&tables, &packet)
        {
            decision = egress::OWN_ERROR;
        }
        if decision == egress::OWN_ERROR {
            decision = own_errors::turn(&tables, &mut packet);
        }
        if decision == Decision::nobody(Outcome::NotOurs) {
            decision = disguised::<_, L2>(&tables, context, protocol, carries);
        }
    }
    tables.count(decision, hook, bytes);
    T::decided(&packet, decision);
    if !decision.is_drop() {
        return packet.action;
    }
    let answers = !T::REHEARSES && matches!(hook, Hook::TcEgress);
    if answers && refusal::answer(&tables, &mut packet, decision) { packet.action } else { TC_ACT_SHOT }
}

/// Judges a packet on its way out that is not vpnat's by what the kernel says of it, by what the next host will take it for: a
/// packet socket sends any frame under any protocol, and a VLAN tag of the frame's own may be one that routers ignore (VID 0,
/// IEEE 802.1Q clause 6.9.1). The tag of a VLAN device lies in the frame where another one is stacked on it, so that a device
/// which `carries` looks at the source, as [`egress::carry`] does.
#[inline(never)]
fn disguised<T: Tables, const L2: usize>(
    tables: &T,
    context: &TcContext,
    protocol: u32,
    carries: bool,
) -> Decision {
    let nobody = Decision::nobody(Outcome::NotOurs);
    let mut start = L2;
    if L2 == ETHERNET {
        let mut kind = context.load::<u16>(ETHERNET - 2).unwrap_or(0);
        for _ in 0..2 {
            if TAGS.contains(&kind) {
                kind = context.load::<u16>(start + 2).unwrap_or(0);
                start += 4;
            }
        }
        if TAGS.contains(&kind) {
            return Decision::nobody(Outcome::BadHeader);
        }
        // Without a tag and as the kernel says, it has been judged.
        if kind != ETH_P_IP as u16 || (start == L2 && protocol == ETH_P_IP) {
            return nobody;
        }
    } else if protocol == ETH_P_IP || context.load::<u8>(0).unwrap_or(0) >> 4 != 4 {
        return nobody;
    }
    let Ok(octets) = context.load::<[u8; 4]>(start + ipv4::DST) else { return nobody };
    let target = match tables.vendor_of(Ip4 { octets }) {
        Some(target) if target.exempt == 0 => target,
        _ => return nobody,
    };
    if carries
        && let Ok(octets) = context.load::<[u8; 4]>(start + ipv4::SRC)
        && egress::speaks_to(tables, Ip4 { octets }, target.vendor)
    {
        return Decision::of(target.vendor, Outcome::Carried);
    }
    Decision::of(target.vendor, Outcome::Unguarded)
}

macro_rules! programs {
    ($($name:ident: $run:ident<$($argument:ident),+>;)+) => {
        $(
            #[doc = concat!("TC program `", stringify!($name), "`.")]
            #[classifier]
            pub fn $name(context: TcContext) -> i32 {
                $run::<$($argument),+>(&context)
            }
        )+
    };
}

#[inline(always)]
fn ingress<T: Surroundings, const L2: usize, const ROLES: u8>(context: &TcContext) -> i32 {
    run::<T, L2>(context, Hook::TcIngress, false, |tables, packet| {
        if L2 == ETHERNET
            && let Some(decision) = redirect::<_, _, ROLES>(tables, packet)
        {
            return decision;
        }
        restore::<_, _, ROLES>(tables, packet)
    })
}

/// Whether an Ethernet header stands in front of the IP header. The kernel knows where that one lies, and counted from there
/// the last byte in reach is beyond reach if anything stands in front. No bytes of a packet could say it as surely.
#[inline(never)]
fn is_framed(context: &TcContext) -> bool {
    // Not empty: an IP header has been read in place when IPsec took the outer one off.
    let (start, end) = bounds(context);
    let mut last = 0u8;
    // SAFETY: the context is that of the running program; the helper writes one byte or fails.
    unsafe {
        let offset = distance(start, end).wrapping_sub(1) as u32;
        bpf_skb_load_bytes_relative(context.as_ptr(), offset, (&raw mut last).cast(), 1, BPF_HDR_START_NET)
            != 0
    }
}

/// Ingress of an XFRM interface or a VTI. In front of what the kernel's IPsec has decrypted it leaves the Ethernet header of the
/// device below (`skb_mac_header_rebuild` in `net/xfrm/xfrm_input.c`), and programs see it. There is none if that device has
/// none, and none in front of fragments that were held and are sent in again.
#[inline(always)]
fn ingress_xfrm<T: Surroundings, const ROLES: u8>(context: &TcContext) -> i32 {
    // Closures of its own, and none of another program's: one that serves two is not inlined, has an argument without a name
    // then, and the kernel refuses the type information of the whole object.
    if is_framed(context) {
        run::<T, ETHERNET>(context, Hook::TcIngress, false, |tables, packet| {
            restore::<_, _, ROLES>(tables, packet)
        })
    } else {
        run::<T, NONE>(context, Hook::TcIngress, false, |tables, packet| {
            restore::<_, _, ROLES>(tables, packet)
        })
    }
}

#[inline(always)]
fn egress_outside<T: Surroundings, const L2: usize>(context: &TcContext) -> i32 {
    // SAFETY: the context is that of the running program.
    let (ingress_ifindex, mark) = unsafe { ((*context.skb.skb).ingress_ifindex, (*context.skb.skb).mark) };
    run::<T, L2>(context, Hook::TcEgress, false, |tables, packet| {
        // What was redirected came in by a device: the instance's own packets can bear any mark.
        if mark != 0 && ingress_ifindex != 0 && mark == tables.settings().redirect_mark {
            context.set_mark(0);
            if egress::is_translated(tables, packet) {
                return Decision::nobody(Outcome::Redirected);
            }
        }
        egress::translate(tables, packet, ingress_ifindex)
    })
}

#[inline(always)]
fn egress_guard<T: Surroundings, const L2: usize>(context: &TcContext) -> i32 {
    run::<T, L2>(context, Hook::TcGuard, false, |tables, packet| egress::guard(tables, packet))
}

#[inline(always)]
fn egress_carrier<T: Surroundings, const L2: usize>(context: &TcContext) -> i32 {
    run::<T, L2>(context, Hook::TcGuard, true, |tables, packet| egress::carry(tables, packet))
}

/// The loopback device: nothing leaves there but errors of the instance itself about packets that it has translated.
#[inline(always)]
fn egress_loopback<T: Surroundings, const L2: usize>(context: &TcContext) -> i32 {
    run::<T, L2>(context, Hook::TcGuard, false, |_, _| Decision::nobody(Outcome::NotOurs))
}

programs! {
    ingress_inside_l2: ingress<Kernel, ETHERNET, INSIDE>;
    ingress_inside_l3: ingress<Kernel, NONE, INSIDE>;
    ingress_outside_l2: ingress<Kernel, ETHERNET, OUTSIDE>;
    ingress_outside_l3: ingress<Kernel, NONE, OUTSIDE>;
    ingress_both_l2: ingress<Kernel, ETHERNET, BOTH>;
    ingress_both_l3: ingress<Kernel, NONE, BOTH>;
    ingress_inside_xfrm: ingress_xfrm<Kernel, INSIDE>;
    ingress_outside_xfrm: ingress_xfrm<Kernel, OUTSIDE>;
    ingress_both_xfrm: ingress_xfrm<Kernel, BOTH>;
    egress_outside_l2: egress_outside<Kernel, ETHERNET>;
    egress_outside_l3: egress_outside<Kernel, NONE>;
    egress_guard_l2: egress_guard<Kernel, ETHERNET>;
    egress_guard_l3: egress_guard<Kernel, NONE>;
    egress_carrier_l2: egress_carrier<Kernel, ETHERNET>;
    egress_loopback_l2: egress_loopback<Kernel, ETHERNET>;

    explain_ingress_inside_l2: ingress<Rehearsal, ETHERNET, INSIDE>;
    explain_ingress_inside_l3: ingress<Rehearsal, NONE, INSIDE>;
    explain_ingress_outside_l2: ingress<Rehearsal, ETHERNET, OUTSIDE>;
    explain_ingress_outside_l3: ingress<Rehearsal, NONE, OUTSIDE>;
    explain_ingress_both_l2: ingress<Rehearsal, ETHERNET, BOTH>;
    explain_ingress_both_l3: ingress<Rehearsal, NONE, BOTH>;
    explain_egress_outside_l2: egress_outside<Rehearsal, ETHERNET>;
    explain_egress_outside_l3: egress_outside<Rehearsal, NONE>;
    explain_egress_guard_l2: egress_guard<Rehearsal, ETHERNET>;
    explain_egress_guard_l3: egress_guard<Rehearsal, NONE>;
    explain_egress_carrier_l2: egress_carrier<Rehearsal, ETHERNET>;
    explain_egress_loopback_l2: egress_loopback<Rehearsal, ETHERNET>;

    traced_ingress_inside_l2: ingress<Traced, ETHERNET, INSIDE>;
    traced_ingress_inside_l3: ingress<Traced, NONE, INSIDE>;
    traced_ingress_outside_l2: ingress<Traced, ETHERNET, OUTSIDE>;
    traced_ingress_outside_l3: ingress<Traced, NONE, OUTSIDE>;
    traced_ingress_both_l2: ingress<Traced, ETHERNET, BOTH>;
    traced_ingress_both_l3: ingress<Traced, NONE, BOTH>;
    traced_ingress_inside_xfrm: ingress_xfrm<Traced, INSIDE>;
    traced_ingress_outside_xfrm: ingress_xfrm<Traced, OUTSIDE>;
    traced_ingress_both_xfrm: ingress_xfrm<Traced, BOTH>;
    traced_egress_outside_l2: egress_outside<Traced, ETHERNET>;
    traced_egress_outside_l3: egress_outside<Traced, NONE>;
    traced_egress_guard_l2: egress_guard<Traced, ETHERNET>;
    traced_egress_guard_l3: egress_guard<Traced, NONE>;
    traced_egress_carrier_l2: egress_carrier<Traced, ETHERNET>;
    traced_egress_loopback_l2: egress_loopback<Traced, ETHERNET>;
}
