//! The flow log as the configuration has it now, and how it changes while the agent runs.

use super::{FlowLog, Opened, Options, SharedStats};
use crate::datapath::Error;
use crate::datapath::maps::ConfigMaps;
use crate::datapath::pins::Pins;

/// The flow log that runs, if one is wanted. Dropping it ends the log, after it has written what was there.
#[derive(Debug)]
pub struct Recorder {
    pins: Pins,
    max_flows: u32,
    stats: SharedStats,
    options: Option<Options>,
    running: Option<FlowLog>,
}

/// A change of the log, with everything done that can be refused.
pub struct Change {
    options: Option<Options>,
    opened: Option<Opened>,
}

impl Recorder {
    /// None yet, of the datapath with these pins; the pinned maps are there.
    pub const fn new(pins: Pins, max_flows: u32, stats: SharedStats) -> Self {
        Self { pins, max_flows, stats, options: None, running: None }
    }

    /// Opens what `wanted` names; `None` if the log is as it is wanted.
    ///
    /// # Errors
    /// If a file, the journal or a socket cannot be opened. Nothing has changed then.
    pub fn prepare(&self, wanted: Option<&Options>) -> Result<Option<Change>, Error> {
        if wanted == self.options.as_ref() {
            return Ok(None);
        }
        let opened = wanted
            .map(|options| Opened::open(&self.pins, options, self.max_flows, self.stats.clone()))
            .transpose()?;
        Ok(Some(Change { options: wanted.cloned(), opened }))
    }

    /// Ends the log that runs and starts the one that was prepared: events that come in between wait in the buffer.
    ///
    /// # Errors
    /// If there is no thread to be had, or the datapath cannot be told. What is missing is tried again with the next change.
    pub fn change(&mut self, change: Change, maps: &mut ConfigMaps) -> Result<(), Error> {
        if change.opened.is_none() {
            // First, so that nothing is written that nobody reads.
            maps.change_settings(|settings| settings.events = 0)?;
        }
        self.running = None;
        self.options = None;
        if let Some(opened) = change.opened {
            self.running = Some(opened.start()?);
            maps.change_settings(|settings| settings.events = 1)?;
        }
        self.options = change.options;
        Ok(())
    }
}
