//! The types that a map was made with, as the kernel keeps them (Documentation/bpf/btf.rst): enough to find every number
//! in a key or value by its name.
//!
//! aya-obj parses BTF and shows none of it; btf-rs does, under the LGPL, which a statically linked binary cannot follow.

use std::collections::BTreeMap;
use std::fmt;

const MAGIC: u16 = 0xeb9f;

mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const FLOAT: u32 = 16;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// Numbers that one type may have: the largest value is a few KiB.
const MOST_LEAVES: usize = 65_536;

/// Types within types.
const DEEPEST: u32 = 32;

/// Why types cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bad(pub &'static str);

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Bad {}

/// A number within a type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Bytes from the type's start.
    pub offset: usize,
    /// Its length, bytes.
    pub size: usize,
    /// Whether it is signed.
    pub signed: bool,
    /// If only some values are allowed: these.
    pub values: Option<Vec<i64>>,
}

/// Every number of a type by its path, such as `egress[2].octets[0]`.
pub type Leaves = BTreeMap<String, Leaf>;

/// One type as it lies in the blob, without its name: two words, and what follows them.
#[derive(Clone, Copy)]
struct Type<'a> {
    info: u32,
    size_or_type: u32,
    rest: &'a [u8],
}

impl Type<'_> {
    fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn count(&self) -> usize {
        (self.info & 0xffff) as usize
    }

    fn flag(&self) -> bool {
        self.info >> 31 != 0
    }

    fn word(&self, index: usize) -> Result<u32, Bad> {
        word(self.rest, index * 4)
    }
}

/// All types of one blob.
pub struct Btf<'a> {
    types: Vec<Type<'a>>,
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Reads the kernel's blob, of this machine's byte order.
    pub fn parse(blob: &'a [u8]) -> Result<Self, Bad> {
        let magic = blob.get(..2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
        if magic != Some(MAGIC) {
            return Err(Bad("not BTF of this machine's byte order"));
        }
        let header = word(blob, 4)? as usize;
        let section = |at: usize| -> Result<&'a [u8], Bad> {
            let start = header.checked_add(word(blob, at)? as usize).ok_or(Bad("offset out of range"))?;
            let length = word(blob, at + 4)? as usize;
            let end = start.checked_add(length).ok_or(Bad("offset out of range"))?;
            blob.get(start..end).ok_or(Bad("a section is cut short"))
        };
        let (mut rest, strings) = (section(8)?, section(16)?);
        // Type 0 is void.
        let mut types = vec![Type { info: 0, size_or_type: 0, rest: &[] }];
        while !rest.is_empty() {
            let mut found = Type { info: word(rest, 4)?, size_or_type: word(rest, 8)?, rest: &[] };
            let count = found.count();
            let extra = match found.kind() {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => count * 12,
                kind::ENUM | kind::FUNC_PROTO => count * 8,
                kind::PTR
                | kind::FWD
                | kind::TYPEDEF
                | kind::VOLATILE
                | kind::CONST
                | kind::RESTRICT
                | kind::FUNC
                | kind::FLOAT
                | kind::TYPE_TAG => 0,
                _ => return Err(Bad("a kind of type that is not known")),
            };
            found.rest = rest.get(12..12 + extra).ok_or(Bad("a type is cut short"))?;
            rest = &rest[12 + extra..];
            types.push(found);
        }
        Ok(Self { types, strings })
    }

    /// Every number of the type `id`.
    pub fn leaves(&self, id: u32) -> Result<Leaves, Bad> {
        let mut leaves = Leaves::new();
        self.collect(id, String::new(), 0, DEEPEST, &mut leaves)?;
        Ok(leaves)
    }

    fn collect(
        &self,
        id: u32,
        path: String,
        offset: usize,
        deeper: u32,
        leaves: &mut Leaves,
    ) -> Result<(), Bad> {
        let deeper = deeper.checked_sub(1).ok_or(Bad("types nested too deep"))?;
        if leaves.len() >= MOST_LEAVES {
            return Err(Bad("a type of too many parts"));
        }
        let found = self.get(id)?;
        let size = found.size_or_type as usize;
        let mut leaf = |signed, values| {
            leaves.insert(path.clone(), Leaf { offset, size, signed, values });
            Ok(())
        };
        match found.kind() {
            // Bit 24 of the encoding: signed.
            kind::INT => leaf(found.word(0)? >> 24 & 1 != 0, None),
            kind::FLOAT => leaf(false, None),
            // A union's parts share their bytes: it is carried over as it is, or not at all.
            kind::UNION => leaf(false, None),
            kind::ENUM => {
                let value = |index: usize| {
                    let word = found.word(index * 2 + 1)?;
                    Ok(if found.flag() { i64::from(word as i32) } else { i64::from(word) })
                };
                leaf(found.flag(), Some((0..found.count()).map(value).collect::<Result<_, Bad>>()?))
            }
            kind::ENUM64 => {
                let value = |index: usize| {
                    let (low, high) = (found.word(index * 3 + 1)?, found.word(index * 3 + 2)?);
                    Ok((u64::from(high) << 32 | u64::from(low)) as i64)
                };
                leaf(found.flag(), Some((0..found.count()).map(value).collect::<Result<_, Bad>>()?))
            }
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                self.collect(found.size_or_type, path, offset, deeper, leaves)
            }
            kind::ARRAY => {
                let (element, count) = (found.word(0)?, found.word(2)? as usize);
                let size = self.size(element, deeper)?;
                for index in 0..count {
                    self.collect(element, format!("{path}[{index}]"), offset + index * size, deeper, leaves)?;
                }
                Ok(())
            }
            kind::STRUCT => {
                for index in 0..found.count() {
                    let (name, member, place) =
                        (found.word(index * 3)?, found.word(index * 3 + 1)?, found.word(index * 3 + 2)?);
                    let (bits, at) = if found.flag() { (place >> 24, place & 0xff_ffff) } else { (0, place) };
                    if bits != 0 || at % 8 != 0 {
                        return Err(Bad("a bit field"));
                    }
                    let name = self.string(name)?;
                    let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                    self.collect(member, path, offset + at as usize / 8, deeper, leaves)?;
                }
                Ok(())
            }
            _ => Err(Bad("a pointer or another type that no map holds")),
        }
    }

    fn size(&self, id: u32, deeper: u32) -> Result<usize, Bad> {
        let deeper = deeper.checked_sub(1).ok_or(Bad("types nested too deep"))?;
        let found = self.get(id)?;
        match found.kind() {
            kind::INT | kind::FLOAT | kind::ENUM | kind::ENUM64 | kind::STRUCT | kind::UNION => {
                Ok(found.size_or_type as usize)
            }
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                self.size(found.size_or_type, deeper)
            }
            kind::ARRAY => {
                let size = self.size(found.word(0)?, deeper)?;
                size.checked_mul(found.word(2)? as usize).ok_or(Bad("an array too large"))
            }
            _ => Err(Bad("a pointer or another type that no map holds")),
        }
    }

    fn get(&self, id: u32) -> Result<Type<'a>, Bad> {
        self.types.get(id as usize).copied().ok_or(Bad("a type that is not there"))
    }

    fn string(&self, at: u32) -> Result<&'a str, Bad> {
        let rest = self.strings.get(at as usize..).ok_or(Bad("a name out of range"))?;
        let end = rest.iter().position(|byte| *byte == 0).ok_or(Bad("a name without end"))?;
        std::str::from_utf8(&rest[..end]).map_err(|_| Bad("a name that is no text"))
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, Bad> {
    match bytes.get(at..at + 4) {
        Some(word) => Ok(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])),
        None => Err(Bad("cut short")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A blob of these types (three words and what follows) with these names after the empty one.
    pub fn blob(types: &[Vec<u32>], names: &[&str]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flatten().flat_map(|word| word.to_ne_bytes()).collect();
        let mut strings = vec![0];
        for name in names {
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        let mut blob = MAGIC.to_ne_bytes().to_vec();
        blob.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            blob.extend(word.to_ne_bytes());
        }
        blob.extend(types);
        blob.extend(strings);
        blob
    }

    fn info(kind: u32, count: u32) -> u32 {
        kind << 24 | count
    }

    /// `struct { a: u16, b: [u8; 2], c: enum of one byte: 1 or 3 }`.
    fn sample() -> Vec<u8> {
        blob(
            &[
                vec![0, info(kind::INT, 0), 2, 16],
                vec![0, info(kind::INT, 0), 1, 8],
                vec![0, info(kind::ARRAY, 0), 0, 2, 2, 2],
                vec![0, info(kind::ENUM, 2), 1, 0, 1, 0, 3],
                vec![0, info(kind::STRUCT, 3), 5, 1, 1, 0, 3, 3, 16, 5, 4, 32],
            ],
            &["a", "b", "c"],
        )
    }

    #[test]
    fn every_number_has_its_path() {
        let blob = sample();
        let leaves = Btf::parse(&blob).unwrap().leaves(5).unwrap();
        let plain = |offset, size| Leaf { offset, size, signed: false, values: None };
        assert_eq!(leaves["a"], plain(0, 2));
        assert_eq!(leaves["b[0]"], plain(2, 1));
        assert_eq!(leaves["b[1]"], plain(3, 1));
        assert_eq!(leaves["c"], Leaf { values: Some(vec![1, 3]), ..plain(4, 1) });
        assert_eq!(leaves.len(), 4);
    }

    #[test]
    fn the_kernels_own_types_can_be_read() {
        // Not on every builder.
        let Ok(blob) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        assert!(Btf::parse(&blob).unwrap().types.len() > 1000);
    }

    proptest! {
        #[test]
        fn nothing_panics(cut in 0usize..200, at in 0usize..200, byte in any::<u8>(), id in 0u32..9) {
            let mut blob = sample();
            let length = blob.len();
            blob[at % length] = byte;
            blob.truncate(length - cut.min(length));
            if let Ok(btf) = Btf::parse(&blob) {
                let _ = btf.leaves(id);
            }
        }
    }
}
