//! Looking into an array by a key that is written as a whole word of the stack.
//!
//! On Linux 6.1 a word of the stack is done with for the verifier only where all eight bytes of it are written
//! anew. Half of one, as aya's key of four bytes is, keeps what stood there before alive, and ways through the
//! program that differ in nothing else are followed each for itself.

use core::ffi::c_void;
use core::ptr::NonNull;

use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::bpf_map_lookup_elem;

/// A key of four bytes, in the first four of eight.
#[derive(Clone, Copy)]
pub struct Whole {
    word: u64,
}

impl Whole {
    /// For the key `number`.
    #[inline(always)]
    pub const fn new(number: u32) -> Self {
        let word = number as u64;
        Self { word: if cfg!(target_endian = "big") { word << 32 } else { word } }
    }

    /// The key.
    #[inline(always)]
    pub const fn key(&self) -> &u32 {
        // SAFETY: the first half of the word, which is aligned for more.
        unsafe { &*(&raw const self.word).cast() }
    }
}

/// An array of `T`.
pub trait Places<T> {
    /// Place `index`, if there is one. It is valid until the program ends.
    #[inline(always)]
    fn at(&self, index: u32) -> Option<NonNull<T>> {
        let whole = Whole::new(index);
        let map = core::ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: a map's static is what the loader puts the map in for; a key of four bytes is what an array has.
        let place = unsafe { bpf_map_lookup_elem(map, core::ptr::from_ref(whole.key()).cast()) };
        NonNull::new(place.cast())
    }

    /// The same, as a plain pointer.
    #[inline(always)]
    fn at_ptr(&self, index: u32) -> Option<*mut T> {
        self.at(index).map(NonNull::as_ptr)
    }

    /// What is in place `index`. For what only the agent or this CPU's own program changes.
    #[inline(always)]
    fn look<'map>(&'map self, index: u32) -> Option<&'map T>
    where
        T: 'map,
    {
        // SAFETY: a value of a map stays readable until the program ends, and what the agent writes is a `T`.
        self.at(index).map(|place| unsafe { place.as_ref() })
    }
}

impl<T, const COUNT: usize> Places<T> for Array<T, COUNT> {}
impl<T, const COUNT: usize> Places<T> for PerCpuArray<T, COUNT> {}
