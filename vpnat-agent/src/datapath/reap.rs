//! Handing keys to the kernel for removal. The kernel looks again before it removes anything, so a list
//! that is out of date does no harm.

use std::path::Path;

use aya::programs::SchedClassifier;
use aya::{TestRun as _, TestRunOptions};
use vpnat_common::layout::flow::FlowKey;
use vpnat_common::layout::upkeep::{REAP_HOW_AT, REAP_KEYS_AT, REAP_MOST, REAP_NOW, REAP_REVOKED};

use super::Error;

/// Program that removes the flows of the keys it is given, if they have ended.
pub const REAP: &str = "reap";

/// Keys in one call.
pub const KEYS_PER_CALL: usize = REAP_MOST as usize;

/// The pinned program.
#[derive(Debug)]
pub struct Reaper {
    program: SchedClassifier,
}

impl Reaper {
    /// Opens the pinned program.
    pub fn open(pin: &Path) -> Result<Self, Error> {
        let program = SchedClassifier::from_pin(pin).map_err(Error::program("opening", REAP))?;
        Ok(Self { program })
    }

    /// Removes the flows of at most [`KEYS_PER_CALL`] keys that have ended; how many entries that were.
    pub fn reap(&self, keys: &[FlowKey]) -> Result<u32, Error> {
        self.ask(keys, 0)
    }

    /// Removes the flows of at most [`KEYS_PER_CALL`] keys, over or not; how many entries that were.
    pub fn kill(&self, keys: &[FlowKey]) -> Result<u32, Error> {
        self.ask(keys, REAP_NOW)
    }

    /// Removes the flows of at most [`KEYS_PER_CALL`] keys that are no longer allowed; how many entries that were.
    pub fn revoke(&self, keys: &[FlowKey]) -> Result<u32, Error> {
        self.ask(keys, REAP_REVOKED)
    }

    fn ask(&self, keys: &[FlowKey], how: u8) -> Result<u32, Error> {
        let mut data = Vec::with_capacity(REAP_KEYS_AT as usize + size_of_val(keys));
        data.resize(REAP_KEYS_AT as usize, 0);
        data[REAP_HOW_AT as usize] = how;
        for key in &keys[..keys.len().min(KEYS_PER_CALL)] {
            data.extend(key.src.octets);
            data.extend(key.dst.octets);
            data.extend(key.src_port.number.to_ne_bytes());
            data.extend(key.dst_port.number.to_ne_bytes());
            data.extend([key.protocol, key.kind, 0, 0]);
        }
        let options = TestRunOptions { data_in: Some(&data), ..Default::default() };
        let result = self.program.test_run(options).map_err(Error::program("running", REAP))?;
        Ok(result.return_value)
    }
}
