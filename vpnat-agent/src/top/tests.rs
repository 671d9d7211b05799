//! Frames, drawn from made-up samples into cells.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use vpnat_common::addr::{Ip4, Port};
use vpnat_common::layout::clock::Moment;
use vpnat_common::layout::flow::protocol;

use super::draw::{Look, draw};
use super::model::Model;
use super::sample::{BothWays, Flow, FlowId, Sample, Traffic, Vendor};
use super::screen::lines;
use super::ui::{Key, Ui, Under};
use crate::datapath::census::PortUse;
use crate::datapath::flows::Endpoint;

const PLAIN: Look = Look { colour: false, ascii: false, still: false };
const EGRESS: Ip4 = Ip4::new(10, 0, 1, 10);

const fn end(last: u8, port: u16) -> Endpoint {
    Endpoint { address: Ip4::new(10, 0, 2, last), port: Port::new(port) }
}

const REMOTE: Endpoint = Endpoint { address: Ip4::new(192, 0, 2, 10), port: Port::new(443) };

fn traffic(packets: u64) -> BothWays {
    let traffic = Traffic { packets, bytes: packets * 125 };
    BothWays { outbound: traffic, inbound: Traffic { packets: packets * 2, bytes: packets * 250 } }
}

fn flow(created: u32, packets: u64) -> Flow {
    Flow {
        vendor: 1,
        egress: Endpoint { address: EGRESS, port: Port::new(40000) },
        state: "established",
        created: Moment::new(created),
        expires: Moment::new(1000),
        traffic: traffic(packets),
    }
}

/// A sample `second` seconds after the first, by when each pod's flow has had so many thousands of packets.
fn sample(start: Instant, second: u32, pods: &[(u8, u64)], refused: u64) -> Sample {
    let id = |pod| FlowId { protocol: protocol::TCP, inside: end(pod, 40000), remote: REMOTE };
    let followed: HashMap<FlowId, Flow> =
        pods.iter().map(|(pod, thousands)| (id(*pod), flow(100, thousands * 1000))).collect();
    let total: u64 = pods.iter().map(|(_, thousands)| thousands * 1000).sum();
    let vendor = |slot, name: &str, traffic| Vendor { slot, name: name.into(), ports: 100, traffic };
    Sample {
        at: start + Duration::from_secs(u64::from(second)),
        now: Moment::new(100 + second),
        agent_running: true,
        configured: true,
        vendors: vec![vendor(1, "vendor-a", traffic(total)), vendor(2, "vendor-b", traffic(0))],
        drops: BTreeMap::from([((1, "ports-exhausted"), refused), ((0, "local-source"), 7)]),
        flows: BTreeMap::from([(1, pods.len() as u64)]),
        entries: 2 * pods.len() as u64,
        capacity: 8,
        ports: vec![PortUse {
            pool: (1, EGRESS, protocol::TCP),
            ports: 97,
            busiest: REMOTE,
            busiest_ports: 97,
            owned: 0,
        }],
        followed,
    }
}

fn busy() -> Model {
    let start = Instant::now();
    let mut model = Model::new(sample(start, 0, &[(7, 0), (8, 0)], 10));
    model.push(sample(start, 2, &[(7, 2), (8, 4)], 50));
    model
}

/// The lines of a frame, by ratatui's own terminal for tests.
fn frame(model: &Model, ui: &mut Ui, look: Look, width: u16, height: u16) -> (Vec<String>, Under) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let mut under = Under::default();
    terminal.draw(|frame| under = draw(model, ui, look, None, frame.buffer_mut())).unwrap();
    (lines(terminal.backend().buffer()), under)
}

#[test]
fn a_frame_of_80_by_24_has_everything() {
    let model = busy();
    let (lines, under) = frame(&model, &mut Ui::default(), PLAIN, 80, 24);
    let text = lines.join("\n");
    for words in [
        "translating  flows 2 of 4 (50.0 %)",
        // 6,000 packets of 125 bytes in two seconds, and twice as much back.
        "vendor-a                3.0k      3.0M     6.0k     6.0M      2  97.0%        20",
        "vendor-b                   0         0        0        0      0   0.0%         0",
        "10.0.2.8            1   2.0M     4.0M",
        "ports-exhausted      vendor-a    20    50",
        "local-source         none         0     7",
        "2 flows, by bit/s",
        "tcp   10.0.2.8:40000        192.0.2.10:443        established   2.0M     4.0M",
        "q end",
    ] {
        assert!(text.contains(words), "no `{words}` in\n{text}");
    }
    assert_eq!(lines.len(), 24, "{text}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    // The busiest first.
    assert_eq!((under.vendor, under.pod), (Some(1), Some(end(8, 0).address)));
    assert_eq!(under.flow.map(|id| id.inside), Some(end(8, 40000)));
}

#[test]
fn keys_lead_down_to_one_flow() {
    let model = busy();
    let mut ui = Ui::default();
    let (_, mut under) = frame(&model, &mut ui, PLAIN, 80, 24);
    for _ in 0..3 {
        ui.press(Key::Enter, &under);
        under = frame(&model, &mut ui, PLAIN, 80, 24).1;
    }
    let text = frame(&model, &mut ui, PLAIN, 80, 24).0.join("\n");
    for words in [
        "1 flows to vendor-a of 10.0.2.8, by bit/s",
        "tcp 10.0.2.8:40000 to 192.0.2.10:443 (vendor-a), which sees 10.0.1.10:40000",
        "established, 2s old, ends in 14m58s if it stays idle",
        "out 4000 packets, 500000 bytes; now 2.0k packets/s, 2.0M bit/s",
        "vpnat flows kill --inside 10.0.2.8:40000 --remote 192.0.2.10:443",
    ] {
        assert!(text.contains(words), "no `{words}` in\n{text}");
    }
}

#[test]
fn a_filter_and_the_other_order() {
    let model = busy();
    let mut ui = Ui { filter: "10.0.2.7".into(), ..Ui::default() };
    let text = frame(&model, &mut ui, PLAIN, 80, 24).0.join("\n");
    assert!(text.contains("1 flows with `10.0.2.7`") && !text.contains("10.0.2.8"), "{text}");
    for (filter, count) in
        [("estab", 2), ("vendor-a", 2), ("tcp", 2), (":443", 2), ("udp", 0), ("10.0.1.10", 2)]
    {
        let ui = Ui { filter: filter.into(), ..Ui::default() };
        assert_eq!(model.flows(&ui, 10).1, count, "{filter}");
    }
    let ui = Ui { reversed: true, ..Ui::default() };
    assert_eq!(model.pods(&ui)[0].pod, end(7, 0).address);
    let (first, count) = model.flows(&ui, 1);
    assert_eq!((first.len(), first[0].id.inside, count), (1, end(7, 40000), 2));
}

#[test]
fn counts_that_began_anew_are_no_huge_rates() {
    let start = Instant::now();
    let mut model = Model::new(sample(start, 0, &[(7, 1000)], 50));
    model.push(sample(start, 1, &[(7, 1)], 5));
    let row = &model.vendors(&Ui::default())[0];
    assert_eq!((row.rates.outbound.packets, row.refused), (1000.0, 5.0));
    // A flow that is older than the first look has no rate; one that is younger has.
    let mut model = Model::new(sample(start, 0, &[], 0));
    let mut later = sample(start, 1, &[(7, 1)], 0);
    model.push(later.clone());
    assert_eq!(model.pods(&Ui::default())[0].rates.packets(), 0.0);
    later.followed.values_mut().for_each(|flow| flow.created = Moment::new(101));
    let mut model = Model::new(sample(start, 0, &[], 0));
    model.push(later);
    assert_eq!(model.pods(&Ui::default())[0].rates.packets(), 3000.0);
}

#[test]
fn what_is_wrong_shows() {
    let start = Instant::now();
    let mut down = sample(start, 0, &[], 0);
    down.agent_running = false;
    let text = frame(&Model::new(down.clone()), &mut Ui::default(), PLAIN, 80, 24).0.join("\n");
    assert!(text.contains("AGENT NOT RUNNING"), "{text}");
    down.configured = false;
    let mut ui = Ui { paused: true, ..Ui::default() };
    let text = frame(&Model::new(down), &mut ui, PLAIN, 80, 24).0.join("\n");
    assert!(text.contains("NOT CONFIGURED") && text.contains("PAUSED"), "{text}");
}

#[test]
fn without_colours_there_are_none() {
    let model = busy();
    let coloured = |look| {
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        terminal
            .draw(|frame| {
                draw(&model, &mut Ui::default(), look, None, frame.buffer_mut());
            })
            .unwrap();
        let buffer = terminal.backend().buffer().clone();
        buffer.content.iter().filter(|cell| cell.fg != ratatui::style::Color::Reset).count()
    };
    assert_eq!(coloured(PLAIN), 0);
    assert!(coloured(Look { colour: true, ..PLAIN }) > 0);
    let (lines, _) = frame(&model, &mut Ui::default(), Look { ascii: true, ..PLAIN }, 120, 40);
    assert!(lines.join("").is_ascii());
}

proptest! {
    /// Any size, any keys.
    #[test]
    fn it_never_panics(width in 0u16..200, height in 0u16..60, keys in proptest::collection::vec(0usize..18, 0..30)) {
        let model = busy();
        let mut ui = Ui::default();
        let mut under = Under::default();
        for key in keys {
            let key = [
                Key::Char('?'), Key::Char('/'), Key::Char('p'), Key::Char('s'), Key::Char('r'), Key::Char('j'),
                Key::Char('k'), Key::Char('7'), Key::Char('é'), Key::Enter, Key::Escape, Key::Backspace, Key::Tab,
                Key::BackTab, Key::Up(1), Key::Down(1), Key::Down(usize::MAX), Key::Up(usize::MAX),
            ][key];
            ui.press(key, &under);
            under = frame(&model, &mut ui, PLAIN, width, height).1;
        }
    }
}
