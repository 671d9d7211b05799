//! A new configuration while the agent runs: all of it or nothing.
//!
//! Everything that can be found wrong is found before anything changes. What fails nevertheless in the middle is undone by
//! applying the old configuration again, and what a crash leaves in the middle is healed by the next start, which does the
//! same from whatever the maps hold.

use std::path::Path;

use crate::config::{Config, diff, fixed};
use crate::control::{Answer, Request};
use crate::datapath::accounts::Accounts;
use crate::datapath::fill;
use crate::datapath::hooks::{Hooks, Needed};
use crate::datapath::kernel::TcMethod;
use crate::datapath::maps::{Table, read_vendors};
use crate::datapath::object;
use crate::datapath::reap::{REAP, Reaper};
use crate::datapath::revoke::{Rules, revoke};
use crate::datapath::sweep::vendors_in_use;
use crate::flow_log::Recorder;
use crate::stop::Stop;
use crate::supervisor::Supervisor;
use crate::{forwarding, notify, preflight};

/// Reads `file` again and does what it says, or says why not. Logs what the caller is told.
pub fn reload(
    supervisor: &mut Supervisor,
    recorder: &mut Recorder,
    file: &Path,
    request: &Request,
    stop: &Stop,
) -> Answer {
    let mut answer = Answer { file: file.to_owned(), ..Answer::default() };
    let new = match Config::load(file) {
        Ok(new) => new,
        Err(error) => return refused(answer, error.to_string().lines().map(str::to_owned).collect()),
    };
    answer.changes = diff(supervisor.config(), &new);
    answer.notes.extend(new.warnings.iter().map(|warning| format!("warning: {warning}")));
    let fixed: Vec<String> = fixed(supervisor.config(), &new).iter().map(ToString::to_string).collect();
    if !fixed.is_empty() {
        return refused(answer, fixed);
    }
    let findings = match preflight::check_again(&new, supervisor.pins(), supervisor.config()) {
        Ok(findings) => findings,
        Err(error) => return refused(answer, vec![error.to_string()]),
    };
    if request.dry_run {
        if request.open_removed {
            let closed = fill::closed_prefixes(&supervisor.maps().prefixes).unwrap_or_default();
            answer.notes.extend(closed.iter().map(|prefix| format!("{prefix} would be opened")));
        }
        return answer;
    }
    let flow_log = match recorder.prepare(new.flow_log.as_ref()) {
        Ok(change) => change,
        Err(error) => return refused(answer, vec![error.to_string()]),
    };
    notify::reloading();
    let outcome = apply(supervisor, new, &findings, stop, request, &mut answer.notes);
    if outcome.is_ok()
        && let Some(change) = flow_log
        && let Err(error) = recorder.change(change, supervisor.maps())
    {
        answer.notes.push(format!("warning: flows are not logged until the next reload: {error}"));
    }
    notify::notify("READY=1");
    match outcome {
        Ok(()) => {
            log::info!("reloaded {}: {} change(s)", file.display(), answer.changes.len());
            for line in answer.changes.iter().chain(&answer.notes) {
                log::info!("reload: {line}");
            }
            answer
        }
        Err(error) => refused(answer, vec![error]),
    }
}

fn refused(mut answer: Answer, errors: Vec<String>) -> Answer {
    for error in &errors {
        log::error!("reload refused, nothing was changed: {error}");
    }
    answer.errors = errors;
    answer
}

fn apply(
    supervisor: &mut Supervisor,
    new: Config,
    findings: &preflight::Findings,
    stop: &Stop,
    request: &Request,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let needed = Needed::by(&new);
    // Before anything changes: this is what takes long and what a kernel can refuse.
    let hooks = if supervisor.hooks().serve(&needed) {
        None
    } else {
        let loaded =
            object::load(supervisor.pins(), findings.pinned.sizes, findings.tick_rate, &needed, stop);
        let made = loaded.and_then(|object| {
            Hooks::new(object, supervisor.pins().clone(), TcMethod::of_this_kernel(), &needed)
        });
        Some(made.map_err(|error| error.to_string())?)
    };
    let old = supervisor.config().clone();
    let old_hooks = hooks.map(|hooks| supervisor.replace_hooks(hooks));
    if let Err(error) = enforce(supervisor, new) {
        if let Some(hooks) = old_hooks {
            supervisor.replace_hooks(hooks);
        }
        if let Err(again) = enforce(supervisor, old) {
            log::error!(
                "the configuration before could not be put back whole ({again}): it is tried again every few seconds"
            );
        }
        return Err(error);
    }
    let table = Table::flows(supervisor.pins()).map_err(|error| error.to_string())?;
    let config = supervisor.config().clone();
    // From here on nothing is undone: the new configuration holds, and what could not be done now the next start does.
    let reaper = Reaper::open(&supervisor.pins().program(REAP));
    let ended = reaper.and_then(|reaper| {
        let rules = Rules::new(&config, supervisor.maps())?;
        revoke(&table, &reaper, &rules)
    });
    match ended {
        Ok(0) => {}
        Ok(entries) => {
            notes.push(format!("{} flow(s) that are no longer allowed were ended", entries.div_ceil(2)))
        }
        Err(error) => notes.push(format!("warning: flows that are no longer allowed may go on: {error}")),
    }
    if request.open_removed {
        match fill::open_removed(supervisor.maps()) {
            Ok(prefixes) => notes.extend(prefixes.iter().map(|prefix| format!("{prefix} is open now"))),
            Err(error) => notes.push(format!("warning: removed prefixes stay closed: {error}")),
        }
    }
    if let Ok(closed) = fill::closed_prefixes(&supervisor.maps().prefixes)
        && !closed.is_empty()
    {
        let list = closed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "closed, because no vendor has it any more: {list} (`vpnat reload --open-removed` opens it)"
        ));
    }
    Ok(())
}

/// Brings maps and devices to what `config` wants.
fn enforce(supervisor: &mut Supervisor, config: Config) -> Result<(), String> {
    let pins = supervisor.pins().clone();
    fill::fill(supervisor.maps(), &config, || vendors_in_use(&Table::flows(&pins)?))
        .map_err(|error| error.to_string())?;
    read_vendors(&supervisor.maps().vendors)
        .and_then(|vendors| Accounts::open(&pins)?.clear_unlimited(&vendors))
        .map_err(|error| error.to_string())?;
    supervisor.set_config(config);
    supervisor.reconcile().map_err(|error| error.to_string())?;
    supervisor.verify_hooks()?;
    let config = supervisor.config().clone();
    supervisor.set_mark().map_err(|error| error.to_string())?;
    if config.enable_forwarding {
        forwarding::enable(&config).map_err(|error| error.to_string())?;
    }
    Ok(())
}
