//! The plot: packets per second by flows, a panel for each direction, as SVG without any library.

use std::fmt::Write as _;

use super::report::{Report, spread};
use super::throughput::SIZES;

const WIDTH: f64 = 960.0;
const PANEL: f64 = 260.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 60.0;
const GAP: f64 = 60.0;

/// Colours told apart by people with any kind of sight (Okabe and Ito), NATs in strong ones.
const COLOURS: [&str; 10] = [
    "#d0d0d0", "#999999", "#56b4e9", "#e69f00", "#f0e442", "#009e73", "#0072b2", "#44aa99", "#cc79a7",
    "#d55e00",
];

/// Draws what was measured; `contenders` gives the order.
pub fn svg(report: &Report, contenders: &[String]) -> String {
    let height = TOP + 2.0 * (PANEL + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    legend(&mut out, contenders);
    let highest = report
        .rows("rate")
        .flat_map(|row| contenders.iter().filter_map(|name| row.median(name)))
        .fold(1.0, f64::max)
        .ceil();
    for (number, (direction, title)) in
        [("out", "pods to vendor"), ("in", "vendor to pods")].into_iter().enumerate()
    {
        let top = TOP + number as f64 * (PANEL + GAP);
        panel(&mut out, report, contenders, (direction, title), top, highest);
    }
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String, contenders: &[String]) {
    let step = (WIDTH - LEFT) / contenders.len().max(1) as f64;
    for (place, name) in contenders.iter().enumerate() {
        let x = LEFT + place as f64 * step;
        let colour = COLOURS[place % COLOURS.len()];
        let _ = writeln!(out, "<rect x=\"{x:.1}\" y=\"14\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"24\">{name}</text>", x + 16.0);
    }
}

fn panel(
    out: &mut String,
    report: &Report,
    contenders: &[String],
    what: (&str, &str),
    top: f64,
    highest: f64,
) {
    let (direction, title) = what;
    let bottom = top + PANEL;
    let y = |rate: f64| bottom - rate / highest * PANEL;
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.1}\" font-size=\"13\">{title}: million packets per second of one core, by flows</text>",
        top - 10.0
    );
    let mut line = 0.0;
    while line <= highest {
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#e0e0e0\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{line}</text>",
            y(line),
            LEFT - 6.0,
            y(line) + 4.0
        );
        line += 1.0;
    }
    let group = (WIDTH - LEFT) / SIZES.len() as f64;
    let width = group * 0.86 / contenders.len().max(1) as f64;
    for (place, (_, size)) in SIZES.into_iter().enumerate() {
        let left = LEFT + place as f64 * group + group * 0.07;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{size} flows</text>",
            left + group * 0.43,
            bottom + 18.0
        );
        let Some(row) = report.row("rate", &format!("{size} {direction}")) else { continue };
        for (index, name) in contenders.iter().enumerate() {
            let Some(rate) = row.median(name) else { continue };
            let x = left + index as f64 * width;
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{name}: {rate:.2}</title></rect>",
                y(rate),
                width - 2.0,
                bottom - y(rate),
                COLOURS[index % COLOURS.len()]
            );
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\" text-anchor=\"middle\">{rate:.2}</text>",
                x + width / 2.0 - 1.0,
                y(rate) - 4.0
            );
            let reach = rate * spread(row.values(name).unwrap_or(&[rate]));
            let _ = writeln!(
                out,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\" stroke=\"black\"/>",
                x + width / 2.0 - 1.0,
                y(rate + reach),
                y(rate - reach)
            );
        }
    }
}
