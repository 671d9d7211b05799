//! From one layout's bytes to another's, field by field, by name.

use super::btf::{Leaf, Leaves};

/// One step: bytes to take, and where they go.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// As they are.
    Copy { from: usize, to: usize, length: usize },
    /// As a number of another length, or one of which only some values are allowed.
    Number { from: Leaf, to: Leaf },
}

/// How values of one type become values of another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    from_size: usize,
    to_size: usize,
    steps: Vec<Step>,
    /// Fields that the new type does not have.
    pub dropped: Vec<String>,
    /// Fields that the old type did not have; they are 0.
    pub added: Vec<String>,
}

impl Plan {
    /// Bytes as they are: for types that nothing is known of.
    pub fn identity(size: usize) -> Self {
        let steps = vec![Step::Copy { from: 0, to: 0, length: size }];
        Self { from_size: size, to_size: size, steps, dropped: Vec::new(), added: Vec::new() }
    }

    /// From `from` to `to`, with their sizes. Fields named in `fresh` start from 0.
    pub fn new(from: (&Leaves, usize), to: (&Leaves, usize), fresh: &[&str]) -> Self {
        let (mut steps, mut added) = (Vec::<Step>::new(), Vec::new());
        let is_fresh = |path: &str| fresh.iter().any(|name| path.split(['.', '[']).next() == Some(name));
        let mut wanted: Vec<(&String, &Leaf)> = to.0.iter().filter(|(path, _)| !is_fresh(path)).collect();
        wanted.sort_by_key(|(_, leaf)| leaf.offset);
        for (path, leaf) in wanted {
            match from.0.get(path) {
                None => added.push(path.clone()),
                Some(old) if (old.size, &old.values) == (leaf.size, &leaf.values) => match steps.last_mut() {
                    Some(Step::Copy { from, to, length })
                        if *from + *length == old.offset && *to + *length == leaf.offset =>
                    {
                        *length += leaf.size;
                    }
                    _ => steps.push(Step::Copy { from: old.offset, to: leaf.offset, length: leaf.size }),
                },
                Some(old) => steps.push(Step::Number { from: old.clone(), to: leaf.clone() }),
            }
        }
        let dropped = from.0.keys().filter(|path| !to.0.contains_key(*path)).cloned().collect();
        Self { from_size: from.1, to_size: to.1, steps, dropped, added }
    }

    /// The value in the new layout; `None` if a number does not fit there.
    pub fn convert(&self, old: &[u8]) -> Option<Vec<u8>> {
        if old.len() != self.from_size {
            return None;
        }
        let mut new = vec![0; self.to_size];
        for step in &self.steps {
            match step {
                Step::Copy { from, to, length } => {
                    new.get_mut(*to..to + length)?.copy_from_slice(old.get(*from..from + length)?);
                }
                Step::Number { from, to } => write(&mut new, to, read(old, from)?)?,
            }
        }
        Some(new)
    }
}

fn read(bytes: &[u8], leaf: &Leaf) -> Option<i128> {
    let bytes = bytes.get(leaf.offset..leaf.offset + leaf.size)?;
    Some(match (leaf.size, leaf.signed) {
        (1, false) => bytes[0].into(),
        (1, true) => i8::from_ne_bytes(bytes.try_into().ok()?).into(),
        (2, false) => u16::from_ne_bytes(bytes.try_into().ok()?).into(),
        (2, true) => i16::from_ne_bytes(bytes.try_into().ok()?).into(),
        (4, false) => u32::from_ne_bytes(bytes.try_into().ok()?).into(),
        (4, true) => i32::from_ne_bytes(bytes.try_into().ok()?).into(),
        (8, false) => u64::from_ne_bytes(bytes.try_into().ok()?).into(),
        (8, true) => i64::from_ne_bytes(bytes.try_into().ok()?).into(),
        _ => return None,
    })
}

fn write(bytes: &mut [u8], leaf: &Leaf, value: i128) -> Option<()> {
    if leaf.values.as_ref().is_some_and(|values| !values.iter().any(|allowed| i128::from(*allowed) == value))
    {
        return None;
    }
    let place = bytes.get_mut(leaf.offset..leaf.offset + leaf.size)?;
    match (leaf.size, leaf.signed) {
        (1, false) => place.copy_from_slice(&u8::try_from(value).ok()?.to_ne_bytes()),
        (1, true) => place.copy_from_slice(&i8::try_from(value).ok()?.to_ne_bytes()),
        (2, false) => place.copy_from_slice(&u16::try_from(value).ok()?.to_ne_bytes()),
        (2, true) => place.copy_from_slice(&i16::try_from(value).ok()?.to_ne_bytes()),
        (4, false) => place.copy_from_slice(&u32::try_from(value).ok()?.to_ne_bytes()),
        (4, true) => place.copy_from_slice(&i32::try_from(value).ok()?.to_ne_bytes()),
        (8, false) => place.copy_from_slice(&u64::try_from(value).ok()?.to_ne_bytes()),
        (8, true) => place.copy_from_slice(&i64::try_from(value).ok()?.to_ne_bytes()),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(offset: usize, size: usize) -> Leaf {
        Leaf { offset, size, signed: false, values: None }
    }

    fn leaves(all: &[(&str, Leaf)]) -> Leaves {
        all.iter().map(|(path, leaf)| ((*path).to_owned(), leaf.clone())).collect()
    }

    #[test]
    fn the_same_layout_is_one_copy() {
        let same = leaves(&[("a", leaf(0, 4)), ("b[0]", leaf(4, 1)), ("b[1]", leaf(5, 1))]);
        let plan = Plan::new((&same, 6), (&same, 6), &[]);
        assert_eq!(plan, Plan::identity(6));
    }

    #[test]
    fn fields_move_grow_go_and_come() {
        let old =
            leaves(&[("a", leaf(0, 2)), ("b", leaf(2, 1)), ("gone", leaf(3, 1)), ("stamp", leaf(4, 2))]);
        let new = leaves(&[("b", leaf(0, 1)), ("stamp", leaf(2, 2)), ("a", leaf(4, 4)), ("new", leaf(8, 8))]);
        let plan = Plan::new((&old, 6), (&new, 16), &["stamp"]);
        let a = 0x1234u16.to_ne_bytes();
        let converted = plan.convert(&[a[0], a[1], 7, 9, 1, 1]).unwrap();
        let mut expected = vec![7, 0, 0, 0];
        expected.extend(0x1234u32.to_ne_bytes());
        expected.extend([0; 8]);
        assert_eq!(converted, expected);
        assert_eq!((plan.dropped, plan.added), (vec!["gone".to_owned()], vec!["new".to_owned()]));
    }

    #[test]
    fn what_does_not_fit_is_not_made_to() {
        let (wide, narrow) = (leaves(&[("a", leaf(0, 4))]), leaves(&[("a", leaf(0, 2))]));
        let plan = Plan::new((&wide, 4), (&narrow, 2), &[]);
        assert_eq!(plan.convert(&65_535u32.to_ne_bytes()), Some(65_535u16.to_ne_bytes().to_vec()));
        assert_eq!(plan.convert(&65_536u32.to_ne_bytes()), None);
        assert_eq!(plan.convert(&[0; 3]), None);
    }

    #[test]
    fn an_enumerations_values_are_checked() {
        let with =
            |values: &[i64]| leaves(&[("phase", Leaf { values: Some(values.to_vec()), ..leaf(0, 1) })]);
        let plan = Plan::new((&with(&[1, 2, 3]), 1), (&with(&[1, 2, 4]), 1), &[]);
        assert_eq!(plan.convert(&[2]), Some(vec![2]));
        assert_eq!(plan.convert(&[3]), None);
    }

    #[test]
    fn signs_are_kept() {
        let signed = |size| leaves(&[("a", Leaf { signed: true, ..leaf(0, size) })]);
        let plan = Plan::new((&signed(2), 2), (&signed(8), 8), &[]);
        assert_eq!(plan.convert(&(-5i16).to_ne_bytes()), Some((-5i64).to_ne_bytes().to_vec()));
    }
}
