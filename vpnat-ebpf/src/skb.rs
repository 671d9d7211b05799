//! Packets in TC programs: socket buffers.

use core::mem::offset_of;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_REDIRECT, TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::{
    bpf_clone_redirect, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_head,
    bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use vpnat_common::addr::Mac;
use vpnat_common::checksum::Sum;
use vpnat_common::engine::holding::Holding;
use vpnat_common::engine::refusal::{self, Answering, QUOTE};
use vpnat_common::engine::tables::Link;
use vpnat_common::layout::held;
use vpnat_common::packet::{Ip, Kind, Packet, Subject, Wire};

use crate::maps::{ASIDE, HELD_BYTES, XDP_PORTS};
use crate::unaligned::{self, packet_pointer};
use crate::whole::Places as _;

/// `skb->pkt_type` of what is addressed to this host (`include/uapi/linux/if_packet.h`).
const PACKET_HOST: u32 = 0;

/// Length of an Ethernet header.
const ETHERNET: u32 = 14;

/// `~x + x`: the difference that changes nothing.
const NO_CHANGE: u16 = 0xffff;

/// A socket buffer whose IP header starts `L2` bytes in: 14 behind Ethernet, 0 on a tunnel.
pub struct Skb<'a, const L2: usize> {
    context: &'a TcContext,
    /// The mark to redirect with, 0 if this program does not.
    mark: u32,
    /// The verdict, once the packet is on its way to another device.
    pub action: i32,
}

/// Where the directly readable part of the packet lies. Helpers move it, so this is asked each time.
#[inline(always)]
pub fn bounds(context: &TcContext) -> (usize, usize) {
    let skb = context.skb.skb.cast_const();
    // SAFETY: the context is that of the running program.
    unsafe {
        (
            packet_pointer::<_, { offset_of!(__sk_buff, data) }>(skb),
            packet_pointer::<_, { offset_of!(__sk_buff, data_end) }>(skb),
        )
    }
}

impl<'a, const L2: usize> Skb<'a, L2> {
    /// Wraps the program's packet and makes its first `header` bytes from the IP header on readable in
    /// place, if it has as many.
    #[inline(always)]
    pub fn new(context: &'a TcContext, header: usize, mark: u32) -> Self {
        let (start, end) = bounds(context);
        if end.wrapping_sub(start) < L2 + header {
            // A failure shows when the header is read.
            // SAFETY: the context is that of the running program.
            unsafe { bpf_skb_pull_data(context.skb.skb, (L2 + header) as u32) };
        }
        Self { context, mark, action: TC_ACT_UNSPEC }
    }

    #[inline(always)]
    fn place<T>(&self, offset: usize) -> Option<*mut T> {
        let (start, end) = bounds(self.context);
        let start = start + L2 + offset;
        if start + size_of::<T>() > end {
            return None;
        }
        Some(start as *mut T)
    }
}

impl<const L2: usize> Packet for Skb<'_, L2> {
    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        // SAFETY: `place` has checked the bounds; `Wire` types have alignment 1 and take any bytes.
        self.place::<T>(offset).map(|place| unsafe { unaligned::read(place) })
    }

    #[inline(always)]
    fn load_at<T: Wire>(&self, offset: usize) -> Option<T> {
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value` or fails; `Wire` types take any bytes.
        unsafe {
            let failed = bpf_skb_load_bytes(
                self.context.as_ptr(),
                (L2 + offset) as u32,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            (failed == 0).then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        match self.place::<T>(offset) {
            Some(place) => {
                // SAFETY: `place` has checked the bounds; the verifier's prologue has made the head writable.
                unsafe { unaligned::write(place, value) };
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn store_at<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        // SAFETY: `value` lives through the call and has the stated length.
        let failed = unsafe {
            bpf_skb_store_bytes(
                self.context.skb.skb,
                (L2 + offset) as u32,
                (&raw const value).cast(),
                size_of::<T>() as u32,
                0,
            )
        };
        failed == 0
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.context.len().wrapping_sub(L2 as u32)
    }

    #[inline(always)]
    fn is_big(&self) -> bool {
        // SAFETY: the context is that of the running program.
        unsafe { (*self.context.skb.skb).gso_size != 0 }
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        // SAFETY: the context is that of the running program.
        let segments = unsafe { (*self.context.skb.skb).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    #[inline(always)]
    fn change_checksum<const PLAIN: bool>(
        &mut self,
        at: usize,
        addr_delta: u16,
        port_delta: Sum,
        optional: bool,
    ) -> bool {
        let port_delta = port_delta.fold();
        // The helper knows whether the field is a full sum or, with offload, only that of the pseudo-header.
        let mark = if optional { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
        let skb = self.context.skb.skb;
        let at = (L2 + at) as u32;
        // SAFETY: the context is that of the running program; a size of 0 makes `to` a difference.
        unsafe {
            (addr_delta == NO_CHANGE
                || bpf_l4_csum_replace(skb, at, 0, addr_delta as u64, BPF_F_PSEUDO_HDR as u64 | mark) == 0)
                && (port_delta == NO_CHANGE || bpf_l4_csum_replace(skb, at, 0, port_delta as u64, mark) == 0)
        }
    }
}

/// `len` if it is from 1 to `MOST`, a power of two, in a form in which the verifier, too, sees that it is: that of 6.1
/// learns nothing from a comparison with 0.
#[inline(always)]
fn within<const MOST: usize>(len: u32) -> Option<u32> {
    const { assert!(MOST.is_power_of_two()) };
    if len == 0 || len > MOST as u32 {
        return None;
    }
    #[cfg(target_arch = "bpf")]
    let len = {
        let mut same = len as u64;
        // SAFETY: arithmetic on a register; it changes nothing, as was just checked.
        unsafe {
            core::arch::asm!(
                "{len} += -1",
                "{len} &= {mask}",
                "{len} += 1",
                len = inout(reg) same,
                mask = const MOST - 1,
                options(pure, nomem, nostack),
            );
        }
        same as u32
    };
    Some(len)
}

impl<const L2: usize> Skb<'_, L2> {
    /// Makes the buffer hold `len` bytes behind the link layer's header, those at `from`; false if there is no memory.
    ///
    /// # Safety
    /// `len` bytes at `from` can be read.
    #[inline(always)]
    unsafe fn replace(&mut self, from: *const u8, len: u32) -> bool {
        let skb = self.context.skb.skb;
        // SAFETY: the context is that of the running program; the caller's promise.
        unsafe {
            bpf_skb_change_tail(skb, L2 as u32 + len, 0) == 0
                && bpf_skb_store_bytes(skb, L2 as u32, from.cast(), len, 0) == 0
        }
    }
}

impl<const L2: usize> Holding for Skb<'_, L2> {
    #[inline(always)]
    fn keep(&self, slot: u32, len: u32) -> bool {
        let Some(place) = HELD_BYTES.at_ptr(slot) else { return false };
        let Some(len) = within::<{ held::KEPT_BYTES }>(len) else { return false };
        // SAFETY: a slot has room for `len` bytes.
        unsafe { bpf_skb_load_bytes(self.context.as_ptr(), L2 as u32, place.cast(), len) == 0 }
    }

    #[inline(always)]
    fn put_aside(&mut self) -> bool {
        // SAFETY: the context is that of the running program.
        if unsafe { (*self.context.skb.skb).gso_size } != 0 {
            // It would come back as one packet. No sender makes such a fragment.
            return false;
        }
        let Some(aside) = ASIDE.at_ptr(0) else { return false };
        let Some(len) = within::<{ held::FIRST_BYTES }>(self.len()) else { return false };
        // SAFETY: there is room for `len` bytes, and they are this CPU's.
        unsafe {
            (*aside).len = len;
            let place = (&raw mut (*aside).bytes).cast();
            bpf_skb_load_bytes(self.context.as_ptr(), L2 as u32, place, len) == 0
        }
    }

    #[inline(always)]
    fn send_kept(&mut self, slot: u32, len: u32, inbound: bool) {
        let Some(place) = HELD_BYTES.at_ptr(slot) else { return };
        let Some(len) = within::<{ held::KEPT_BYTES }>(len) else { return };
        let flags = if inbound { BPF_F_INGRESS as u64 } else { 0 };
        // SAFETY: a slot has `len` bytes; the context is that of the running program. A copy that cannot be made is a
        // lost packet.
        unsafe {
            if self.replace(place.cast(), len) {
                let skb = self.context.skb.skb;
                bpf_clone_redirect(skb, (*skb).ifindex, flags);
            }
        }
    }

    #[inline(always)]
    fn take_back(&mut self) -> bool {
        let Some(aside) = ASIDE.at_ptr(0) else { return false };
        // SAFETY: `put_aside` has left `len` bytes there; programs of one CPU do not interrupt each other here, and what
        // `send_kept` runs are later fragments, which put nothing aside.
        unsafe {
            let Some(len) = within::<{ held::FIRST_BYTES }>((*aside).len) else { return false };
            self.replace((&raw const (*aside).bytes).cast(), len)
        }
    }
}

impl<const L2: usize> Answering for Skb<'_, L2> {
    #[inline(always)]
    fn arrived_by(&self) -> u32 {
        // SAFETY: the context is that of the running program.
        unsafe { (*self.context.skb.skb).ingress_ifindex }
    }

    #[inline(always)]
    fn quote(&mut self, len: u32) -> bool {
        let Some(aside) = ASIDE.at_ptr(0) else { return false };
        let Some(len) = within::<{ QUOTE.next_power_of_two() as usize }>(len) else { return false };
        let skb = self.context.skb.skb;
        let at = (L2 + refusal::HEADERS) as u32;
        // SAFETY: the context is that of the running program; the quote is shorter than what there is room for.
        unsafe {
            bpf_skb_change_tail(skb, at + len, 0) == 0
                && bpf_skb_store_bytes(skb, at, (&raw const (*aside).bytes).cast(), len, 0) == 0
        }
    }

    #[inline(always)]
    fn send_back(&mut self, ifindex: u32) -> bool {
        let skb = self.context.skb.skb;
        // The helper takes an Ethernet header off, whatever there was.
        // SAFETY: the context is that of the running program; without parameters the kernel looks the neighbour up.
        unsafe {
            if L2 == 0 && bpf_skb_change_head(skb, ETHERNET, 0) != 0 {
                return false;
            }
            self.action = bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32;
        }
        self.action == TC_ACT_REDIRECT
    }
}

impl<const L2: usize> Link for Skb<'_, L2> {
    #[inline(always)]
    fn arrives(&self) -> u8 {
        // Not asked for: the kernel has compared the addresses.
        0
    }

    #[inline(always)]
    fn is_addressed_here(&self, _: u8) -> bool {
        // SAFETY: the context is that of the running program.
        unsafe { (*self.context.skb.skb).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn wire_len(&self, ip: &Ip, subject: &Subject) -> u32 {
        // SAFETY: the context is that of the running program.
        let gso_size = unsafe { (*self.context.skb.skb).gso_size };
        if gso_size == 0 {
            return ip.total_len;
        }
        let transport = if subject.kind == Kind::Tcp { subject.tcp.header_len as u32 } else { 8 };
        ip.header_len as u32 + transport + gso_size
    }

    #[inline(always)]
    fn reserve(&mut self, slot: u8) -> bool {
        let skb = self.context.skb.skb;
        // SAFETY: the context is that of the running program.
        let (mark, tagged, kind) = unsafe { ((*skb).mark, (*skb).vlan_present, (*skb).pkt_type) };
        // A mark means that somebody else wants to know this packet again, behind the stack; and what is not
        // addressed to this host is not its to forward.
        if self.mark == 0 || mark != 0 || tagged != 0 || kind != PACKET_HOST {
            return false;
        }
        XDP_PORTS.look(slot as u32).is_some_and(|port| port.ifindex != 0)
    }

    #[inline(always)]
    fn address(&mut self, slot: u8, mac: Mac) -> bool {
        let Some(port) = XDP_PORTS.look(slot as u32) else { return false };
        let (start, end) = bounds(self.context);
        if L2 == 0 || start + size_of::<[Mac; 2]>() > end {
            return false;
        }
        // SAFETY: the bounds are checked; the verifier's prologue has made the head writable.
        unsafe { unaligned::write(start as *mut [Mac; 2], [mac, port.mac()]) };
        self.context.set_mark(self.mark);
        // SAFETY: the helper has no preconditions; it takes effect with the verdict.
        self.action = unsafe { bpf_redirect(port.ifindex, 0) } as i32;
        true
    }
}
