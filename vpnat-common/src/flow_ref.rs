//! A flow entry where it lies: in the map, while other CPUs use it too.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::addr::{Ip4, Mac, Port};
use crate::atomic;
use crate::layout::clock::Moment;
use crate::layout::flow::{Direction, FlowEntry, FlowKey, Phase};

/// Where a packet's addresses go, copied out of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// Source when outbound, destination when inbound.
    pub addr: Ip4,
    /// Port or query identifier, likewise.
    pub port: Port,
    /// Folded checksum difference of the address.
    pub addr_delta: u16,
    /// Vendor slot.
    pub vendor: u8,
}

impl Rewrite {
    /// There is none.
    pub const NONE: Self = Self { addr: Ip4::UNSPECIFIED, port: Port::new(0), addr_delta: 0, vendor: 0 };
}

/// A shared entry. Fields are read and written one at a time; none is ever borrowed, because another CPU
/// may write it meanwhile. What must agree is checked ([`FlowRef::rewrite`]), the rest (timers, counters,
/// TCP progress) may lose an update without harm.
#[derive(Clone, Copy)]
pub struct FlowRef<'a> {
    entry: NonNull<FlowEntry>,
    map: PhantomData<&'a FlowEntry>,
}

macro_rules! field {
    ($($(#[$attr:meta])* $get:ident, $set:ident: $type:ty;)+) => {
        $(
            $(#[$attr])*
            #[inline(always)]
            pub fn $get(&self) -> $type {
                // SAFETY: `new` vouches that the entry is readable; any bit pattern is a value of this field.
                unsafe { (&raw const (*self.entry.as_ptr()).$get).read_volatile() }
            }

            #[doc = concat!("Writes `", stringify!($get), "`.")]
            #[inline(always)]
            pub fn $set(&self, value: $type) {
                // SAFETY: `new` vouches that the entry is writable; the field is aligned.
                unsafe { (&raw mut (*self.entry.as_ptr()).$get).write_volatile(value) }
            }
        )+
    };
}

impl<'a> FlowRef<'a> {
    /// Wraps a pointer into the flow table.
    ///
    /// # Safety
    /// `entry` points to memory of a [`FlowEntry`]'s size and alignment that stays readable and writable
    /// for `'a`: a map value in the program that looked it up, or a live allocation on the host. It need
    /// not hold a valid entry.
    #[inline(always)]
    pub const unsafe fn new(entry: NonNull<FlowEntry>) -> Self {
        Self { entry, map: PhantomData }
    }

    field! {
        /// Bytes translated.
        bytes, set_bytes: u64;
        /// Packets translated.
        packets, set_packets: u64;
        /// [`FlowKey::check`] of its key.
        check, set_check: u16;
        /// This side's timer.
        expires, set_expires: Moment;
        /// When the flow was made.
        created, set_created: Moment;
        /// Bits of [`crate::layout::flow::sent`].
        sent, set_sent: u8;
        /// TCP window scale.
        window_scale, set_window_scale: u8;
        /// XDP slot of the way out.
        out_slot, set_out_slot: u8;
        /// TCP: end of what this side has sent.
        seq_end, set_seq_end: u32;
        /// TCP: what this side has acknowledged.
        ack, set_ack: u32;
        /// TCP: this side's last timestamp.
        ts_val, set_ts_val: u32;
        /// TCP: this side's last window.
        window, set_window: u16;
        /// When timers and next hop were last looked at.
        stamp, set_stamp: u16;
        /// What the next hop takes.
        mtu, set_mtu: u16;
    }

    /// The next hop's Ethernet address.
    #[inline(always)]
    pub fn out_mac(&self) -> Mac {
        let words = self.out_mac_words();
        // SAFETY: `new` vouches for the memory; the field's offset is a multiple of four (asserted below).
        unsafe { Mac::from_parts(words.cast::<u32>().read_volatile(), words.add(2).read_volatile()) }
    }

    /// Writes the next hop's Ethernet address.
    #[inline(always)]
    pub fn set_out_mac(&self, mac: Mac) {
        let words = self.out_mac_words();
        // SAFETY: as in `out_mac`.
        unsafe {
            words.write_volatile(mac.words[0]);
            words.add(1).write_volatile(mac.words[1]);
            words.add(2).write_volatile(mac.words[2]);
        }
    }

    #[inline(always)]
    fn out_mac_words(&self) -> *mut u16 {
        const { assert!(core::mem::offset_of!(FlowEntry, out_mac) % 4 == 0) };
        // SAFETY: the field lies within the entry.
        unsafe { (&raw mut (*self.entry.as_ptr()).out_mac).cast() }
    }

    #[inline(always)]
    fn byte(&self, offset: usize) -> u8 {
        // SAFETY: `offset` is a field's offset; bytes are read, not enums, so any content is a value.
        unsafe { self.entry.cast::<u8>().add(offset).read_volatile() }
    }

    /// Way of translation, `None` if the entry does not hold one.
    #[inline(always)]
    pub fn direction(&self) -> Option<Direction> {
        Direction::from_byte(self.byte(core::mem::offset_of!(FlowEntry, direction)))
    }

    /// Where the flow is in its life, `None` if the entry does not say.
    #[inline(always)]
    pub fn phase(&self) -> Option<Phase> {
        Phase::from_byte(self.byte(core::mem::offset_of!(FlowEntry, phase)))
    }

    /// Writes the phase.
    #[inline(always)]
    pub fn set_phase(&self, phase: Phase) {
        // SAFETY: as `field!`; the value written is valid.
        unsafe { (&raw mut (*self.entry.as_ptr()).phase).write_volatile(phase) }
    }

    /// The rewrite, if the entry is still that of `key` and translates in `direction`.
    #[inline(always)]
    pub fn rewrite(&self, key: &FlowKey, direction: Direction) -> Option<Rewrite> {
        let entry = self.entry.as_ptr();
        // SAFETY: `new` vouches for the memory; integers and arrays of them hold any bit pattern. An address is aligned
        // like the word that it is read as.
        let (addr, port, addr_delta, vendor, check) = unsafe {
            (
                (&raw const (*entry).new_addr).cast::<u32>().read_volatile(),
                (&raw const (*entry).new_port).read_volatile(),
                (&raw const (*entry).addr_delta).read_volatile(),
                (&raw const (*entry).vendor).read_volatile(),
                // Last, and it lies in front: a slot that changes hands shows its new owner's.
                (&raw const (*entry).check).read_volatile(),
            )
        };
        let addr = Ip4 { octets: addr.to_ne_bytes() };
        let sound = check == key.check(direction, addr, port)
            && self.byte(core::mem::offset_of!(FlowEntry, direction)) == direction as u8;
        sound.then_some(Rewrite { addr, port, addr_delta, vendor })
    }

    /// Makes this the beginning of a new entry: everything that is not said here is 0.
    #[inline(always)]
    pub fn begin(&self, vendor: u8, phase: Phase, expires: Moment, created: Moment) {
        const WORDS: usize = size_of::<FlowEntry>() / size_of::<u64>();
        let entry = FlowEntry { vendor, phase, expires, created, ..FlowEntry::EMPTY };
        // SAFETY: as long as the entry, which has no padding.
        let words: [u64; WORDS] = unsafe { core::mem::transmute(entry) };
        // Written as a whole, the zeros would become a call that fills byte by byte, and the verifier would go through
        // every one.
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: `new` vouches for the memory; the entry is aligned for its `u64`s.
            unsafe { self.entry.as_ptr().cast::<u64>().add(index).write_volatile(word) }
        }
    }

    /// Writes which way the entry translates, and to what.
    #[inline(always)]
    pub fn set_rewrite(&self, direction: Direction, addr: Ip4, port: Port, addr_delta: u16) {
        let entry = self.entry.as_ptr();
        // SAFETY: `new` vouches for the memory; the values written are valid.
        unsafe {
            (&raw mut (*entry).direction).write(direction);
            (&raw mut (*entry).new_addr).write(addr);
            (&raw mut (*entry).new_port).write(port);
            (&raw mut (*entry).addr_delta).write(addr_delta);
        }
    }

    /// Changes this side's timer from `seen` to `to` unless somebody else has changed it meanwhile; true if
    /// this caller did.
    #[inline(always)]
    pub fn claim(&self, seen: Moment, to: Moment) -> bool {
        // SAFETY: `new` vouches for the memory; `expires` is a 4-byte aligned u32 and is shared only by plain
        // loads, plain stores and this exchange.
        unsafe {
            let timer = (&raw mut (*self.entry.as_ptr()).expires).cast::<u32>();
            atomic::compare_exchange(timer, seen.seconds, to.seconds) == seen.seconds
        }
    }

    /// The address to write, whoever's the entry is.
    #[inline(always)]
    pub fn new_addr(&self) -> Ip4 {
        // SAFETY: as `field!`. An address is aligned like the word that it is read as.
        let word = unsafe { (&raw const (*self.entry.as_ptr()).new_addr).cast::<u32>().read_volatile() };
        Ip4 { octets: word.to_ne_bytes() }
    }

    /// The port to write, likewise.
    #[inline(always)]
    pub fn new_port(&self) -> Port {
        // SAFETY: as `field!`.
        unsafe { (&raw const (*self.entry.as_ptr()).new_port).read_volatile() }
    }

    /// Vendor slot.
    #[inline(always)]
    pub fn vendor(&self) -> u8 {
        self.byte(core::mem::offset_of!(FlowEntry, vendor))
    }

    /// A binding: how many flows it has.
    #[inline(always)]
    pub fn flows(&self) -> u32 {
        self.ack()
    }

    /// A binding: counts one flow more.
    #[inline(always)]
    pub fn add_flow(&self) {
        // SAFETY: `new` vouches for the memory; in a binding, only atomic steps change this 4-byte aligned word.
        unsafe { atomic::fetch_add(&raw mut (*self.entry.as_ptr()).ack, 1) };
    }

    /// A binding: counts one flow less, never below none; how many are left.
    #[inline(always)]
    pub fn remove_flow(&self) -> u32 {
        let seen = self.flows();
        if seen == 0 {
            return 0;
        }
        // SAFETY: as above. Two CPUs that remove the last at once would leave it at the largest number, and the timer to
        // end it: each has counted its own flow, so that there were two.
        unsafe { atomic::fetch_add(&raw mut (*self.entry.as_ptr()).ack, u32::MAX).wrapping_sub(1) }
    }

    /// Adds a packet of `bytes` to the entry's counters.
    #[inline(always)]
    pub fn count(&self, bytes: u32) {
        self.set_packets(self.packets() + 1);
        self.set_bytes(self.bytes() + bytes as u64);
    }
}
