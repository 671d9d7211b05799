//! A series of kernels, such as 6.1.

use std::fmt;
use std::str::FromStr;

/// Major and minor number of a kernel's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// As 6 in 6.1.
    pub major: u32,
    /// As 1 in 6.1.
    pub minor: u32,
}

/// The oldest that vpnat supports. On older ones, it is only tried that they are refused.
pub const OLDEST: Series = new(6, 1);

/// What `--all` stands for: one that is too old, the oldest that vpnat supports, the next long-term one (the first
/// with TCX), and a recent one.
pub const ALL: [Series; 4] = [new(5, 10), OLDEST, new(6, 12), new(6, 18)];

const fn new(major: u32, minor: u32) -> Series {
    Series { major, minor }
}

impl Series {
    /// The suite of Debian to look in where the machine's own does not have it.
    pub fn suite(self) -> &'static str {
        match (self.major, self.minor) {
            (5, 10) => "bullseye",
            (6, 1) => "bookworm",
            (6, 12) => "trixie",
            _ => "trixie-backports",
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('.')
            .and_then(|(major, minor)| Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? }));
        parsed.ok_or_else(|| format!("`{text}` is not a kernel series such as {}", ALL[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_two_numbers() {
        assert_eq!("6.1".parse(), Ok(new(6, 1)));
        assert_eq!(new(6, 12).to_string(), "6.12");
        for text in ["6", "6.1.0", "v6.1", "", "6.x"] {
            assert!(text.parse::<Series>().is_err(), "{text:?}");
        }
        assert!(ALL.is_sorted());
    }
}
