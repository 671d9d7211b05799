//! A picture of the dashboard without Grafana: its panels where they stand, with what a real Prometheus answers.

use std::fmt::Write as _;

use serde_json::Value;

/// A panel, and what its queries found: names with values over time.
pub struct Panel {
    pub title: String,
    pub stat: bool,
    pub unit: String,
    /// x, y, width, height in Grafana's grid.
    pub place: [f64; 4],
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

/// Pixels of a unit of the grid.
const UNIT: (f64, f64) = (50.0, 26.0);

const COLOURS: [&str; 8] =
    ["#3274d9", "#e0752d", "#2f9e44", "#c4162a", "#8f3bb8", "#0a9396", "#b8860b", "#6c757d"];

/// The picture, of what lies between the times `from` and `to` (seconds).
pub fn draw(panels: &[Panel], from: f64, to: f64) -> String {
    let bottom = panels.iter().map(|panel| panel.place[1] + panel.place[3]).fold(0.0, f64::max);
    let (width, height) = (24.0 * UNIT.0, bottom * UNIT.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\"><rect width=\"{width}\" height=\"{height}\" fill=\"#f4f5f5\"/>\n"
    );
    for panel in panels {
        let [x, y, w, h] = panel.place;
        let (x, y, w, h) = (x * UNIT.0 + 4.0, y * UNIT.1 + 4.0, w * UNIT.0 - 8.0, h * UNIT.1 - 8.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"white\" stroke=\"#d8d9da\"/>\
             <text x=\"{}\" y=\"{}\" font-weight=\"bold\">{}</text>",
            x + 8.0,
            y + 16.0,
            escaped(&panel.title)
        );
        if panel.stat {
            let last = panel.series.first().and_then(|(_, points)| points.last()).map_or(f64::NAN, |p| p.1);
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" font-size=\"26\" text-anchor=\"middle\">{}</text>",
                x + w / 2.0,
                y + h * 0.7,
                shown(last, &panel.unit)
            );
        } else {
            lines(&mut svg, panel, [x + 8.0, y + 28.0, w - 16.0, h - 70.0], from, to);
        }
    }
    svg + "</svg>\n"
}

fn lines(svg: &mut String, panel: &Panel, [x, y, w, h]: [f64; 4], from: f64, to: f64) {
    let most = panel.series.iter().flat_map(|(_, points)| points).map(|point| point.1).fold(0.0, f64::max);
    let top = if most > 0.0 { most } else { 1.0 };
    let _ = writeln!(
        svg,
        "<path d=\"M{x} {0}h{w}M{x} {y}h{w}\" stroke=\"#e3e4e5\"/><text x=\"{x}\" y=\"{1}\" fill=\"#777\">{2}</text>",
        y + h,
        y + 10.0,
        shown(top, &panel.unit)
    );
    for (number, (name, points)) in panel.series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let path: Vec<String> = points
            .iter()
            .filter(|point| point.1.is_finite())
            .map(|(time, value)| {
                format!("{:.1} {:.1}", x + (time - from) / (to - from) * w, y + h - value / top * h)
            })
            .collect();
        let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", path.join(" "));
        if number < 4 {
            let (column, row) = ((number % 2) as f64, (number / 2) as f64);
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" fill=\"{colour}\" font-size=\"9\">{}</text>",
                x + column * w / 2.0,
                y + h + 14.0 + row * 12.0,
                escaped(name)
            );
        }
    }
}

/// A value with its unit, as Grafana would show it.
fn shown(value: f64, unit: &str) -> String {
    match unit {
        _ if !value.is_finite() => "no data".into(),
        "percentunit" => format!("{:.2} %", value * 100.0),
        "bytes" => format!("{:.1} MB", value / 1e6),
        "bps" => format!("{:.1} kbit/s", value / 1e3),
        "s" => format!("{:.2} ms", value * 1e3),
        "pps" | "cps" => format!("{value:.1} /s"),
        _ => format!("{value:.0}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// The names of a series' labels in the legend's `{{…}}`.
pub fn legend(format: &str, labels: &Value) -> String {
    let mut text = format.to_owned();
    for (name, value) in labels.as_object().into_iter().flatten() {
        text = text.replace(&format!("{{{{{name}}}}}"), value.as_str().unwrap_or_default());
    }
    text
}
