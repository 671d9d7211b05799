//! A packet in a byte vector, for every hook.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::rc::Rc;

use vpnat_common::addr::Mac;
use vpnat_common::checksum::{self, Sum};
use vpnat_common::engine::holding::Holding;
use vpnat_common::engine::tables::Link;
use vpnat_common::packet::{Ip, Packet, Subject, Wire};

/// An IP packet; what the fast path says of its way out is kept beside it.
pub struct Frame {
    /// From the IP header on.
    pub bytes: Vec<u8>,
    /// Slot of the device that it leaves through.
    pub slot: Option<u8>,
    /// Packets that it is cut into behind the hook.
    pub segments: u32,
    /// What the hook holds, by slot.
    pub kept: Kept,
    /// What was sent through the hook again.
    pub again: Vec<Vec<u8>>,
    aside: Vec<u8>,
}

/// Packets in slots, shared by the frames that meet one hook.
pub type Kept = Rc<RefCell<HashMap<u32, Vec<u8>>>>;

impl Frame {
    /// A packet with these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            slot: None,
            segments: 1,
            kept: Kept::default(),
            again: Vec::new(),
            aside: Vec::new(),
        }
    }
}

impl Packet for Frame {
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        let bytes = self.bytes.get(offset..offset.checked_add(size_of::<T>())?)?;
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: both are `size_of::<T>()` bytes long and do not overlap; `Wire` types take any bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), bytes.len());
            Some(value.assume_init())
        }
    }

    fn load_at<T: Wire>(&self, offset: usize) -> Option<T> {
        self.load(offset)
    }

    fn store<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        let Some(bytes) = self.bytes.get_mut(offset..offset + size_of::<T>()) else { return false };
        // SAFETY: both are `size_of::<T>()` bytes long and do not overlap; `Wire` types have no padding.
        unsafe { std::ptr::copy_nonoverlapping((&raw const value).cast(), bytes.as_mut_ptr(), bytes.len()) };
        true
    }

    fn store_at<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        self.store(offset, value)
    }

    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn segments(&self) -> u32 {
        self.segments
    }

    fn change_checksum<const PLAIN: bool>(
        &mut self,
        at: usize,
        addr_delta: u16,
        port_delta: Sum,
        optional: bool,
    ) -> bool {
        let Some(old) = self.load::<[u8; 2]>(at) else { return false };
        if optional && old == [0, 0] {
            return true;
        }
        let new = checksum::apply(u16::from_ne_bytes(old), Sum(port_delta.0 + u32::from(addr_delta)));
        self.store(at, if optional && new == 0 { 0xffff } else { new }.to_ne_bytes())
    }
}

impl Holding for Frame {
    fn keep(&self, slot: u32, len: u32) -> bool {
        self.kept.borrow_mut().insert(slot, self.bytes[..len as usize].to_vec());
        true
    }

    fn put_aside(&mut self) -> bool {
        self.aside = self.bytes.clone();
        true
    }

    fn send_kept(&mut self, slot: u32, len: u32, _: bool) {
        let packet = self.kept.borrow()[&slot].clone();
        assert_eq!(packet.len(), len as usize);
        self.bytes.clone_from(&packet);
        self.again.push(packet);
    }

    fn take_back(&mut self) -> bool {
        self.bytes = std::mem::take(&mut self.aside);
        true
    }
}

impl Link for Frame {
    fn is_addressed_here(&self, _: u8) -> bool {
        true
    }

    fn arrives(&self) -> u8 {
        1
    }

    fn wire_len(&self, ip: &Ip, _: &Subject) -> u32 {
        ip.total_len
    }

    fn reserve(&mut self, slot: u8) -> bool {
        self.slot = Some(slot);
        slot != 0
    }

    fn address(&mut self, slot: u8, _: Mac) -> bool {
        self.slot == Some(slot)
    }
}
