//! `vpnat top`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{PinOptions, say};
use crate::top::draw::Look;
use crate::top::model::Model;
use crate::top::screen::{self, ScreenError};
use crate::top::ui::{Panel, Scope, Sort, Ui};

/// What a frame is printed on when there is no terminal.
const PAPER: (u16, u16) = (80, 24);

/// What is said in `--help`.
const HELP: &str = "Show what goes on now: vendors, pods, flows, and why packets are dropped.

Reads the kernel's maps only, so it works while the agent is down. `?` explains the keys. Colours are left out if NO_COLOR
is set, and bars are drawn in ASCII where the locale is not UTF-8.";

#[derive(Debug, Args)]
#[command(long_about = HELP)]
pub(super) struct Options {
    /// Print one frame and end: for scripts. Rates are those of one interval.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Only what concerns this vendor.
    #[arg(long, value_name = "NAME")]
    vendor: Option<String>,
    /// Only pods and flows that hold this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// What lists are sorted by.
    #[arg(long, value_enum, default_value_t = By::Bits)]
    sort: By,
    /// Size of a printed frame; that of the terminal, or 80x24 without one.
    #[arg(long, value_name = "COLUMNSxROWS", requires = "once", value_parser = size)]
    size: Option<(u16, u16)>,
    #[command(flatten)]
    pins: PinOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    /// Bits per second.
    Bits,
    /// Packets per second.
    Packets,
    /// Number of flows; of flows, their age.
    Flows,
    /// Name or address.
    Name,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("`{text}` is no interval: use 0.1 to 3600 seconds"))
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let parse = |number: &str| number.parse::<u16>().ok().filter(|number| (1..=1000).contains(number));
    text.split_once('x')
        .and_then(|(columns, rows)| Some((parse(columns)?, parse(rows)?)))
        .ok_or_else(|| format!("`{text}` is no size: write columns and rows, 1 to 1000, as in 80x24"))
}

/// Whether the locale's characters are UTF-8, as setlocale(3) finds the locale.
fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let named =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|value| !value.is_empty());
    named.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let pins = options.pins.pins()?;
    let variable = |name: &str| std::env::var(name).ok();
    let look = Look {
        colour: variable("NO_COLOR").is_none_or(|value| value.is_empty()),
        ascii: !is_utf8(variable),
        still: false,
    };
    let choose = |model: &Model| {
        let slot = |name: &String| {
            let vendor = model.current.vendors.iter().find(|vendor| vendor.name == *name);
            vendor.map(|vendor| vendor.slot).ok_or_else(|| ScreenError::NoVendor(name.clone()))
        };
        let vendor = options.vendor.as_ref().map(slot).transpose()?;
        Ok(Ui {
            panel: if vendor.is_some() { Panel::Pods } else { Panel::Vendors },
            scope: Scope { vendor, ..Scope::default() },
            filter: options.filter.clone(),
            sort: match options.sort {
                By::Bits => Sort::Bits,
                By::Packets => Sort::Packets,
                By::Flows => Sort::Flows,
                By::Name => Sort::Name,
            },
            ..Ui::default()
        })
    };
    if options.once {
        let terminal = std::io::stdout().is_terminal().then(ratatui::crossterm::terminal::size);
        let size = options.size.or_else(|| terminal?.ok()).unwrap_or(PAPER);
        screen::once(&pins, options.interval, look, size, choose)?.iter().try_for_each(say)?;
    } else {
        screen::run(&pins, options.interval, look, choose)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_intervals() {
        assert_eq!(size("80x24"), Ok((80, 24)));
        assert!(["", "80", "x", "0x24", "80x", "80x1001", "80X24"].iter().all(|text| size(text).is_err()));
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        assert!(["", "0", "-1", "NaN", "inf", "3601", "1s"].iter().all(|text| interval(text).is_err()));
    }

    #[test]
    fn the_locale_is_found_as_the_c_library_does() {
        let with = |pairs: &'static [(&str, &str)]| {
            is_utf8(|name| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(with(&[("LANG", "de_DE.UTF-8")]) && with(&[("LC_CTYPE", "C.utf8")]));
        assert!(!with(&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")]) && !with(&[]));
        assert!(with(&[("LC_ALL", ""), ("LANG", "en_US.UTF-8")]));
    }
}
