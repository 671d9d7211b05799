//! The service manager's watchdog: it hears from the agent as long as every hook is found attached, and ends an agent
//! that hangs or that cannot keep its hooks. The datapath goes on meanwhile.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::notify;
use crate::supervisor::Supervisor;

/// Pings at half the time that the manager allows; never, if it has not asked.
#[derive(Debug)]
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    /// By the environment. Needs a tokio runtime.
    pub fn start() -> Self {
        let every = notify::watchdog().map(|within| (within / 2).max(Duration::from_millis(1)));
        Self(every.map(|every| {
            let mut interval = interval(every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits for the next ping. Cancel-safe.
    pub async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Tells the manager that all is well, if it is. A device that is away is no fault of the agent's.
    pub fn ping(&self, supervisor: &Supervisor) {
        match supervisor.verify_hooks() {
            Ok(()) => notify::notify("WATCHDOG=1"),
            Err(reason) => {
                log::warn!("the service manager's watchdog is not told that all is well: {reason}")
            }
        }
    }
}
