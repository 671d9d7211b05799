//! What was measured, and how it is told: a table, JSON, Markdown.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    /// Larger figures.
    More,
    /// Smaller figures.
    Less,
}

/// One thing measured of several contenders.
#[derive(Clone, Debug)]
pub struct Row {
    /// Kind of measurement.
    pub measure: String,
    /// What exactly.
    pub what: String,
    /// Unit.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// Every round's figure, by contender in the order in which they came.
    pub cells: Vec<(String, Vec<f64>)>,
}

impl Row {
    /// A contender's figures.
    pub fn values(&self, contender: &str) -> Option<&[f64]> {
        self.cells.iter().find(|(name, _)| name == contender).map(|(_, values)| values.as_slice())
    }

    /// A contender's median.
    pub fn median(&self, contender: &str) -> Option<f64> {
        self.values(contender).map(median)
    }
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Half the distance between the extremes, as a share of the median.
pub fn spread(values: &[f64]) -> f64 {
    let (least, most) =
        values.iter().fold((f64::MAX, f64::MIN), |(a, b), value| (a.min(*value), b.max(*value)));
    (most - least) / 2.0 / median(values).abs().max(1e-12)
}

/// The titles of the measurements, in their order.
pub const TITLES: [(&str, &str); 15] = [
    ("rate", "Packets per second of one core, 64 B UDP, by flows and direction"),
    ("net", "Net cost of the host: path with it minus path without"),
    ("loss", "Packets that did not arrive as they should"),
    ("opening", "New flows"),
    ("placed", "Attempts placed"),
    ("program", "Programs, time per run"),
    ("memory", "Memory"),
    ("sweep", "Sweep"),
    ("looking", "Looking at a million flows"),
    ("bulk", "TCP in bulk, segmentation offload on"),
    ("bulk-cpu", "TCP in bulk, processor time"),
    ("latency", "One way latency at a fixed load"),
    ("added", "Latency added to that of the path without a host"),
    ("start", "From start to the first translated packet"),
    ("cost", "Cost of the whole path"),
];

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    /// What makes figures doubtful.
    pub warnings: Vec<String>,
    /// What a reader should know.
    pub remarks: Vec<String>,
}

impl Report {
    /// Adds a figure.
    pub fn record(
        &mut self,
        measure: &str,
        what: &str,
        unit: &str,
        better: Better,
        contender: &str,
        value: f64,
    ) {
        let found = self.rows.iter().position(|row| row.measure == measure && row.what == what);
        let index = found.unwrap_or_else(|| {
            self.rows.push(Row {
                measure: measure.into(),
                what: what.into(),
                unit: unit.into(),
                better,
                cells: Vec::new(),
            });
            self.rows.len() - 1
        });
        let cells = &mut self.rows[index].cells;
        match cells.iter_mut().find(|(name, _)| name == contender) {
            Some((_, values)) => values.push(value),
            None => cells.push((contender.into(), vec![value])),
        }
    }

    /// Says once that a figure is doubtful.
    pub fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            eprintln!("warning: {text}");
            self.warnings.push(text);
        }
    }

    /// Says once what a reader should know.
    pub fn remark(&mut self, text: String) {
        if !self.remarks.contains(&text) {
            self.remarks.push(text);
        }
    }

    /// A row.
    pub fn row(&self, measure: &str, what: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.measure == measure && row.what == what)
    }

    /// All rows of a kind.
    pub fn rows<'a>(&'a self, measure: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.measure == measure)
    }

    /// Warns of figures that scatter too much to tell contenders apart.
    pub fn judge_noise(&mut self) {
        let mut noisy = Vec::new();
        for row in self.rows("rate").chain(self.rows("opening")) {
            for (name, values) in &row.cells {
                let spread = spread(values);
                if spread > 0.10 {
                    noisy.push(format!(
                        "{} {} of {name} scatters by ±{:.0} %: too noisy to tell small differences",
                        row.measure,
                        row.what,
                        spread * 100.0
                    ));
                }
            }
        }
        for row in self.rows("loss") {
            for (name, values) in &row.cells {
                if median(values) > 1.0 {
                    noisy.push(format!("{name} lost {:.1} % of the packets ({})", median(values), row.what));
                }
            }
        }
        for text in noisy {
            self.warn(text);
        }
    }

    /// The table, as Markdown; `contenders` gives the columns.
    pub fn table(&self, contenders: &[String]) -> String {
        let mut text = String::new();
        for (measure, title) in TITLES {
            let rows: Vec<&Row> = self.rows(measure).collect();
            if rows.is_empty() || measure == "cost" {
                continue;
            }
            if measure == "loss" && rows.iter().all(|row| row.cells.iter().all(|(_, v)| median(v) < 0.05)) {
                let _ = writeln!(text, "\n**{title}:** none (under 0.05 % in every median)");
                continue;
            }
            let columns: Vec<&String> =
                contenders.iter().filter(|name| rows.iter().any(|row| row.values(name).is_some())).collect();
            let mut lines: Vec<Vec<String>> = vec![vec![String::new()]];
            lines[0].extend(columns.iter().map(|name| (*name).clone()));
            for row in &rows {
                let mut line = vec![format!("{}, {}", row.what, row.unit)];
                line.extend(columns.iter().map(|name| row.values(name).map_or("-".into(), cell)));
                lines.push(line);
            }
            let _ = writeln!(text, "\n**{title}**\n");
            text.push_str(&aligned(&lines));
        }
        text
    }

    /// Ratios of medians to a contender's, for rates.
    pub fn ratios(&self, of: &str) -> String {
        let mut lines: Vec<Vec<String>> = Vec::new();
        let others = ["redirect", "plain", "iptables", "nftables"];
        lines.push(std::iter::once(format!("{of} ÷")).chain(others.map(str::to_string)).collect());
        for row in self.rows("rate").chain(self.rows("net")).chain(self.rows("opening")) {
            let Some(ours) = row.median(of) else { continue };
            let mut line = vec![format!("{} {}", row.measure, row.what)];
            line.extend(others.iter().map(|other| match row.median(other) {
                Some(theirs) if theirs != 0.0 => format!("{:.2}", ours / theirs),
                _ => "-".into(),
            }));
            lines.push(line);
        }
        if lines.len() == 1 { String::new() } else { aligned(&lines) }
    }

    /// Everything.
    pub fn json(&self, machine: &Value, options: &Value) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let cells: serde_json::Map<String, Value> = row
                    .cells
                    .iter()
                    .map(|(name, values)| {
                        let cell = json!({
                            "median": median(values), "spread": spread(values), "values": values
                        });
                        (name.clone(), cell)
                    })
                    .collect();
                json!({
                    "measure": row.measure, "what": row.what, "unit": row.unit,
                    "better": if row.better == Better::More { "more" } else { "less" },
                    "contenders": cells,
                })
            })
            .collect();
        json!({
            "machine": machine, "options": options, "rows": rows,
            "warnings": self.warnings, "remarks": self.remarks,
        })
    }
}

fn cell(values: &[f64]) -> String {
    let middle = median(values);
    let figure = match middle.abs() {
        size if size >= 1000.0 => format!("{middle:.0}"),
        size if size >= 100.0 => format!("{middle:.0}"),
        size if size >= 10.0 => format!("{middle:.1}"),
        _ => format!("{middle:.2}"),
    };
    if values.len() > 1 { format!("{figure} ±{:.0}%", spread(values) * 100.0) } else { figure }
}

/// A Markdown table whose columns also line up on a terminal.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, width) in widths.iter().enumerate() {
            let cell = line.get(column).map_or("", String::as_str);
            let gap = " ".repeat(width - cell.chars().count());
            let _ =
                if column == 0 { write!(text, "| {cell}{gap} |") } else { write!(text, " {gap}{cell} |") };
        }
        text.push('\n');
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let rule = "-".repeat(width + 1);
                let _ = if column == 0 { write!(text, "|{rule}-|") } else { write!(text, "{rule}:|") };
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(spread(&[9.0, 10.0, 11.0]), 0.1);
    }
}
