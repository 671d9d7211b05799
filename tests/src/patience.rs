//! How long things may take. On a slow machine, such as one that is emulated, `$VPNAT_LAB_PATIENCE` multiplies how
//! long the lab waits for what should happen, how long it looks out for what should not, and how far apart the
//! packets of its steady traffic are: at the pace of a real machine an emulated one fills its queues, whoever forwards.
//! What a test demands stays as it is.

use std::sync::OnceLock;
use std::time::Duration;

/// The variable: a whole number from 1 to 100.
pub const VARIABLE: &str = "VPNAT_LAB_PATIENCE";

/// A wait, as long as this machine needs it.
pub fn patient(wait: Duration) -> Duration {
    wait * times()
}

/// How many times as long as elsewhere things take here: where that is more than once, a test that tries all there is may
/// try a share, and says so.
pub fn times() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let set = || {
        let text = std::env::var(VARIABLE).ok();
        factor(text.as_deref())
            .unwrap_or_else(|| panic!("{VARIABLE} is {text:?}, and not a number from 1 to 100"))
    };
    *FACTOR.get_or_init(set)
}

fn factor(text: Option<&str>) -> Option<u32> {
    let Some(text) = text else { return Some(1) };
    text.parse().ok().filter(|factor| (1..=100).contains(factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_one_unless_told_otherwise() {
        assert_eq!((factor(None), factor(Some("8"))), (Some(1), Some(8)));
        for wrong in ["0", "101", "-1", "2.5", ""] {
            assert_eq!(factor(Some(wrong)), None, "{wrong:?}");
        }
    }
}
