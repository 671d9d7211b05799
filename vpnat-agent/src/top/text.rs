//! Numbers, and series of them, in few columns.

/// A number in at most five columns.
pub fn short(value: f64) -> String {
    if !value.is_finite() || value <= 0.0 {
        return "0".into();
    }
    if value < 9.95 && value.fract() > 0.05 {
        return format!("{value:.1}");
    }
    let mut value = value;
    for unit in ["", "k", "M", "G", "T"] {
        if value < 999.5 {
            return if unit.is_empty() || value >= 99.95 {
                format!("{value:.0}{unit}")
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.0}P")
}

/// Seconds in at most six columns.
pub fn span(seconds: u32) -> String {
    match seconds {
        0..=99 => format!("{seconds}s"),
        100..=5999 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        6000..=359_999 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d", seconds / 86400),
    }
}

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BARS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// The last `width` of `values` as bars, the highest of them full. As wide as is asked, blank where nothing is known yet.
pub fn sparkline(values: &[f64], width: usize, ascii: bool) -> String {
    let bars = if ascii { ASCII_BARS } else { BARS };
    let shown = &values[values.len().saturating_sub(width)..];
    let most = shown.iter().copied().fold(0.0, f64::max);
    let blank = std::iter::repeat_n(' ', width - shown.len());
    let bar = |value: &f64| {
        let share = if most > 0.0 { value / most } else { 0.0 };
        bars[((share * 8.0).ceil() as usize).clamp(1, 8) - 1]
    };
    blank.chain(shown.iter().map(bar)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (-1.0, "0"),
            (f64::NAN, "0"),
            (0.5, "0.5"),
            (2.0, "2"),
            (42.4, "42"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (12_345.0, "12.3k"),
            (123_456.0, "123k"),
            (999_999.0, "1.0M"),
            (1e9, "1.0G"),
            (1e20, "100000P"),
        ] {
            assert_eq!(short(value), text);
        }
        for (seconds, text) in [(0, "0s"), (99, "99s"), (100, "1m40s"), (7260, "2h01m"), (400_000, "4d")] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn the_highest_bar_is_full_and_the_rest_in_proportion() {
        assert_eq!(sparkline(&[1.0, 8.0, 4.0, 0.0], 6, false), "  ▁█▄▁");
        assert_eq!(sparkline(&[9.0, 1.0, 2.0], 2, true), "-#");
        assert_eq!(sparkline(&[0.0; 3], 3, true), "___");
        assert_eq!(sparkline(&[], 2, false), "  ");
    }
}
