//! Which device plays which part.

use crate::addr::{Ip4, Mac};

/// Bits of [`Device::roles`].
pub mod role {
    /// Pods' packets arrive here.
    pub const INSIDE: u8 = 1;
    /// The vendor is reached through here, and replies arrive here.
    pub const OUTSIDE: u8 = 2;
    /// The egress hook is attached: packets to a vendor may leave through this device.
    pub const GUARDED: u8 = 4;
}

/// A network device, keyed by interface index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Device {
    /// Bits of [`role`].
    pub roles: u8,
    /// Slot in the XDP maps, 0 if XDP cannot send through this device.
    pub xdp_slot: u8,
    /// Padding, 0.
    pub _pad: [u8; 2],
    /// Its own address, the source of ICMP errors that leave by it; 0.0.0.0 if it has none.
    pub address: Ip4,
}

/// A device that XDP may send through, by slot. Slot 0 is never used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct XdpPort {
    /// Interface index, host byte order; 0 if the slot is free.
    pub ifindex: u32,
    /// The device's own Ethernet address.
    pub mac: [u8; 6],
    /// Bits of [`role`].
    pub roles: u8,
    /// Padding, 0.
    pub _pad: u8,
}

impl XdpPort {
    /// The device's own Ethernet address.
    #[inline(always)]
    pub const fn mac(&self) -> Mac {
        const { assert!(core::mem::offset_of!(Self, mac) % align_of::<Self>() == 0 && align_of::<Self>() == 4) };
        let words = (&raw const self.mac).cast::<u16>();
        // SAFETY: the six octets of a field that is aligned like a word (asserted above), read in two pieces because the
        // compiler would take four.
        unsafe { Mac::from_parts(words.cast::<u32>().read(), words.add(2).read()) }
    }
}
