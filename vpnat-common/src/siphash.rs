//! SipHash (Aumasson and Bernstein, 2012) of one 64-bit word: what no observer can foretell without the key, from whatever it has seen
//! before.

/// The state.
struct Words {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl Words {
    #[inline(always)]
    const fn round(&mut self) {
        self.a = self.a.wrapping_add(self.b);
        self.b = self.b.rotate_left(13) ^ self.a;
        self.a = self.a.rotate_left(32);
        self.c = self.c.wrapping_add(self.d);
        self.d = self.d.rotate_left(16) ^ self.c;
        self.a = self.a.wrapping_add(self.d);
        self.d = self.d.rotate_left(21) ^ self.a;
        self.c = self.c.wrapping_add(self.b);
        self.b = self.b.rotate_left(17) ^ self.c;
        self.c = self.c.rotate_left(32);
    }

    #[inline(always)]
    const fn take<const C: usize>(&mut self, word: u64) {
        self.d ^= word;
        let mut round = 0;
        while round < C {
            self.round();
            round += 1;
        }
        self.a ^= word;
    }
}

/// SipHash-`C`-`D` of the eight bytes of `word`, little-endian, under the key of two such words.
#[inline(always)]
pub const fn hash<const C: usize, const D: usize>(key: (u64, u64), word: u64) -> u64 {
    let mut words = Words {
        a: key.0 ^ 0x736f_6d65_7073_6575,
        b: key.1 ^ 0x646f_7261_6e64_6f6d,
        c: key.0 ^ 0x6c79_6765_6e65_7261,
        d: key.1 ^ 0x7465_6462_7974_6573,
    };
    words.take::<C>(word);
    // The length.
    words.take::<C>(8 << 56);
    words.c ^= 0xff;
    let mut round = 0;
    while round < D {
        words.round();
        round += 1;
    }
    words.a ^ words.b ^ words.c ^ words.d
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher as _};

    use proptest::prelude::*;

    use super::hash;

    /// The key of the published vectors, and the message of the ninth: bytes 0, 1, 2 and so on.
    const KEY: (u64, u64) = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
    const WORD: u64 = KEY.0;

    /// `vectors_sip64` of the reference implementation, and `test_siphash_1_3` of Rust's core library.
    #[test]
    fn published_vectors() {
        assert_eq!(hash::<2, 4>(KEY, WORD), 0x93f5_f579_9a93_2462);
        assert_eq!(hash::<1, 3>(KEY, WORD), 0x3690_9511_8d29_9a8e);
    }

    proptest! {
        /// Rust's own is SipHash-1-3 with the key 0.
        #[test]
        fn as_the_standard_librarys(word: u64) {
            let mut theirs = DefaultHasher::new();
            theirs.write(&word.to_le_bytes());
            prop_assert_eq!(hash::<1, 3>((0, 0), word), theirs.finish());
        }
    }
}
