//! XDP programs, one per part that a device plays.

use core::mem::offset_of;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::{bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use vpnat_common::addr::Mac;
use vpnat_common::checksum::{self, Sum};
use vpnat_common::engine::Decision;
use vpnat_common::engine::fast;
use vpnat_common::engine::tables::{Link, Tables as _};
use vpnat_common::layout::device::role::{INSIDE, OUTSIDE};
use vpnat_common::layout::outcome::{Hook, Outcome};
use vpnat_common::packet::{Ip, Packet, Subject, Wire};

use crate::maps::{DEVICES, XDP_DEVICES, XDP_PORTS};
use crate::rehearsal::Rehearsal;
use crate::tables::{Kernel, Surroundings};
use crate::trace::Traced;
use crate::unaligned::{self, packet_pointer};
use crate::whole::{Places as _, Whole};

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Offset of its type field.
const ETHER_TYPE: usize = 12;

/// A frame in the driver's memory. No helper that is called here moves it, so its bounds hold throughout.
struct Frame<'a> {
    context: &'a XdpContext,
    start: usize,
    end: usize,
    /// How it leaves, once that is decided.
    action: u32,
}

impl<'a> Frame<'a> {
    #[inline(always)]
    fn new(context: &'a XdpContext) -> Self {
        // SAFETY: the context is that of the running program.
        let (start, end) = unsafe {
            (
                packet_pointer::<_, { offset_of!(xdp_md, data) }>(context.ctx),
                packet_pointer::<_, { offset_of!(xdp_md, data_end) }>(context.ctx),
            )
        };
        Self { context, start, end, action: xdp_action::XDP_DROP }
    }

    /// What lies at `offset` from the start of the frame.
    #[inline(always)]
    fn place<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.start + offset;
        if start + size_of::<T>() > self.end {
            return None;
        }
        Some(start as *mut T)
    }

    #[inline(always)]
    fn is_ipv4(&self) -> bool {
        // Group addresses (the first octet's lowest bit) are not forwarded.
        // SAFETY: `place` has checked the bounds.
        let group =
            self.place::<[u8; 1]>(0).is_none_or(|place| unsafe { unaligned::read(place) }[0] & 1 != 0);
        // SAFETY: as above.
        !group
            && self
                .place::<[u8; 2]>(ETHER_TYPE)
                .is_some_and(|place| unsafe { unaligned::read(place) } == [0x08, 0x00])
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        // SAFETY: `place` has checked the bounds; `Wire` types have alignment 1 and take any bytes.
        self.place::<T>(ETHERNET + offset).map(|place| unsafe { unaligned::read(place) })
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
                unsafe { unaligned::write(place, value) };
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn store_at<T: Wire>(&mut self, offset: usize, mut value: T) -> bool {
        // SAFETY: `value` lives through the call and has the stated length.
        let failed = unsafe {
            bpf_xdp_store_bytes(
                self.context.ctx,
                (ETHERNET + offset) as u32,
                (&raw mut value).cast(),
                size_of::<T>() as u32,
            )
        };
        failed == 0
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.end - self.start).wrapping_sub(ETHERNET) as u32
    }

    #[inline(always)]
    fn change_checksum<const PLAIN: bool>(
        &mut self,
        at: usize,
        addr_delta: u16,
        port_delta: Sum,
        optional: bool,
    ) -> bool {
        let old = if PLAIN { self.load::<[u8; 2]>(at) } else { self.load_at(at) };
        let Some(old) = old else { return false };
        let old = u16::from_ne_bytes(old);
        if optional && old == 0 {
            return true;
        }
        let mut new = checksum::apply(old, port_delta.add16(addr_delta));
        if optional && new == 0 {
            new = 0xffff;
        }
        let new = new.to_ne_bytes();
        if PLAIN { self.store(at, new) } else { self.store_at(at, new) }
    }
}

impl Link for Frame<'_> {
    #[inline(always)]
    fn arrives(&self) -> u8 {
        let ifindex = self.context.ingress_ifindex() as u32;
        // SAFETY: copied at once.
        unsafe { DEVICES.get(Whole::new(ifindex).key()).map_or(0, |device| device.xdp_slot) }
    }

    #[inline(always)]
    fn is_addressed_here(&self, arrives: u8) -> bool {
        let Some(port) = XDP_PORTS.look(arrives as u32) else { return false };
        let Some(place) = self.place::<[Mac; 1]>(0) else { return false };
        // SAFETY: `place` has checked the bounds.
        let [mac] = unsafe { unaligned::read(place) };
        mac == port.mac()
    }

    #[inline(always)]
    fn wire_len(&self, ip: &Ip, _: &Subject) -> u32 {
        ip.total_len
    }

    #[inline(always)]
    fn reserve(&mut self, slot: u8) -> bool {
        // Also to the device that it came by: XDP_TX would ask more of a veth's peer.
        match XDP_DEVICES.redirect(slot as u32, 0) {
            Ok(action) => {
                self.action = action;
                true
            }
            Err(_) => false,
        }
    }

    #[inline(always)]
    fn address(&mut self, slot: u8, mac: Mac) -> bool {
        let (Some(port), Some(place)) = (XDP_PORTS.look(slot as u32), self.place::<[Mac; 2]>(0)) else {
            return false;
        };
        let ((head, tail), (own_head, own_tail)) = (mac.parts(), port.mac().parts());
        let place = place.cast::<u8>();
        // SAFETY: `place` has checked the bounds of both addresses, which lie one behind the other.
        unsafe {
            unaligned::write(place.cast(), [head]);
            unaligned::write(place.add(4).cast(), tail.to_ne_bytes());
            unaligned::write(place.add(6).cast(), [own_head]);
            unaligned::write(place.add(10).cast(), own_tail.to_ne_bytes());
        }
        true
    }
}

#[inline(always)]
fn run<T: Surroundings, const ROLES: u8>(context: &XdpContext) -> u32 {
    let ifindex = context.ingress_ifindex() as u32;
    let tables = T::tables(context.as_ptr(), ifindex);
    let mut frame = Frame::new(context);
    let bytes = frame.len();
    let is_ipv4 = frame.is_ipv4();
    T::arrived(&frame, Hook::Xdp, ifindex, is_ipv4);
    let decision = if is_ipv4 {
        fast::forward::<_, _, ROLES>(&tables, &mut frame)
    } else {
        Decision::nobody(Outcome::NotOurs)
    };
    tables.count(decision, Hook::Xdp, bytes);
    T::decided(&frame, decision);
    if decision.is_drop() {
        xdp_action::XDP_DROP
    } else if decision.is_translated() {
        frame.action
    } else {
        xdp_action::XDP_PASS
    }
}

macro_rules! programs {
    ($($(#[$attr:meta])* $name:ident: $tables:ident, $roles:expr;)+) => {
        $(
            $(#[$attr])*
            #[xdp]
            pub fn $name(context: XdpContext) -> u32 {
                run::<$tables, { $roles }>(&context)
            }
        )+
    };
}

programs! {
    /// XDP on a device where pods' packets arrive.
    xdp_inside: Kernel, INSIDE;
    /// XDP on a device where the vendor's packets arrive.
    xdp_outside: Kernel, OUTSIDE;
    /// XDP on a device where both arrive.
    xdp_both: Kernel, INSIDE | OUTSIDE;

    /// A rehearsal of `xdp_inside`.
    explain_xdp_inside: Rehearsal, INSIDE;
    /// A rehearsal of `xdp_outside`.
    explain_xdp_outside: Rehearsal, OUTSIDE;
    /// A rehearsal of `xdp_both`.
    explain_xdp_both: Rehearsal, INSIDE | OUTSIDE;

    /// `xdp_inside` with a tracer who is told.
    traced_xdp_inside: Traced, INSIDE;
    /// `xdp_outside`, likewise.
    traced_xdp_outside: Traced, OUTSIDE;
    /// `xdp_both`, likewise.
    traced_xdp_both: Traced, INSIDE | OUTSIDE;
}
