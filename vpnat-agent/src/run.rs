//! `vpnat run`: from the checks to ready, and on until a signal. What it attached stays when it ends.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::bring_up::bring_up;
use crate::config::Config;
use crate::control::{self, Call, Request};
use crate::datapath::error::remedy;
use crate::datapath::maps::StateMaps;
use crate::datapath::pins::Pins;
use crate::datapath::rests::Bound;
use crate::datapath::sweep::{SharedReport, Sweeper};
use crate::datapath::{Error, features};
use crate::flow_log::{self, Recorder};
use crate::metrics::{self, Shared};
use crate::netlink::follow::Follower;
use crate::stop::Stop;
use crate::supervisor::Supervisor;
use crate::trace::Tracing;
use crate::watchdog::Watchdog;
use crate::{notify, preflight, privileges, reload};

/// How often every hook is looked for.
const VERIFY_EVERY: Duration = Duration::from_secs(5);

/// How long the end waits for a tracer to be told of it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a trace ends when the configuration is read again: vendors and programs may be others then.
const RELOADED: &str = "the configuration is read again";

/// A [`Error`] or one of the process's own.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// From the datapath.
    #[error(transparent)]
    Datapath(#[from] Error),
    /// The metrics address cannot be used.
    #[error("cannot listen for metrics ({error}): {address}: set another [agent] metrics address")]
    Listen {
        /// The configured address.
        address: std::net::SocketAddr,
        /// The system's reason.
        error: std::io::Error,
    },
    /// Netlink, signals or the runtime failed.
    #[error("{what} failed ({error}): this process: {}", remedy(error))]
    System {
        /// What was attempted.
        what: &'static str,
        /// The system's reason.
        error: std::io::Error,
    },
    /// What is not needed could not be given up.
    #[error("privileges could not be given up ({0}): this process: report this with your kernel's version")]
    Privileges(String),
    /// The hooks were attached and are not all there.
    #[error(
        "not every hook is attached ({0}): this machine: look for another tool that manages these devices"
    )]
    NotAttached(String),
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> RunError {
    move |error| RunError::System { what, error }
}

/// Runs until SIGTERM or SIGINT.
pub fn run(config: Config, file: &Path) -> Result<(), RunError> {
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("starting the runtime"))?
        .block_on(tokio::task::LocalSet::new().run_until(serve(config, file)));
    match served {
        Err(RunError::Datapath(stopped @ Error::Stopped)) => {
            log::info!("{stopped}");
            Ok(())
        }
        other => other,
    }
}

async fn serve(config: Config, file: &Path) -> Result<(), RunError> {
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(system("catching SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("catching SIGINT"))?;

    let mut hangup = signal(SignalKind::hangup()).map_err(system("catching SIGHUP"))?;
    let stop = Stop::on_signals().map_err(system("catching signals"))?;

    let pins = Pins::new(&config.pin_root);
    if pins.root().exists() && pins.locked() {
        return Err(Error::Locked { path: pins.root().into() }.into());
    }
    let findings = preflight::check(&config, &pins)?;
    let listener = TcpListener::bind(config.metrics)
        .await
        .map_err(|error| RunError::Listen { address: config.metrics, error })?;

    features::warn();
    findings.bpffs.prepare()?;
    pins.create()?;
    let lock = pins.lock()?;
    let mut control = control::Server::listen(&config.run_dir)
        .map_err(Error::file("making the control socket", control::socket(&config.run_dir)))?;
    // Subscribed before the devices are listed, so that no change falls between.
    let mut follower = Follower::subscribe().map_err(system("following netlink"))?;
    let fresh = !pins.hold_maps() && pins.pinned_links().is_empty();
    let report = SharedReport::default();
    let records = flow_log::SharedStats::default();
    let brought_up = bring_up(&config, &pins, &findings, &stop).and_then(|mut supervisor| {
        // Before the first thread starts, which would keep what it was born with.
        privileges::reduce().map_err(RunError::Privileges)?;
        let mut recorder = Recorder::new(pins.clone(), findings.pinned.sizes.flows / 2, records.clone());
        if let Some(change) = recorder.prepare(config.flow_log.as_ref())? {
            recorder.change(change, supervisor.maps())?;
        }
        Ok((supervisor, Sweeper::start(&pins, report.clone())?, recorder, StateMaps::open(&pins)?))
    });
    let (mut supervisor, sweeper, mut recorder, maps) = match brought_up {
        Ok(all) => all,
        Err(error) => {
            // A first start that fails leaves nothing; a later one leaves what worked before.
            if fresh && let Err(error) = crate::detach::detach(&pins) {
                log::error!("{error}");
            }
            return Err(error);
        }
    };

    let ready = Arc::new(AtomicBool::new(true));
    let shared = Shared::new(maps, report.clone(), records, ready.clone());
    shared.set_devices(supervisor.devices());
    tokio::task::spawn_local(metrics::http::serve(listener, metrics::registry(&shared), ready.clone()));

    log::info!(
        "ready: {} vendor(s), {} device(s), {} flows, metrics on http://{}/metrics",
        config.vendors.len(),
        supervisor.devices().len(),
        findings.pinned.sizes.flows / 2,
        config.metrics
    );
    notify::notify("READY=1");

    let mut tick = interval(VERIFY_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watchdog = Watchdog::start();
    let mut doubt = false;
    let mut rests = Bound::default();
    let mut tracing = Tracing::default();
    let signal_name = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = hangup.recv() => {
                tracing.end(&mut supervisor, RELOADED);
                let request = Request { dry_run: false, open_removed: false };
                reload::reload(&mut supervisor, &mut recorder, file, &request, &stop);
                shared.set_devices(supervisor.devices());
                set_ready(&ready, &supervisor);
            }
            call = control.next() => match call {
                Call::Trace(call) => tracing.begin(&mut supervisor, call),
                Call::Reload(request, answer) => {
                    if !request.dry_run {
                        tracing.end(&mut supervisor, RELOADED);
                    }
                    // A client that has gone away has its answer in the log.
                    let done = reload::reload(&mut supervisor, &mut recorder, file, &request, &stop);
                    let _ = answer.send(done);
                    shared.set_devices(supervisor.devices());
                    set_ready(&ready, &supervisor);
                }
            },
            why = tracing.over() => drop(tracing.end(&mut supervisor, why)),
            changes = follower.next() => {
                let changes = changes.map_err(system("following netlink"))?;
                if changes.links {
                    doubt = supervisor.reconcile().is_err();
                    shared.set_devices(supervisor.devices());
                    set_ready(&ready, &supervisor);
                } else if changes.routes && let Err(error) = supervisor.follow_routes() {
                    log::error!("{error}");
                    supervisor.maps().raise_route_generation()?;
                }
            }
            _ = tick.tick() => {
                // A hook that another tool removed comes back, and one that failed is tried again.
                if doubt || supervisor.verify().is_err() {
                    doubt = supervisor.reconcile().is_err();
                    shared.set_devices(supervisor.devices());
                }
                set_ready(&ready, &supervisor);
                if let Err(error) = supervisor.retire(&report) {
                    log::warn!("removed vendors are not forgotten yet: {error}");
                }
                let config = supervisor.config().clone();
                if let Err(error) = rests.keep(&config, supervisor.maps(), &report) {
                    log::warn!("how long ports rest stays as it was: {error}");
                }
            }
            () = watchdog.due() => watchdog.ping(&supervisor),
        }
        shared.set_tracing(tracing.is_running());
    };
    notify::notify("STOPPING=1");
    if let Some(told) = tracing.end(&mut supervisor, "the agent ends") {
        let _ = tokio::time::timeout(LAST_WORDS, told).await;
    }
    drop(sweeper);
    drop(recorder);
    drop(lock);
    log::info!("{signal_name}: the agent ends and the datapath stays; `vpnat detach` removes it");
    Ok(())
}

fn set_ready(ready: &AtomicBool, supervisor: &Supervisor) {
    match supervisor.verify() {
        Ok(()) => {
            if !ready.swap(true, Ordering::Relaxed) {
                log::info!("ready again: every hook is attached");
            }
        }
        Err(reason) => {
            if ready.swap(false, Ordering::Relaxed) {
                log::warn!("not ready: {reason}");
            }
        }
    }
}
