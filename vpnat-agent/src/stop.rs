//! Being told to end before the agent is ready.
//!
//! Loading takes a second in which nothing waits for events. It asks here between one program and the next.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Set by SIGTERM and SIGINT, for good. Others are told of these signals as well.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens from now on.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, stop.0.clone())?;
        }
        Ok(stop)
    }

    /// Whether there was a signal.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
