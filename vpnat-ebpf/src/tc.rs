//! TC programs, one per part that a device plays and per kind of link layer, and the same once more for rehearsals.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use vpnat_common::engine::ingress::{redirect, restore};
use vpnat_common::engine::{Decision, egress, refusal};
use vpnat_common::layout::device::role::{INSIDE, OUTSIDE};
use vpnat_common::layout::outcome::{Hook, Outcome};
use vpnat_common::packet::{Packet as _, ipv4, transport};

use crate::rehearsal::Rehearsal;
use crate::skb::Skb;
use crate::tables::{Kernel, Surroundings};

/// Length of an Ethernet header; tunnels have none.
const ETHERNET: usize = 14;
const NONE: usize = 0;
/// Single-arm: pods' and the vendor's packets arrive on one device.
const BOTH: u8 = INSIDE | OUTSIDE;

/// What is read in place: an IP header without options and TCP's.
const HEADERS: usize = ipv4::LEN + transport::TCP_LEN;

const ETH_P_IP: u32 = (0x0800u16).to_be() as u32;

/// Runs `decide` on an IPv4 packet, counts how it ended and turns that into a verdict. "Unspecified" lets
/// the next program have its say; a drop is final.
#[inline(always)]
fn run<T: Surroundings, const L2: usize>(
    context: &TcContext,
    hook: Hook,
    decide: impl FnOnce(&T, &mut Skb<'_, L2>) -> Decision,
) -> i32 {
    // SAFETY: the context is that of the running program.
    let (protocol, ifindex) = unsafe { ((*context.skb.skb).protocol, (*context.skb.skb).ifindex) };
    let tables = T::new(context.as_ptr(), ifindex);
    let mut packet = Skb::<L2>::new(context, HEADERS, tables.settings().redirect_mark);
    let bytes = packet.len();
    let decision = if T::REHEARSES || protocol == ETH_P_IP {
        decide(&tables, &mut packet)
    } else {
        Decision::nobody(Outcome::NotOurs)
    };
    tables.count(decision, hook, bytes);
    if !decision.is_drop() {
        return packet.action;
    }
    let answers = !T::REHEARSES && matches!(hook, Hook::TcEgress);
    if answers && refusal::answer(&tables, &mut packet, decision) { packet.action } else { TC_ACT_SHOT }
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
    run::<T, L2>(context, Hook::TcIngress, |tables, packet| {
        if L2 == ETHERNET
            && let Some(decision) = redirect::<_, _, ROLES>(tables, packet)
        {
            return decision;
        }
        restore::<_, _, ROLES>(tables, packet)
    })
}

#[inline(always)]
fn egress_outside<T: Surroundings, const L2: usize>(context: &TcContext) -> i32 {
    // SAFETY: the context is that of the running program.
    let (ingress_ifindex, mark) = unsafe { ((*context.skb.skb).ingress_ifindex, (*context.skb.skb).mark) };
    run::<T, L2>(context, Hook::TcEgress, |tables, packet| {
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
    run::<T, L2>(context, Hook::TcGuard, |tables, packet| egress::guard(tables, packet))
}

#[inline(always)]
fn egress_carrier<T: Surroundings, const L2: usize>(context: &TcContext) -> i32 {
    run::<T, L2>(context, Hook::TcGuard, |tables, packet| egress::carry(tables, packet))
}

programs! {
    ingress_inside_l2: ingress<Kernel, ETHERNET, INSIDE>;
    ingress_inside_l3: ingress<Kernel, NONE, INSIDE>;
    ingress_outside_l2: ingress<Kernel, ETHERNET, OUTSIDE>;
    ingress_outside_l3: ingress<Kernel, NONE, OUTSIDE>;
    ingress_both_l2: ingress<Kernel, ETHERNET, BOTH>;
    ingress_both_l3: ingress<Kernel, NONE, BOTH>;
    egress_outside_l2: egress_outside<Kernel, ETHERNET>;
    egress_outside_l3: egress_outside<Kernel, NONE>;
    egress_guard_l2: egress_guard<Kernel, ETHERNET>;
    egress_guard_l3: egress_guard<Kernel, NONE>;
    egress_carrier_l2: egress_carrier<Kernel, ETHERNET>;

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
}
