//! The demo: the main job from pod to vendor, shown line by line, each line a check.

mod keep;
mod scenes;
mod screen;

use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use self::screen::Screen;

/// What the demo is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Leave everything running at the end.
    pub keep: bool,
}

/// Runs the demo.
pub fn run(options: Options) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("The demo makes network namespaces: run it as root (sudo).");
        return ExitCode::FAILURE;
    }
    if options.keep { keep::run() } else { status(show(None)) }
}

/// Removes what an earlier run with `--keep` has left running.
pub fn remove() -> ExitCode {
    keep::remove()
}

fn status(all_true: bool) -> ExitCode {
    if all_true { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Shows everything and says whether all of it was true. `kept` is called at the end, while everything still
/// stands, if it is to stay so; it does not return unless keeping fails.
fn show(kept: Option<scenes::Keep<'_>>) -> bool {
    // A check that panics is a check that failed; its message goes into its line.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
        *lock() = Some(format!("{}{place}", message(info.payload())));
    }));
    let screen = Screen::new(
        std::io::stdout().is_terminal(),
        std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
    );
    let finished = catch_unwind(AssertUnwindSafe(|| scenes::play(&screen, kept)));
    let _ = std::panic::take_hook();
    if finished.is_err() {
        screen.failed("the demo could not go on", &last_panic());
    }
    screen.summary()
}

static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

fn lock() -> std::sync::MutexGuard<'static, Option<String>> {
    LAST_PANIC.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The message of the last panic.
fn last_panic() -> String {
    lock().take().unwrap_or_else(|| "for an unknown reason".into())
}

fn message(payload: &(dyn std::any::Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_string(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without message".into(),
    }
}
