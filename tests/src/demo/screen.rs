//! What the viewer sees: headings, one line per check with its time, and progress while something lasts.

use std::cell::Cell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Columns for the text of a check, before its time.
const WIDTH: usize = 104;

/// How long a step may take before it shows that it is still going on.
const SILENT: Duration = Duration::from_millis(700);

/// The output and what has been checked so far.
pub struct Screen {
    terminal: bool,
    colour: bool,
    start: Instant,
    held: Cell<u32>,
    failed: Cell<u32>,
}

impl Screen {
    /// A screen; colour only on a terminal and not against the viewer's wish.
    pub fn new(terminal: bool, no_colour: bool) -> Self {
        Self {
            terminal,
            colour: terminal && !no_colour,
            start: Instant::now(),
            held: Cell::new(0),
            failed: Cell::new(0),
        }
    }

    /// A heading.
    pub fn heading(&self, text: &str) {
        println!("\n{}", self.paint("1", text));
    }

    /// A line of explanation.
    pub fn note(&self, text: &str) {
        for line in text.lines() {
            println!("      {}", self.paint("2", line));
        }
    }

    /// What another program printed.
    pub fn excerpt(&self, command: &str, text: &str, lines: usize) {
        println!("      {}", self.paint("36", &format!("$ {command}")));
        let all: Vec<&str> = text.lines().collect();
        for line in all.iter().take(lines) {
            println!("      {line}");
        }
        if all.len() > lines {
            self.note(&format!("… {} more lines", all.len() - lines));
        }
    }

    /// Does something and prints whether it held. `work` returns what was seen, or what was wrong; a panic
    /// counts as the latter.
    pub fn check(&self, what: &str, work: impl FnOnce() -> Result<String, String>) -> bool {
        self.get(what, || work().map(|seen| ((), seen))).is_some()
    }

    /// As [`Screen::check`], for work that gives something.
    pub fn get<T>(&self, what: &str, work: impl FnOnce() -> Result<(T, String), String>) -> Option<T> {
        let start = Instant::now();
        let progress = Progress::start(what, self.terminal);
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(super::last_panic()));
        drop(progress);
        match outcome {
            Ok((value, seen)) => {
                self.held.set(self.held.get() + 1);
                let text = if seen.is_empty() { what.to_string() } else { format!("{what}: {seen}") };
                let line = format!("{text:<WIDTH$} {}", self.time(start.elapsed()));
                println!("  {}  {}", self.paint("32", "ok"), line.trim_end());
                Some(value)
            }
            Err(wrong) => {
                self.failed(what, &wrong);
                None
            }
        }
    }

    /// Prints that something did not hold.
    pub fn failed(&self, what: &str, wrong: &str) {
        self.failed.set(self.failed.get() + 1);
        println!("  {}  {what}", self.paint("1;31", "FAILED"));
        for line in wrong.trim_end().lines() {
            println!("          {}", self.paint("31", line));
        }
    }

    /// Whether everything so far has held.
    pub fn all_held(&self) -> bool {
        self.failed.get() == 0
    }

    /// The last line; says whether everything held.
    pub fn summary(&self) -> bool {
        let took = self.start.elapsed().as_secs_f64();
        let (held, failed) = (self.held.get(), self.failed.get());
        let line = if failed == 0 {
            self.paint("1;32", &format!("All {held} checks held, in {took:.1} s."))
        } else {
            self.paint("1;31", &format!("{failed} of {} checks FAILED, in {took:.1} s.", held + failed))
        };
        println!("\n{line}");
        self.all_held()
    }

    fn time(&self, time: Duration) -> String {
        let text = match time.as_secs_f64() {
            seconds if seconds >= 1.0 => format!("{seconds:6.2} s"),
            // Nothing was done but to look at what an earlier step had found.
            seconds if seconds < 0.001 => return String::new(),
            seconds => format!("{:6.1} ms", seconds * 1e3),
        };
        self.paint("2", &text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Shows that a step is going on, once it has lasted for a while.
struct Progress {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    fn start(what: &str, terminal: bool) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (done, what) = (Arc::clone(&done), what.to_string());
            move || show(&what, terminal, &done)
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn show(what: &str, terminal: bool, done: &AtomicBool) {
    let start = Instant::now();
    let mut shown = false;
    for turn in 0.. {
        let interval = match (shown, terminal) {
            (false, _) => SILENT,
            (true, true) => Duration::from_millis(100),
            (true, false) => Duration::from_secs(5),
        };
        let until = Instant::now() + interval;
        while !done.load(Ordering::Relaxed) && Instant::now() < until {
            std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
        if done.load(Ordering::Relaxed) {
            break;
        }
        let seconds = start.elapsed().as_secs_f64();
        if terminal {
            let sign = ['|', '/', '-', '\\'][turn % 4];
            print!("\r\x1b[2K   {sign}  {what} … {seconds:.1} s");
        } else {
            println!("  ..  {what} …");
        }
        let _ = std::io::stdout().flush();
        shown = true;
    }
    if shown && terminal {
        print!("\r\x1b[2K");
        let _ = std::io::stdout().flush();
    }
}
