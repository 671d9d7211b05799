//! What the machine says of itself: the process's use of it, and the cloud's limits.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use crate::netlink::ethtool;

/// Drivers are asked at most this often: some take a lock that the datapath needs too.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// A driver's counters about the instance's allowances, as Amazon's ENA driver names them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Allowance {
    /// Packets beyond this allowance.
    Exceeded(&'static str, u64),
    /// Connections that can still be tracked.
    ConntrackAvailable(u64),
}

/// The driver's name of a counter, and ours.
const EXCEEDED: [(&str, &str); 5] = [
    ("bw_in_allowance_exceeded", "bandwidth-in"),
    ("bw_out_allowance_exceeded", "bandwidth-out"),
    ("pps_allowance_exceeded", "packets"),
    ("conntrack_allowance_exceeded", "conntrack"),
    ("linklocal_allowance_exceeded", "link-local"),
];

/// Those among a driver's statistics.
pub fn allowances(statistics: &[(String, u64)]) -> Vec<Allowance> {
    let known = |(name, value): &(String, u64)| {
        if name == "conntrack_allowance_available" {
            return Some(Allowance::ConntrackAvailable(*value));
        }
        let (_, ours) = EXCEEDED.iter().find(|(theirs, _)| theirs == name)?;
        Some(Allowance::Exceeded(ours, *value))
    };
    statistics.iter().filter_map(known).collect()
}

/// A device and what its driver says.
type Said = (String, Allowance);

/// What the drivers last said, and when.
#[derive(Debug, Default)]
pub struct Drivers(Mutex<Option<(Instant, Vec<Said>)>>);

impl Drivers {
    /// Asks the drivers of `devices`, or repeats what they said a moment ago.
    pub fn allowances(&self, devices: &[String]) -> Vec<Said> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, known)) = &*said
            && asked.elapsed() < ASK_EVERY
        {
            return known.clone();
        }
        let mut found = Vec::new();
        for device in devices {
            // A tunnel, or a driver that keeps no statistics.
            let statistics = ethtool::statistics(device).unwrap_or_default();
            found.extend(allowances(&statistics).into_iter().map(|found| (device.clone(), found)));
        }
        *said = Some((Instant::now(), found.clone()));
        found
    }
}

/// Processor time that this process has used, seconds.
pub fn cpu_seconds() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0.0 };
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Memory of this process, bytes.
pub fn resident_bytes() -> u64 {
    // SAFETY: the call only reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(0) as u64;
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amazons_names_are_known() {
        let said = [("tx_timeout", 1), ("pps_allowance_exceeded", 7), ("conntrack_allowance_available", 9)];
        let said: Vec<_> = said.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(allowances(&said), [Allowance::Exceeded("packets", 7), Allowance::ConntrackAvailable(9)]);
    }

    #[test]
    fn this_process_has_used_something() {
        assert!(resident_bytes() > 1 << 20 && cpu_seconds() > 0.0);
    }
}
