//! XDP programs, one per part that a device plays.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_xdp_load_bytes;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use vpnat_common::checksum::{self, Sum};
use vpnat_common::engine::fast;
use vpnat_common::engine::tables::Tables as _;
use vpnat_common::engine::Decision;
use vpnat_common::layout::device::role::{INSIDE, OUTSIDE};
use vpnat_common::layout::outcome::{Fate, Hook, Outcome};
use vpnat_common::packet::{Packet, Wire};

use crate::maps::XDP_DEVICES;
use crate::tables::Kernel;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Offset of its type field.
const ETHER_TYPE: usize = 12;

/// A frame in the driver's memory.
struct Frame<'a> {
    context: &'a XdpContext,
}

impl Frame<'_> {
    /// What lies at `offset` from the start of the frame.
    #[inline(always)]
    fn place<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.context.data() + offset;
        if start + size_of::<T>() > self.context.data_end() {
            return None;
        }
        Some(start as *mut T)
    }

    #[inline(always)]
    fn is_ipv4(&self) -> bool {
        // SAFETY: `place` has checked the bounds.
        self.place::<[u8; 2]>(ETHER_TYPE).is_some_and(|place| unsafe { *place } == [0x08, 0x00])
    }

    /// Writes both Ethernet addresses.
    #[inline(always)]
    fn address(&mut self, dst: [u8; 6], src: [u8; 6]) -> bool {
        match self.place::<[[u8; 6]; 2]>(0) {
            Some(place) => {
                // SAFETY: `place` has checked the bounds.
                unsafe { place.write_unaligned([dst, src]) };
                true
            }
            None => false,
        }
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        // SAFETY: `place` has checked the bounds; `Wire` types have alignment 1 and take any bytes.
        self.place::<T>(ETHERNET + offset).map(|place| unsafe { place.read_unaligned() })
    }

    #[inline(always)]
    fn load_at<T: Wire>(&self, offset: usize) -> Option<T> {
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value` or fails; `Wire` types take any bytes.
        unsafe {
            let failed = bpf_xdp_load_bytes(
                self.context.ctx,
                (ETHERNET + offset) as u32,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            (failed == 0).then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        match self.place::<T>(ETHERNET + offset) {
            Some(place) => {
                // SAFETY: `place` has checked the bounds.
                unsafe { place.write_unaligned(value) };
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn store_at<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        // The fast path's offsets are constants once inlined, so this is the direct store.
        self.store(offset, value)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.context.data_end() - self.context.data()).wrapping_sub(ETHERNET) as u32
    }

    #[inline(always)]
    fn change_checksum(&mut self, at: usize, addr_delta: u16, port_delta: u16, optional: bool) -> bool {
        let Some(old) = self.load::<[u8; 2]>(at) else { return false };
        let old = u16::from_ne_bytes(old);
        if optional && old == 0 {
            return true;
        }
        let mut new = checksum::apply(old, Sum(addr_delta as u32).add16(port_delta));
        if optional && new == 0 {
            new = 0xffff;
        }
        self.store(at, new.to_ne_bytes())
    }
}

#[inline(always)]
fn run<const ROLES: u8>(context: &XdpContext) -> u32 {
    let kernel = Kernel::new(context.as_ptr(), context.ingress_ifindex() as u32);
    let mut frame = Frame { context };
    if !frame.is_ipv4() {
        return end(&kernel, Decision::nobody(Outcome::NotOurs), frame.len());
    }
    let plan = match fast::plan::<_, _, ROLES>(&kernel, &frame) {
        Ok(plan) => plan,
        Err(decision) => return end(&kernel, decision, frame.len()),
    };
    let slot = plan.next_hop.slot;
    let Some(port) = kernel.xdp_port(slot) else {
        return end(&kernel, Decision { outcome: Outcome::ToStackRoute, ..plan.decision() }, plan.bytes());
    };
    // Asked before anything is written: a device that is gone leaves the packet to the stack, unchanged.
    let action = if port.ifindex == context.ingress_ifindex() as u32 {
        xdp_action::XDP_TX
    } else {
        match XDP_DEVICES.redirect(slot as u32, 0) {
            Ok(action) => action,
            Err(_) => {
                let decision = Decision { outcome: Outcome::ToStackRoute, ..plan.decision() };
                return end(&kernel, decision, plan.bytes());
            }
        }
    };
    if !plan.carry_out(&mut frame) || !frame.address(plan.next_hop.mac, port.mac) {
        return end(&kernel, Decision { outcome: Outcome::Unfinished, ..plan.decision() }, plan.bytes());
    }
    let decision = plan.decision();
    kernel.count(decision.vendor, Hook::Xdp, decision.outcome, plan.bytes());
    action
}

/// Counts a packet that is not translated here, and gives the verdict.
#[inline(always)]
fn end(kernel: &Kernel, decision: Decision, bytes: u32) -> u32 {
    kernel.count(decision.vendor, Hook::Xdp, decision.outcome, bytes);
    match decision.outcome.fate() {
        Fate::Passed => xdp_action::XDP_PASS,
        Fate::Dropped | Fate::Translated => xdp_action::XDP_DROP,
    }
}

/// XDP on a device where pods' packets arrive.
#[xdp]
pub fn xdp_inside(context: XdpContext) -> u32 {
    run::<INSIDE>(&context)
}

/// XDP on a device where the vendor's packets arrive.
#[xdp]
pub fn xdp_outside(context: XdpContext) -> u32 {
    run::<OUTSIDE>(&context)
}

/// XDP on a device where both arrive.
#[xdp]
pub fn xdp_both(context: XdpContext) -> u32 {
    run::<{ INSIDE | OUTSIDE }>(&context)
}
