//! From checked to attached: loading, taking over what is there, filling the maps, attaching, and seeing that it is so.

use std::time::Instant;

use crate::config::Config;
use crate::datapath::accounts::Accounts;
use crate::datapath::hooks::{Hooks, Needed};
use crate::datapath::kernel::TcMethod;
use crate::datapath::maps::{ConfigMaps, Table, read_vendors};
use crate::datapath::migrate::{self, Carried, Migration};
use crate::datapath::pins::Pins;
use crate::datapath::reap::{REAP, Reaper};
use crate::datapath::revoke::{Rules, revoke};
use crate::datapath::sweep::vendors_in_use;
use crate::datapath::{Error, fill, object};
use crate::forwarding;
use crate::netlink::rules;
use crate::preflight::Findings;
use crate::run::RunError;
use crate::stop::Stop;
use crate::supervisor::Supervisor;

/// Does it all. What is attached and pinned when it fails is the caller's to remove or to leave.
pub fn bring_up(
    config: &Config,
    pins: &Pins,
    findings: &Findings,
    stop: &Stop,
) -> Result<Supervisor, RunError> {
    let needed = Needed::by(config);
    let mut object =
        load(pins, findings, &needed, stop).map_err(|error| error.with_log_in(&config.run_dir))?;
    let mut migration = Migration::open(pins)?;
    object::pin_services(&mut object, pins)?;
    if let Some(migration) = &mut migration {
        let begun = Instant::now();
        let carried = migration.first_pass()?;
        log::info!("{} entries taken over in {} ms", carried.entries, begun.elapsed().as_millis());
        warn_of_lost(carried);
    }
    let mut maps = ConfigMaps::open(pins)?;
    if migration.is_some() {
        // No new flow takes a port of one that is still to come.
        maps.change_settings(|settings| settings.ready = 0)?;
    }
    fill::fill(&mut maps, config, || vendors_in_use(&Table::flows(pins)?))?;
    let hooks = Hooks::new(object, pins.clone(), TcMethod::of_this_kernel(), &needed)?;
    let mut supervisor = Supervisor::new(config.clone(), pins.clone(), maps, hooks);
    let begun = Instant::now();
    supervisor.reconcile()?;
    supervisor.verify().map_err(RunError::NotAttached)?;
    supervisor.set_mark()?;
    if let Some(mut migration) = migration {
        let carried = migration.second_pass()?;
        warn_of_lost(carried);
        log::info!(
            "{} more entries taken over; no new flow was made for {} ms",
            carried.entries,
            begun.elapsed().as_millis()
        );
        migration.finish();
        supervisor.maps().raise_route_generation()?;
        // Carried over while flows ended. None is opened yet.
        let vendors = read_vendors(&supervisor.maps().vendors)?;
        Accounts::open(pins)?.recount(&Table::flows(pins)?, &vendors)?;
    }
    // What a reload before a crash has not ended any more, or a change of the file while no agent ran.
    let reaper = Reaper::open(&pins.program(REAP))?;
    let ended = revoke(&Table::flows(pins)?, &reaper, &Rules::new(config, supervisor.maps())?)?;
    if ended > 0 {
        log::info!("{} flow(s) that are no longer allowed were ended", ended.div_ceil(2));
    }
    supervisor.maps().change_settings(|settings| {
        settings.events = u32::from(config.flow_log.is_some());
        settings.ready = 1;
    })?;
    // What `vpnat guard` has closed: the hooks guard now.
    let opened =
        rules::open().map_err(|error| Error::Netlink { action: "taking over from the guard", error })?;
    for prefix in opened {
        log::info!("taken over from the guard: {prefix}");
    }
    if config.enable_forwarding {
        forwarding::enable(config)?;
    }
    Ok(supervisor)
}

/// Loads over what is pinned. Maps of another shape are put aside first, and back again if the kernel refuses to load.
fn load(pins: &Pins, findings: &Findings, needed: &Needed, stop: &Stop) -> Result<aya::Ebpf, Error> {
    let aside = if findings.pinned.renew { Some(migrate::set_aside(pins)?) } else { None };
    let loaded = object::load(pins, findings.pinned.sizes, findings.tick_rate, needed, stop);
    if let (Err(_), Some(aside)) = (&loaded, &aside) {
        migrate::put_back(pins, aside);
    }
    loaded
}

fn warn_of_lost(carried: Carried) {
    if carried.lost > 0 {
        log::warn!("{} entries could not be taken over: their connections may end", carried.lost);
    }
}
