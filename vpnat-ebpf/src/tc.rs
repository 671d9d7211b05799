//! TC programs, one per part that a device plays and per kind of link layer.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use vpnat_common::engine::ingress::{redirect, restore};
use vpnat_common::engine::tables::Tables as _;
use vpnat_common::engine::{Decision, egress};
use vpnat_common::layout::device::role::{INSIDE, OUTSIDE};
use vpnat_common::layout::outcome::{Hook, Outcome};
use vpnat_common::packet::{Packet as _, ipv4, transport};

use crate::skb::Skb;
use crate::tables::Kernel;

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
fn run<const L2: usize>(
    context: &TcContext,
    hook: Hook,
    decide: impl FnOnce(&Kernel, &mut Skb<'_, L2>) -> Decision,
) -> i32 {
    // SAFETY: the context is that of the running program.
    let (protocol, ifindex) = unsafe { ((*context.skb.skb).protocol, (*context.skb.skb).ifindex) };
    let kernel = Kernel::new(context.as_ptr(), ifindex);
    let mut packet = Skb::<L2>::new(context, HEADERS, kernel.settings().redirect_mark);
    let bytes = packet.len();
    let decision =
        if protocol == ETH_P_IP { decide(&kernel, &mut packet) } else { Decision::nobody(Outcome::NotOurs) };
    kernel.count(decision, hook, bytes);
    if decision.is_drop() { TC_ACT_SHOT } else { packet.action }
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
fn ingress<const L2: usize, const ROLES: u8>(context: &TcContext) -> i32 {
    run::<L2>(context, Hook::TcIngress, |kernel, packet| {
        if L2 == ETHERNET
            && let Some(decision) = redirect::<_, _, ROLES>(kernel, packet)
        {
            return decision;
        }
        restore::<_, _, ROLES>(kernel, packet)
    })
}

#[inline(always)]
fn egress_outside<const L2: usize>(context: &TcContext) -> i32 {
    // SAFETY: the context is that of the running program.
    let (ingress_ifindex, mark) = unsafe { ((*context.skb.skb).ingress_ifindex, (*context.skb.skb).mark) };
    run::<L2>(context, Hook::TcEgress, |kernel, packet| {
        // What was redirected came in by a device: the instance's own packets can bear any mark.
        if mark != 0 && ingress_ifindex != 0 && mark == kernel.settings().redirect_mark {
            context.set_mark(0);
            if egress::is_translated(kernel, packet) {
                return Decision::nobody(Outcome::Redirected);
            }
        }
        egress::translate(kernel, packet, ingress_ifindex)
    })
}

#[inline(always)]
fn egress_guard<const L2: usize>(context: &TcContext) -> i32 {
    run::<L2>(context, Hook::TcGuard, |kernel, packet| egress::guard(kernel, packet))
}

programs! {
    ingress_inside_l2: ingress<ETHERNET, INSIDE>;
    ingress_inside_l3: ingress<NONE, INSIDE>;
    ingress_outside_l2: ingress<ETHERNET, OUTSIDE>;
    ingress_outside_l3: ingress<NONE, OUTSIDE>;
    ingress_both_l2: ingress<ETHERNET, BOTH>;
    ingress_both_l3: ingress<NONE, BOTH>;
    egress_outside_l2: egress_outside<ETHERNET>;
    egress_outside_l3: egress_outside<NONE>;
    egress_guard_l2: egress_guard<ETHERNET>;
    egress_guard_l3: egress_guard<NONE>;
}
