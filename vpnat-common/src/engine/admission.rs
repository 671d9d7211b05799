//! What the first packet of a flow was found to be.

use super::tables::NextHop;
use crate::addr::{Ip4, Mac, Port};
use crate::opaque::opaque;

/// What the first packet of a flow was found to be: two whole words of the stack.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Admission {
    /// The egress address that it shall have.
    pub egress: Ip4,
    /// The port that its flow had until it ended; 0 if it had none.
    pub preferred: Port,
    /// Largest packet that the next hop takes, bytes.
    mtu: u16,
    /// Ethernet address of the next hop.
    mac: Mac,
    /// XDP slot of the device that it is sent through, 0 if XDP does not.
    slot: u8,
    _pad: u8,
}

const _: () = assert!(size_of::<Admission>() == size_of::<[u64; 2]>());

impl Admission {
    /// Nothing found yet.
    pub const NONE: Self = {
        let NextHop { slot, mac, mtu } = NextHop::UNKNOWN;
        Self { egress: Ip4::UNSPECIFIED, preferred: Port::new(0), mtu, mac, slot, _pad: 0 }
    };

    /// Where XDP sends it.
    #[inline(always)]
    pub const fn next_hop(&self) -> NextHop {
        NextHop { slot: self.slot, mac: self.mac, mtu: self.mtu }
    }

    /// Sets where XDP sends it.
    #[inline(always)]
    pub const fn set_next_hop(&mut self, next_hop: NextHop) {
        let NextHop { slot, mac, mtu } = next_hop;
        (self.slot, self.mac, self.mtu) = (slot, mac, mtu);
    }

    /// The same, of which the verifier knows nothing any more: it follows what opens a flow once, and not once for each way that led
    /// there, with or without a next hop or a port that the flow had before.
    #[inline(always)]
    pub fn forget(&mut self) {
        // SAFETY: as long and aligned as two words, and any bytes are an admission.
        let words = unsafe { &mut *core::ptr::from_mut(self).cast::<[u64; 2]>() };
        for word in words {
            *word = opaque(*word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_by_the_verifier_stays() {
        let next_hop = NextHop { slot: 3, mac: Mac::new([2, 0, 0, 0, 0, 9]), mtu: 1_420 };
        let mut admission = Admission { egress: Ip4::new(10, 0, 1, 10), ..Admission::NONE };
        admission.preferred = Port::new(40_000);
        admission.set_next_hop(next_hop);
        admission.forget();
        assert_eq!(admission.egress, Ip4::new(10, 0, 1, 10));
        assert_eq!(admission.preferred, Port::new(40_000));
        assert_eq!(admission.next_hop(), next_hop);
    }
}
