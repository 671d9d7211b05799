//! The terminal: drawn to, and listened to.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};
use ratatui::layout::Rect;

use super::draw::{Look, draw};
use super::model::Model;
use super::sample::Sample;
use super::ui::{Key, Next, Ui, Under};
use crate::datapath::Error;
use crate::datapath::pins::Pins;
use crate::waiting::Waiting;

/// Signals are looked for so often while nothing happens.
const LISTEN: Duration = Duration::from_millis(250);

/// A look at the maps may take this part of the time at most: a walk over a large table costs.
const REST: u32 = 10;

/// Why there is no screen.
#[derive(Debug, thiserror::Error)]
pub enum ScreenError {
    /// Nothing to draw on.
    #[error("there is no terminal to draw on: standard {0}: use `vpnat top --once`, which prints one frame")]
    NoTerminal(&'static str),
    /// One that cannot be drawn on.
    #[error("the terminal cannot be drawn on: TERM={0}: use `vpnat top --once`, which prints one frame")]
    Dumb(String),
    /// The maps cannot be read.
    #[error(transparent)]
    Maps(#[from] Error),
    /// Asked for, and not there.
    #[error("there is no vendor `{0}`: --vendor: `vpnat status` names those that there are")]
    NoVendor(String),
    /// The terminal does not work.
    #[error("drawing failed: the terminal: {0}: try `vpnat top --once`")]
    Terminal(#[source] io::Error),
    /// Signals cannot be waited for.
    #[error("signals cannot be handled: this process: {0}")]
    Signals(#[source] io::Error),
}

/// Puts the terminal back as it was, whatever happens.
struct Raw;

impl Raw {
    fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        let raw = Self;
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}

/// Two looks at the maps, `interval` apart, as the lines of one frame.
///
/// # Errors
/// If the maps cannot be read, or do not have what is to be shown.
pub fn once(
    pins: &Pins,
    interval: Duration,
    look: Look,
    size: (u16, u16),
    choose: impl FnOnce(&Model) -> Result<Ui, ScreenError>,
) -> Result<Vec<String>, ScreenError> {
    let waiting = Waiting::of("looking twice at the flow table");
    let mut model = Model::new(Sample::read(pins)?);
    let mut ui = choose(&model)?;
    std::thread::sleep(interval);
    model.push(Sample::read(pins)?);
    drop(waiting);
    let mut buf = Buffer::empty(Rect::new(0, 0, size.0, size.1));
    draw(&model, &mut ui, Look { still: true, ..look }, None, &mut buf);
    Ok(lines(&buf))
}

/// What stands in the cells, without blanks at the ends of lines and without empty lines at the end.
pub fn lines(buf: &Buffer) -> Vec<String> {
    let mut lines: Vec<String> = (0..buf.area.height)
        .map(|y| {
            let cells = (0..buf.area.width).map(|x| buf[(x, y)].symbol());
            cells.collect::<String>().trim_end().to_owned()
        })
        .collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// Draws until the operator has seen enough.
///
/// # Errors
/// Without a terminal, or if the maps cannot be read at the start; later that is said on the screen.
pub fn run(
    pins: &Pins,
    interval: Duration,
    look: Look,
    choose: impl FnOnce(&Model) -> Result<Ui, ScreenError>,
) -> Result<(), ScreenError> {
    for (name, is_terminal) in [("output", io::stdout().is_terminal()), ("input", io::stdin().is_terminal())]
    {
        if !is_terminal {
            return Err(ScreenError::NoTerminal(name));
        }
    }
    let kind = std::env::var("TERM").unwrap_or_default();
    if kind.is_empty() || kind == "dumb" {
        return Err(ScreenError::Dumb(kind));
    }
    let waiting = Waiting::of("looking at the flow table");
    let mut model = Model::new(Sample::read(pins)?);
    let mut ui = choose(&model)?;
    drop(waiting);
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        signal_hook::flag::register(signal, ended.clone()).map_err(ScreenError::Signals)?;
    }
    let _raw = Raw::enter().map_err(ScreenError::Terminal)?;
    // One write for each frame: what changed, in one packet over a slow line.
    let out: BufWriter<Stdout> = BufWriter::with_capacity(1 << 16, io::stdout());
    let mut terminal = Terminal::new(CrosstermBackend::new(out)).map_err(ScreenError::Terminal)?;
    let mut note: Option<String> = None;
    let mut next = Instant::now() + interval;
    let mut under = Under::default();
    while !ended.load(Ordering::Relaxed) {
        terminal
            .draw(|frame| under = draw(&model, &mut ui, look, note.as_deref(), frame.buffer_mut()))
            .map_err(ScreenError::Terminal)?;
        let wait =
            if ui.paused { LISTEN } else { next.saturating_duration_since(Instant::now()).min(LISTEN) };
        if event::poll(wait).map_err(ScreenError::Terminal)? {
            // All that has been typed, before the screen is drawn again.
            loop {
                let key = match event::read().map_err(ScreenError::Terminal)? {
                    Event::Key(key) => known(key),
                    _ => None,
                };
                if key.is_some_and(|key| ui.press(key, &under) == Next::Quit) {
                    return Ok(());
                }
                if !event::poll(Duration::ZERO).map_err(ScreenError::Terminal)? {
                    break;
                }
            }
        }
        if !ui.paused && Instant::now() >= next {
            let start = Instant::now();
            match Sample::read(pins) {
                Ok(sample) => {
                    model.push(sample);
                    note = None;
                }
                Err(error) => note = Some(error.to_string()),
            }
            next = Instant::now() + interval.max(start.elapsed() * REST);
        }
    }
    Ok(())
}

/// The key, if it means something.
fn known(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    Some(match event.code {
        KeyCode::Char('c' | 'd') if event.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Up => Key::Up(1),
        KeyCode::Down => Key::Down(1),
        KeyCode::PageUp => Key::Up(10),
        KeyCode::PageDown => Key::Down(10),
        KeyCode::Home => Key::Up(usize::MAX),
        KeyCode::End => Key::Down(usize::MAX),
        _ => return None,
    })
}
