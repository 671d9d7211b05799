//! A word on the terminal while something takes longer than a second.

use std::io::{IsTerminal as _, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nobody wonders before, and how often the seconds are shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says so for as long as it lives, and leaves no trace on the line.
#[derive(Debug)]
pub struct Waiting {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    /// Begins, if standard error is a terminal; `what` is what is being done.
    pub fn of(what: &'static str) -> Self {
        if std::io::stderr().is_terminal() {
            Self::on(std::io::stderr(), PATIENCE, what)
        } else {
            Self { over: None, thread: None }
        }
    }

    fn on(mut out: impl Write + Send + 'static, patience: Duration, what: &'static str) -> Self {
        let (over, told) = channel::<()>();
        let begun = Instant::now();
        let thread = std::thread::spawn(move || {
            let mut width = 0;
            // A terminal that does not take the words has no reader who misses them.
            while told.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                let words = format!("vpnat: {what}: {} s", begun.elapsed().as_secs());
                width = words.chars().count();
                let _ = write!(out, "\r{words}").and_then(|()| out.flush());
            }
            if width > 0 {
                let _ = write!(out, "\r{:width$}\r", "").and_then(|()| out.flush());
            }
        });
        Self { over: Some(over), thread: Some(thread) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Standard output that is written to while a word stands on the terminal.
///
/// Where both are one terminal the word goes before the first byte comes, so that they never share a line.
#[derive(Debug)]
pub struct Output<W = std::io::StdoutLock<'static>> {
    out: W,
    waiting: Option<Waiting>,
    shared: bool,
}

impl Output {
    /// `what` is what is being done.
    pub fn while_waiting_for(what: &'static str) -> Self {
        let out = std::io::stdout().lock();
        let shared = out.is_terminal();
        Self { out, waiting: Some(Waiting::of(what)), shared }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.shared {
            drop(self.waiting.take());
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is shown by something that takes until `enough` of it is.
    fn shown(patience: Duration, enough: impl Fn(&[u8]) -> bool) -> String {
        let screen = Screen::default();
        let waiting = Waiting::on(screen.clone(), patience, "walking");
        while !enough(&screen.0.lock().unwrap()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(waiting);
        String::from_utf8(screen.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn what_takes_long_is_said_and_wiped_away() {
        let text = shown(Duration::from_millis(5), |bytes| !bytes.is_empty());
        let words = "\rvpnat: walking: 0 s";
        assert!(text.starts_with(words), "{text:?}");
        assert!(text.ends_with(&format!("\r{}\r", " ".repeat(words.len() - 1))), "{text:?}");
    }

    #[test]
    fn a_shared_terminal_shows_the_word_or_the_output() {
        for shared in [true, false] {
            let screen = Screen::default();
            let waiting = Waiting::on(screen.clone(), Duration::from_millis(5), "walking");
            let mut output = Output { out: Vec::new(), waiting: Some(waiting), shared };
            while screen.0.lock().unwrap().is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            output.write_all(b"a row").unwrap();
            assert_eq!(output.waiting.is_none(), shared);
            assert_eq!(output.out, b"a row");
            assert!(!shared || screen.0.lock().unwrap().ends_with(b" \r"));
        }
    }

    #[test]
    fn what_is_quick_says_nothing() {
        assert_eq!(shown(Duration::from_secs(60), |_| true), "");
    }
}
