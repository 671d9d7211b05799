//! Prometheus metrics, read from the maps at each scrape. By vendor, direction and reason, never by flow.

pub mod catalog;
mod collect;
pub mod http;
mod machine;
mod text;

pub use collect::fate_name;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry;

use crate::datapath::maps::StateMaps;
use crate::datapath::sweep::SharedReport;
use crate::datapath::xdp::Mode;
use crate::flow_log::SharedStats;
use crate::supervisor::Devices;

/// The label of packets that no vendor claims.
pub const NOBODY: &str = "none";

/// An attached hook: device, hook, program.
pub type HookLabel = (String, &'static str, &'static str);

/// What the metrics look at; cheap to clone.
#[derive(Clone)]
pub struct Shared(Arc<State>);

struct State {
    maps: StateMaps,
    report: SharedReport,
    records: SharedStats,
    ready: Arc<AtomicBool>,
    tracing: AtomicBool,
    drivers: machine::Drivers,
    hooks: Mutex<Vec<HookLabel>>,
}

impl Shared {
    /// Over open maps, the sweeper's report and what became of the flow log's records.
    pub fn new(maps: StateMaps, report: SharedReport, records: SharedStats, ready: Arc<AtomicBool>) -> Self {
        let (tracing, drivers, hooks) = Default::default();
        Self(Arc::new(State { maps, report, records, ready, tracing, drivers, hooks }))
    }

    /// Takes note of what is attached.
    pub fn set_devices(&self, devices: &Devices) {
        let mut hooks = Vec::new();
        for device in devices.values() {
            let name = || device.link.name.clone();
            hooks.push((name(), "egress", device.plan.egress));
            hooks.extend(device.plan.ingress.map(|program| (name(), "ingress", program)));
            let fast = device.plan.xdp.filter(|_| device.xdp != Mode::Off);
            hooks.extend(fast.map(|program| (name(), "xdp", program)));
        }
        *self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner) = hooks;
    }

    /// Takes note of whether packets are traced.
    pub fn set_tracing(&self, tracing: bool) {
        self.0.tracing.store(tracing, Ordering::Relaxed);
    }

    fn is_tracing(&self) -> bool {
        self.0.tracing.load(Ordering::Relaxed)
    }

    fn hooks(&self) -> Vec<HookLabel> {
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The registry that a scrape encodes.
pub fn registry(shared: &Shared) -> Registry {
    let mut registry = Registry::with_prefix("vpnat");
    registry.register_collector(Box::new(shared.clone()));
    registry
}
