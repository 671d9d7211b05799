//! The screen as cells. At least 80 by 24 shows everything; less shows less, never garbage.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::model::{FlowRow, Model, Rates, age};
use super::sample::{FlowId, MOST_FLOWS};
use super::text::{short, span, sparkline};
use super::ui::{Panel, Ui, Under};
use crate::datapath::flows::{Endpoint, protocol_name};

/// Flows that a list goes down to.
const MOST_ROWS: usize = 500;

/// What the terminal can show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Whether colours are wanted.
    pub colour: bool,
    /// Whether only ASCII is.
    pub ascii: bool,
    /// Whether the frame is printed: without a cursor, and without keys that nobody can press.
    pub still: bool,
}

impl Look {
    fn ink(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// How much something deserves attention: not, some, much.
    fn alarm(&self, value: f64, some: f64, much: f64) -> Style {
        match value {
            value if value >= much => self.ink(Color::Red).add_modifier(Modifier::BOLD),
            value if value >= some => self.ink(Color::Yellow),
            _ => Style::new(),
        }
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// A column of a list: title, width, and whether it stands on the right.
type Column = (&'static str, u16, bool);

/// A row: its cells, and a style where one deserves it.
type Row = (Vec<String>, Style);

struct Canvas<'a> {
    buf: &'a mut Buffer,
    look: Look,
}

impl Canvas<'_> {
    /// Writes `text` into at most `width` cells from `x` in the line `y` of `area`.
    fn put(&mut self, area: Rect, x: u16, y: u16, width: u16, text: &str, style: Style) {
        if y >= area.height || x >= area.width {
            return;
        }
        let width = width.min(area.width - x);
        self.buf.set_stringn(area.x + x, area.y + y, text, usize::from(width), style);
    }

    fn line(&mut self, area: Rect, y: u16, text: &str, style: Style) {
        self.put(area, 0, y, area.width, text, style);
    }

    /// A list with a title line; `cursor` is the row that is pointed at, if this list has the keys.
    fn list(&mut self, area: Rect, columns: &[Column], rows: &[Row], cursor: Option<usize>) {
        if area.height == 0 {
            return;
        }
        let cursor = cursor.filter(|_| !self.look.still);
        let title = if cursor.is_some() { BOLD.patch(REVERSED) } else { BOLD };
        if cursor.is_some() {
            self.buf.set_style(Rect { height: 1, ..area }, REVERSED);
        }
        let titles: Vec<String> = columns.iter().map(|(title, ..)| (*title).to_owned()).collect();
        self.cells(area, 0, columns, &titles, title);
        let visible = usize::from(area.height - 1);
        let first = cursor.map_or(0, |row| (row + 1).saturating_sub(visible));
        for (at, (cells, style)) in rows.iter().enumerate().skip(first).take(visible) {
            let y = (at - first + 1) as u16;
            let style = if cursor == Some(at) { style.patch(REVERSED) } else { *style };
            if cursor == Some(at) {
                self.buf.set_style(Rect { y: area.y + y, height: 1, ..area }, REVERSED);
            }
            self.cells(area, y, columns, cells, style);
        }
    }

    fn cells(&mut self, area: Rect, y: u16, columns: &[Column], cells: &[String], style: Style) {
        let mut x = 0;
        for ((_, width, right), cell) in columns.iter().zip(cells) {
            let length = cell.chars().count() as u16;
            let from = if *right { x + width.saturating_sub(length) } else { x };
            self.put(area, from, y, *width, cell, style);
            x += width + 1;
        }
    }
}

/// Draws everything; returns what is under the cursors, which are brought back to their lists.
pub fn draw(model: &Model, ui: &mut Ui, look: Look, note: Option<&str>, buf: &mut Buffer) -> Under {
    let area = buf.area;
    let mut canvas = Canvas { buf, look };
    if area.height == 0 || area.width == 0 {
        return Under::default();
    }
    header(&mut canvas, area, model, ui);
    if ui.help {
        help(&mut canvas, rest(area, 2));
        return Under::default();
    }
    trends(&mut canvas, rest(area, 1), model, ui);
    let foot = u16::from(!look.still);
    let body = Rect { height: area.height.saturating_sub(2 + foot), ..rest(area, 2) };
    let mut under = Under::default();
    let vendors = model.vendors(ui);
    ui.clamp(Panel::Vendors, vendors.len());
    under.vendor = vendors.get(ui.row(Panel::Vendors)).map(|row| row.slot);
    let height = (vendors.len() as u16).clamp(1, (body.height / 4).max(1)) + 1;
    let (top, below) = split(body, height);
    vendor_list(&mut canvas, top, model, ui, &vendors);
    let (middle, bottom) = split(below, (below.height * 2 / 5).max(3));
    match ui.scope.flow.and_then(|id| model.current.followed.get(&id).map(|flow| (id, *flow))) {
        Some((id, flow)) => {
            let (rows, _) = model.flows(ui, usize::MAX);
            let rates = rows.iter().find(|row| row.id == id).map(|row| row.rates).unwrap_or_default();
            detail(&mut canvas, middle, model, &FlowRow { id, flow, rates });
        }
        None => {
            let left = Rect { width: (middle.width.saturating_sub(2) / 2).saturating_sub(2), ..middle };
            let right = Rect {
                x: left.x + left.width + 2,
                width: middle.width.saturating_sub(left.width + 2),
                ..middle
            };
            under.pod = pod_list(&mut canvas, left, model, ui);
            drop_list(&mut canvas, right, model, ui);
        }
    }
    under.flow = flow_list(&mut canvas, bottom, model, ui);
    if !look.still {
        footer(&mut canvas, rest(area, area.height - 1), ui, note);
    }
    under
}

/// What is below the first `lines`.
fn rest(area: Rect, lines: u16) -> Rect {
    let lines = lines.min(area.height);
    Rect { y: area.y + lines, height: area.height - lines, ..area }
}

/// The first `lines`, and the rest.
fn split(area: Rect, lines: u16) -> (Rect, Rect) {
    (Rect { height: lines.min(area.height), ..area }, rest(area, lines))
}

fn header(canvas: &mut Canvas<'_>, area: Rect, model: &Model, ui: &Ui) {
    let (look, sample) = (canvas.look, &model.current);
    let (state, style) = match (sample.configured, sample.agent_running) {
        (true, true) => ("translating", look.ink(Color::Green)),
        (true, false) => ("translating, AGENT NOT RUNNING", look.ink(Color::Yellow).patch(BOLD)),
        (false, _) => ("NOT CONFIGURED: nothing leaves", look.ink(Color::Red).patch(BOLD)),
    };
    let version = concat!("vpnat ", env!("CARGO_PKG_VERSION"));
    canvas.line(area, 0, version, BOLD);
    let mut x = version.len() as u16 + 2;
    canvas.put(area, x, 0, area.width, state, style);
    x += state.len() as u16 + 2;
    let share = sample.entries as f64 / f64::from(sample.capacity.max(1));
    let flows = format!("flows {} of {} ({:.1} %)", sample.total(), sample.capacity / 2, share * 100.0);
    canvas.put(area, x, 0, area.width, &flows, look.alarm(share, 0.8, 0.95));
    x += flows.len() as u16 + 2;
    if ui.paused {
        canvas.put(area, x, 0, area.width, "PAUSED", look.ink(Color::Yellow).patch(BOLD));
    }
}

/// The last minute of all vendors, or of the one in scope.
fn trends(canvas: &mut Canvas<'_>, area: Rect, model: &Model, ui: &Ui) {
    let series = model.series(ui.scope.vendor);
    let width = area.width / 3;
    for (at, (title, values)) in
        [("out bit/s", &series.outbound), ("in bit/s", &series.inbound), ("refused/s", &series.refused)]
            .into_iter()
            .enumerate()
    {
        let bars = usize::from(width).saturating_sub(title.len() + 9);
        let last = short(values.last().copied().unwrap_or(0.0));
        let text = format!("{title} {} {last:>5}", sparkline(values, bars, canvas.look.ascii));
        let worth = at == 2 && values.last().is_some_and(|rate| *rate > 0.0);
        let style = if worth { canvas.look.ink(Color::Red) } else { canvas.look.ink(Color::Cyan) };
        canvas.put(area, at as u16 * width, 0, width, &text, style);
    }
}

fn both(rates: &Rates) -> [String; 2] {
    [short(rates.outbound.bits), short(rates.inbound.bits)]
}

fn focus(ui: &Ui, panel: Panel) -> Option<usize> {
    (ui.panel == panel).then(|| ui.row(panel))
}

fn vendor_list(
    canvas: &mut Canvas<'_>,
    area: Rect,
    model: &Model,
    ui: &Ui,
    vendors: &[super::model::VendorRow],
) {
    let trend = area.width.saturating_sub(81);
    let name = area.width.min(80).saturating_sub(62);
    let columns = [
        ("VENDOR", name, false),
        ("OUT PKT/S", 9, true),
        ("OUT BIT/S", 9, true),
        ("IN PKT/S", 8, true),
        ("IN BIT/S", 8, true),
        ("FLOWS", 6, true),
        ("PORTS", 6, true),
        ("REFUSED/S", 9, true),
        ("LAST MINUTE", trend, false),
    ];
    let rows: Vec<Row> = vendors
        .iter()
        .map(|row| {
            let series = model.series(Some(row.slot));
            let sum: Vec<f64> =
                series.outbound.iter().zip(&series.inbound).map(|(out, back)| out + back).collect();
            let cells = vec![
                row.name.clone(),
                short(row.rates.outbound.packets),
                short(row.rates.outbound.bits),
                short(row.rates.inbound.packets),
                short(row.rates.inbound.bits),
                short(row.flows as f64),
                format!("{:.1}%", row.port_use * 100.0),
                short(row.refused),
                sparkline(&sum, usize::from(trend).min(60), canvas.look.ascii),
            ];
            let refusing = if row.refused > 0.0 { 1.0 } else { 0.0 };
            (cells, canvas.look.alarm(row.port_use.max(refusing), 0.8, 0.95))
        })
        .collect();
    canvas.list(area, &columns, &rows, focus(ui, Panel::Vendors));
}

fn pod_list(
    canvas: &mut Canvas<'_>,
    area: Rect,
    model: &Model,
    ui: &mut Ui,
) -> Option<vpnat_common::addr::Ip4> {
    let pods = model.pods(ui);
    ui.clamp(Panel::Pods, pods.len());
    let columns = [
        ("POD", 15, false),
        ("FLOWS", 5, true),
        ("OUT", 6, true),
        ("IN BIT/S", 8, true),
        ("OUT", 6, true),
        ("IN PKT/S", 8, true),
    ];
    let rows: Vec<Row> = pods
        .iter()
        .map(|row| {
            let [out, back] = both(&row.rates);
            let cells = vec![
                row.pod.to_string(),
                short(row.flows as f64),
                out,
                back,
                short(row.rates.outbound.packets),
                short(row.rates.inbound.packets),
            ];
            (cells, Style::new())
        })
        .collect();
    canvas.list(area, fitting(&columns, area.width), &rows, focus(ui, Panel::Pods));
    pods.get(ui.row(Panel::Pods)).map(|row| row.pod)
}

/// The columns that have room.
fn fitting(columns: &[Column], width: u16) -> &[Column] {
    let mut used = 0;
    let count = columns.iter().take_while(|(_, column, _)| {
        used += column + 1;
        used <= width + 1
    });
    let count = count.count().max(1);
    &columns[..count]
}

fn drop_list(canvas: &mut Canvas<'_>, area: Rect, model: &Model, ui: &Ui) {
    let vendor = area.width.saturating_sub(33).clamp(6, 32);
    let columns = [("DROPPED", 20, false), ("VENDOR", vendor, false), ("/S", 5, true), ("TOTAL", 5, true)];
    let rows: Vec<Row> = model
        .drops(ui)
        .into_iter()
        .map(|row| {
            let style = canvas.look.alarm(row.rate, f64::MIN_POSITIVE, f64::INFINITY);
            (vec![row.reason.into(), row.vendor, short(row.rate), short(row.total as f64)], style)
        })
        .collect();
    canvas.list(area, &columns, &rows, None);
    if rows.is_empty() {
        canvas.line(area, 1, "nothing", Style::new());
    }
}

fn end(end: &Endpoint) -> String {
    format!("{}:{}", end.address, end.port.number)
}

fn flow_list(canvas: &mut Canvas<'_>, area: Rect, model: &Model, ui: &mut Ui) -> Option<FlowId> {
    if area.height == 0 {
        return None;
    }
    let (flows, count) = model.flows(ui, MOST_ROWS);
    ui.clamp(Panel::Flows, flows.len());
    let columns = [
        ("PROTO", 5, false),
        ("INSIDE", 21, false),
        ("REMOTE", 21, false),
        ("STATE", 11, false),
        ("OUT", 6, true),
        ("IN BIT/S", 8, true),
        ("AGE", 6, true),
        ("EGRESS", 21, false),
    ];
    let rows: Vec<Row> = flows
        .iter()
        .map(|row| {
            let [out, back] = both(&row.rates);
            let cells = vec![
                protocol_name(row.id.protocol),
                end(&row.id.inside),
                end(&row.id.remote),
                row.flow.state.into(),
                out,
                back,
                span(age(&row.flow, model)),
                end(&row.flow.egress),
            ];
            (cells, Style::new())
        })
        .collect();
    let (of, list) = split(area, 1);
    canvas.line(of, 0, &what_flows(model, ui, count), BOLD);
    canvas.list(list, fitting(&columns, area.width), &rows, focus(ui, Panel::Flows));
    flows.get(ui.row(Panel::Flows)).map(|row| row.id)
}

/// Which flows are listed, in words.
fn what_flows(model: &Model, ui: &Ui, count: usize) -> String {
    let mut text = format!("{count} flows");
    if let Some(slot) = ui.scope.vendor {
        text += &format!(" to {}", model.current.name(slot));
    }
    if let Some(pod) = ui.scope.pod {
        text += &format!(" of {pod}");
    }
    if !ui.filter.is_empty() {
        text += &format!(" with `{}`", ui.filter);
    }
    let (total, followed) = (model.current.total(), model.current.followed.len());
    if followed >= MOST_FLOWS {
        text += &format!(" (among {followed} of {total})");
    }
    let way = if ui.reversed { ", reversed" } else { "" };
    text + &format!(", by {}{way}", ui.sort.name())
}

fn detail(canvas: &mut Canvas<'_>, area: Rect, model: &Model, row: &FlowRow) {
    let left = row.flow.expires.seconds.wrapping_sub(model.current.now.seconds) as i32;
    let ends = match left {
        ..=0 => "ended, and waits to be swept".into(),
        left => format!("ends in {} if it stays idle", span(left as u32)),
    };
    let way = |name: &str, traffic: &super::sample::Traffic, rate: &super::model::Rate| {
        format!(
            "{name:<4}{} packets, {} bytes; now {} packets/s, {} bit/s",
            traffic.packets,
            traffic.bytes,
            short(rate.packets),
            short(rate.bits)
        )
    };
    let lines = [
        format!(
            "{} {} to {} ({}), which sees {}",
            protocol_name(row.id.protocol),
            end(&row.id.inside),
            end(&row.id.remote),
            model.current.name(row.flow.vendor),
            end(&row.flow.egress)
        ),
        format!("{}, {} old, {ends}", row.flow.state, span(age(&row.flow, model))),
        way("out", &row.flow.traffic.outbound, &row.rates.outbound),
        way("in", &row.flow.traffic.inbound, &row.rates.inbound),
        format!(
            "to end it: vpnat flows kill --inside {} --remote {}",
            end(&row.id.inside),
            end(&row.id.remote)
        ),
    ];
    canvas.line(area, 0, "FLOW", BOLD);
    for (at, line) in lines.iter().enumerate() {
        canvas.line(area, at as u16 + 1, line, Style::new());
    }
}

const KEYS: [(&str, &str); 11] = [
    ("q", "end"),
    ("Tab, Shift-Tab", "the next list, the one before"),
    ("arrows, j, k, PgUp, PgDn", "up and down in it"),
    ("Enter", "into what is pointed at: a vendor, a pod, a flow"),
    ("Esc, Backspace", "out again; Esc first takes the filter away"),
    ("s", "sort by bit/s, packets/s, flows (of flows: age), name"),
    ("r", "the other way round"),
    ("/", "filter pods and flows by text: an address, a port, a state, a protocol, a vendor"),
    ("p, Space", "let the screen stand still, or go on"),
    ("?", "this"),
    ("any key", "back"),
];

fn help(canvas: &mut Canvas<'_>, area: Rect) {
    for (at, (key, what)) in KEYS.iter().enumerate() {
        let y = at as u16;
        canvas.put(area, 2, y, 26, key, BOLD);
        canvas.put(area, 28, y, area.width, what, Style::new());
    }
    let words = [
        "Rates are of the time between two looks; packets that the kernel has put together (GSO)",
        "count as one. PORTS: share of a vendor's ports that its busiest destination cannot have.",
        "Bits are counted from the IP header on.",
    ];
    for (at, line) in words.iter().enumerate() {
        canvas.put(area, 2, (KEYS.len() + 1 + at) as u16, area.width, line, Style::new());
    }
}

fn footer(canvas: &mut Canvas<'_>, area: Rect, ui: &Ui, note: Option<&str>) {
    if ui.typing {
        canvas.line(area, 0, &format!("/{}_   Enter: filter  Esc: none", ui.filter), BOLD);
    } else if let Some(note) = note {
        canvas.line(area, 0, note, canvas.look.ink(Color::Red).patch(BOLD));
    } else {
        let text = "q end  Tab list  Enter in  Esc out  s sort  r reverse  / filter  p pause  ? help";
        canvas.line(area, 0, text, Style::new().add_modifier(Modifier::DIM));
    }
}
