//! A flag that is raised when its holder goes, however it goes.

use std::sync::atomic::{AtomicBool, Ordering};

/// Raises the flag when dropped.
pub struct Flag<'a>(pub &'a AtomicBool);

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
