//! From the agent's start to the first packet that comes through translated.

use std::time::{Duration, Instant};

use super::contender::{Contender, Host};
use super::path::{Path, outbound};
use super::report::{Better, Report};
use super::{Effort, progress};
use crate::raw::RawSender;
use crate::sandbox::Sandbox;

/// Measures vpnat.
pub fn measure(sandbox: &Sandbox, contenders: &[Contender], effort: &Effort, report: &mut Report) {
    for round in 0..effort.rounds {
        progress(&format!("start, round {} of {}", round + 1, effort.rounds));
        for contender in contenders.iter().filter(|contender| contender.is_vpnat()) {
            let took = one(sandbox, contender);
            let (what, unit) = ("room for 1,048,576 flows", "ms of wall time");
            report.record("start", what, unit, Better::Less, contender.name(), took.as_secs_f64() * 1e3);
        }
    }
}

fn one(sandbox: &Sandbox, contender: &Contender) -> Duration {
    let path = Path::without_host(contender);
    let sender = RawSender::new(&path.pods.ns, path.pods.device(), path.pods.next_hop());
    let packet = outbound(0).packet(0);
    let before = path.vendor.arrived().0;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            while path.vendor.arrived().0 == before && begun.elapsed() < Duration::from_secs(60) {
                sender.send(&packet);
                std::thread::sleep(Duration::from_micros(500));
            }
            begun.elapsed()
        });
        let _host = Host::start(sandbox, &path.nat, contender);
        first.join().expect("the sending thread")
    })
}
