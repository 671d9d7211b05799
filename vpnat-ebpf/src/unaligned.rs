//! Reading and writing packets in words.
//!
//! Headers lie at any offset, and the compiler, which must assume that a load needs alignment, would read them byte
//! by byte. The kernel lets programs access packets without alignment on every CPU that can
//! (`HAVE_EFFICIENT_UNALIGNED_ACCESS`), which is all that vpnat is built for. Telling the whole compiler so is no way out:
//! it would then access the stack like that too, and there the verifier refuses it.

use vpnat_common::packet::Wire;

/// Largest type that is read or written in one go, bytes.
const MOST: usize = 20;

/// Reads a `T`.
///
/// # Safety
/// `from` is valid for reads of a `T`; it need not be aligned.
#[inline(always)]
pub unsafe fn read<T: Wire>(from: *const T) -> T {
    const { assert!(size_of::<T>() <= MOST) };
    // SAFETY: the caller's promise; `Wire` types take any bytes.
    unsafe { words::read(from) }
}

/// Writes a `T`.
///
/// # Safety
/// `to` is valid for writes of a `T`; it need not be aligned.
#[inline(always)]
pub unsafe fn write<T: Wire>(to: *mut T, value: T) {
    const { assert!(size_of::<T>() <= MOST) };
    // SAFETY: the caller's promise.
    unsafe { words::write(to, value) }
}

/// Reads one of the context's packet pointers, a 32-bit field at offset `AT` that the verifier makes a pointer.
///
/// In assembly, because a compiler that knows it for a 32-bit number passes it on and compares it as one, and then
/// the verifier forgets that it is a pointer.
///
/// # Safety
/// `context` is that of the running program, and `AT` the offset of its `data` or `data_end`.
#[inline(always)]
pub unsafe fn packet_pointer<C, const AT: usize>(context: *const C) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let pointer: u64;
        // SAFETY: the caller's promise.
        unsafe {
            core::arch::asm!(
                "{pointer} = *(u32 *)({context} + {at})",
                pointer = out(reg) pointer,
                context = in(reg) context,
                at = const AT,
                options(readonly, nostack),
            );
        }
        pointer as usize
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: the caller's promise.
        unsafe { context.byte_add(AT).cast::<u32>().read_unaligned() as usize }
    }
}

/// How many bytes lie between two packet pointers.
///
/// In assembly, because the compiler calculates with half of each where it needs no more of the result, and the verifier
/// refuses that of a pointer.
#[inline(always)]
pub fn distance(start: usize, end: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut bytes = end as u64;
        // SAFETY: arithmetic on a register.
        unsafe {
            core::arch::asm!(
                "{bytes} -= {start}",
                bytes = inout(reg) bytes,
                start = in(reg) start as u64,
                options(pure, nomem, nostack),
            );
        }
        bytes as usize
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        end.wrapping_sub(start)
    }
}

#[cfg(target_arch = "bpf")]
mod words {
    use core::arch::asm;
    use core::mem::MaybeUninit;

    /// Room for a header, aligned for words.
    #[repr(C, align(8))]
    struct Room<T>(MaybeUninit<T>);

    macro_rules! load {
        ($kind:ident, $from:ident, $room:ident, $at:literal) => {{
            let word: u64;
            // SAFETY: `read` is called with a readable place, and only words inside it are named; a load of fewer than
            // eight bytes clears the rest of the register.
            unsafe {
                asm!(
                    concat!("{word} = *(", stringify!($kind), " *)({from} + ", $at, ")"),
                    word = out(reg) word,
                    from = in(reg) $from,
                    options(pure, readonly, nostack),
                );
                // What a load clears need not be cleared again.
                core::hint::assert_unchecked(word <= $kind::MAX as u64);
                $room.add($at).cast::<$kind>().write(word as $kind);
            }
        }};
    }

    macro_rules! store {
        ($kind:ident, $to:ident, $room:ident, $at:literal) => {{
            // SAFETY: `write` is called with a writable place, and only words inside it are named.
            unsafe {
                let word = u64::from($room.add($at).cast::<$kind>().read());
                asm!(
                    concat!("*(", stringify!($kind), " *)({to} + ", $at, ") = {word}"),
                    word = in(reg) word,
                    to = in(reg) $to,
                    options(nostack),
                );
            }
        }};
    }

    /// Does `$one` for the words, the half-word and the byte that make up `$size` bytes.
    macro_rules! each {
        ($size:expr, $one:ident, $place:ident, $room:ident) => {{
            each!(@ $size, $one, $place, $room, 0 2);
            each!(@ $size, $one, $place, $room, 4 6);
            each!(@ $size, $one, $place, $room, 8 10);
            each!(@ $size, $one, $place, $room, 12 14);
            each!(@ $size, $one, $place, $room, 16 18);
        }};
        (@ $size:expr, $one:ident, $place:ident, $room:ident, $at:literal $half:literal) => {
            if $size >= $at + 4 {
                $one!(u32, $place, $room, $at);
            } else {
                if $size >= $at + 2 {
                    $one!(u16, $place, $room, $at);
                }
                if $size == $at + 1 {
                    $one!(u8, $place, $room, $at);
                }
                if $size == $at + 3 {
                    $one!(u8, $place, $room, $half);
                }
            }
        };
    }

    #[inline(always)]
    pub unsafe fn read<T>(from: *const T) -> T {
        let mut room = Room(MaybeUninit::<T>::uninit());
        let to = room.0.as_mut_ptr().cast::<u8>();
        each!(size_of::<T>(), load, from, to);
        // SAFETY: every byte has been written, and any bytes are a `T`.
        unsafe { room.0.assume_init() }
    }

    #[inline(always)]
    pub unsafe fn write<T>(to: *mut T, value: T) {
        let room = Room(MaybeUninit::new(value));
        let from = room.0.as_ptr().cast::<u8>();
        each!(size_of::<T>(), store, to, from);
    }
}

/// For checks and lints on the host only.
#[cfg(not(target_arch = "bpf"))]
mod words {
    pub unsafe fn read<T>(from: *const T) -> T {
        // SAFETY: the caller's promise.
        unsafe { from.read_unaligned() }
    }

    pub unsafe fn write<T>(to: *mut T, value: T) {
        // SAFETY: the caller's promise.
        unsafe { to.write_unaligned(value) }
    }
}
