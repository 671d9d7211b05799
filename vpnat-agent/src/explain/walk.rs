//! The packet's way: XDP and TC ingress of the device that it arrives on, routing, TC egress.

use aya::programs::TcAttachType;
use vpnat_common::layout::flow::FlowEntry;
use vpnat_common::layout::outcome::{Fate, Outcome};
use vpnat_common::layout::rehearsal::asked;

use super::known::{Known, has_tc};
use super::packet::{Kind, Packet, Protocol, ends, mss};
use super::remedy::{Refused, remedy};
use super::{
    Arrival, Asked, Becomes, End, ExplainError, Explanation, Flow, Hook, Mss, Question, Route, Source,
    Vendor, Verdict,
};
use crate::config::Mapping;
use crate::datapath::Error;
use crate::datapath::clock::{self, PROBE_CLOCK};
use crate::datapath::maps::{Table, flow_entry};
use crate::datapath::pins::Pins;
use crate::datapath::rehearsal::{Place, Rehearsal, Run};
use crate::netlink::links::Link;
use crate::netlink::lookup::{Query, Way, way};

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Shortest that the kernel takes for a test run of a packet without one.
const SHORTEST: usize = ETHERNET + 20;
/// Verdicts of programs (`include/uapi/linux/bpf.h`, `pkt_cls.h`).
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
/// Some neighbour's address.
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// How far the packet got at a hook.
enum Step {
    /// On to the stack.
    On,
    /// No further.
    Ended(Verdict, Outcome),
}

struct Walk<'a> {
    known: &'a Known,
    rehearsal: Rehearsal,
    /// The packet from the IP header on.
    bytes: Vec<u8>,
    hooks: Vec<Hook>,
    asked: u32,
    taken: u32,
    vendor: u8,
    translated: bool,
}

/// Answers `question`; nothing is changed by it.
pub fn explain(pins: &Pins, question: &Question) -> Result<Explanation, ExplainError> {
    let known = Known::read(pins)?;
    let arriving = arriving(&known, question)?;
    let table = Table::flows(pins)?;
    let room = table.capacity.saturating_sub(table.count()?);
    let (packet, live) = packet(pins, &known, question, arriving.is_some())?;
    let bytes = packet.bytes();
    let rehearsal = Rehearsal::new(pins, room)?;
    let mut walk = Walk {
        known: &known,
        rehearsal,
        bytes: bytes.clone(),
        hooks: Vec::new(),
        asked: 0,
        taken: 0,
        vendor: 0,
        translated: false,
    };
    let (verdict, why, route) = walk.all(arriving)?;

    let key = packet.key();
    let flow = match walk.rehearsal.entry(&key)? {
        Some(entry) if walk.translated || live.is_some() => {
            let now = clock::now(&pins.program(PROBE_CLOCK))?.seconds;
            let exists = live.is_some_and(|live| {
                (live.created, live.new_port, live.new_addr)
                    == (entry.created, entry.new_port, entry.new_addr)
            });
            Some(Flow {
                exists,
                state: entry.phase.name(),
                becomes: End { address: entry.new_addr.into(), port: Some(entry.new_port.number) },
                expires_in_s: entry.expires.seconds.wrapping_sub(now) as i32,
                ports_taken: walk.taken,
            })
        }
        _ => None,
    };
    let found = known.prefix(question.to.address).or_else(|| known.prefix(question.from.address));
    let name = |slot| known.vendor(slot).map_or_else(|| format!("slot-{slot}"), |vendor| vendor.name.clone());
    let source = (walk.asked & asked::SOURCE != 0 && known.prefix(question.to.address).is_some())
        .then(|| found.map(|(_, target)| known.rule(target.vendor, question.from.address)))
        .flatten();
    let outcome = walk.hooks.iter().rev().find_map(|hook| hook.outcome);
    let slot = found.map_or(walk.vendor, |(_, target)| target.vendor);
    let refusal = match verdict {
        Verdict::Dropped | Verdict::Passed => {
            Outcome::ALL.iter().copied().find(|known| Some(known.name()) == outcome)
        }
        _ => None,
    };
    let vendor_name = name(slot);
    let refused = Refused {
        source: question.from.address,
        destination: question.to.address,
        vendor: &vendor_name,
        egress: known.policy(slot).filter(|p| p.egress_count != 0).map(|policy| policy.egress[0].into()),
        arrived: arriving.and_then(|index| known.link(index)).map(|link| link.name.as_str()),
        leaves: route.as_ref().map(|route| route.device.as_str()),
        max_flows: table.capacity / 2,
    };
    let remedy = refusal.and_then(|outcome| remedy(outcome, &refused));
    let becomes = (verdict == Verdict::Translated).then(|| ends(&walk.bytes)).flatten();
    let mss = mss(&bytes).zip(mss(&walk.bytes)).filter(|_| verdict == Verdict::Translated);
    Ok(Explanation {
        version: 1,
        packet: Asked {
            kind: packet.kind,
            from: question.from.into(),
            to: question.to.into(),
            bytes: bytes.len(),
        },
        arrival: arriving.and_then(|index| known.link(index)).map(|link| arrival(&known, link, question)),
        vendor: found.map(|(prefix, target)| Vendor {
            name: name(target.vendor),
            prefix: prefix.to_string(),
            exempt: target.exempt != 0,
            mapping: known.policy(target.vendor).map_or("none", |policy| Mapping::of(&policy).name()),
        }),
        source: source.map(|rule| Source {
            allowed: rule.is_some(),
            rule: rule.map(|rule| rule.prefix.to_string()),
            index: rule.map(|rule| rule.index),
        }),
        flow,
        hooks: walk.hooks,
        route,
        mss: mss.map(|(offered, sent)| Mss { offered, sent }),
        verdict,
        why,
        becomes: becomes.map(|(from, to)| Becomes { from: from.into(), to: to.into() }),
        remedy,
    })
}

/// The device that the packet arrives on; `None` if this host sends it.
fn arriving(known: &Known, question: &Question) -> Result<Option<u32>, ExplainError> {
    if let Some(name) = &question.device {
        let link = known.links.iter().find(|link| link.name == *name);
        return Ok(Some(link.ok_or_else(|| ExplainError::NoDevice(name.clone()))?.index));
    }
    let address = question.from.address;
    if known.is_local(address) {
        return Ok(None);
    }
    // Packets come from where packets to their source go.
    let reason = match way(&Query { from: None, to: address, arriving: None }) {
        Ok(Some(Way { device, local: false, .. })) if device != 0 => return Ok(Some(device)),
        Ok(_) => "no route leads there".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(ExplainError::WhichDevice { address, reason })
}

fn arrival(known: &Known, link: &Link, question: &Question) -> Arrival {
    let (inside, outside) = known.sides(link.index);
    Arrival {
        device: link.name.clone(),
        inside,
        outside,
        ethernet: link.is_ethernet(),
        mtu: link.mtu,
        named: question.device.is_some(),
    }
}

/// The packet that the question is about, and the entry of its flow if it has one.
fn packet(
    pins: &Pins,
    known: &Known,
    question: &Question,
    arrives: bool,
) -> Result<(Packet, Option<FlowEntry>), Error> {
    let Question { from, to, .. } = *question;
    let mut packet = Packet { from, to, kind: Kind::Datagram, size: question.size.unwrap_or(0).into() };
    match question.protocol {
        Protocol::Udp => {}
        Protocol::Tcp => packet.kind = Kind::Syn,
        // A vendor's packets answer.
        Protocol::Icmp if arrives && known.prefix(from.address).is_some() => packet.kind = Kind::EchoReply,
        Protocol::Icmp => packet.kind = Kind::EchoRequest,
    }
    let live = flow_entry(pins, &packet.key())?;
    if packet.kind == Kind::Syn && live.is_some() {
        packet.kind = Kind::Ack;
    }
    Ok((packet, live))
}

impl Walk<'_> {
    /// All hooks on the way, and what became of the packet.
    fn all(&mut self, arriving: Option<u32>) -> Result<(Verdict, String, Option<Route>), Error> {
        if let Some(link) = arriving.and_then(|index| self.known.link(index)) {
            match self.ingress(link)? {
                Step::Ended(Verdict::Translated, outcome) => {
                    let route = self.route(arriving).ok().flatten().map(|(route, _)| route);
                    return Ok((Verdict::Translated, outcome.describe().into(), route));
                }
                Step::Ended(verdict, outcome) => {
                    let route = self.route(arriving).ok().flatten().map(|(route, _)| route);
                    return Ok((verdict, outcome.describe().into(), route));
                }
                Step::On => {}
            }
        }
        let (route, device) = match self.route(arriving) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok((Verdict::Delivered, "It ends on this host.".into(), None)),
            Err(reason) => return Ok((Verdict::NotForwarded, reason, None)),
        };
        if self.bytes.len() > route.mtu as usize {
            let why = format!(
                "It is larger than the {} bytes that the way takes; the kernel answers its sender with \"fragmentation needed\".",
                route.mtu
            );
            return Ok((Verdict::NotForwarded, why, Some(route)));
        }
        let Some(link) = self.known.link(device) else {
            return Ok((Verdict::NotForwarded, "Its device is gone.".into(), Some(route)));
        };
        let (verdict, why) = match self.egress(link, arriving)? {
            Step::Ended(verdict, outcome) => (verdict, outcome.describe().to_owned()),
            Step::On if self.translated => (Verdict::Translated, self.translation()),
            Step::On => (Verdict::Passed, "No hook has anything to do with it.".into()),
        };
        Ok((verdict, why, Some(route)))
    }

    fn translation(&self) -> String {
        let done = self.hooks.iter().find(|hook| hook.fate == Some(fate(Fate::Translated)));
        done.and_then(|hook| hook.reason).unwrap_or_default().to_owned()
    }

    /// XDP and TC ingress of `link`.
    fn ingress(&mut self, link: &Link) -> Result<Step, Error> {
        let Some(plan) = self.known.plan(link) else { return Ok(Step::On) };
        let place = Place { device: link.index, arrived: link.index };
        if let Some(program) = plan.xdp
            && link.xdp.is_some()
        {
            let run = self.run(link, "xdp", program, place)?;
            match run.returned {
                XDP_DROP => return Ok(Step::Ended(Verdict::Dropped, run.outcome)),
                XDP_PASS => {}
                _ => return Ok(Step::Ended(Verdict::Translated, run.outcome)),
            }
        }
        let Some(program) = plan.ingress else { return Ok(Step::On) };
        if !has_tc(link, TcAttachType::Ingress, program)? {
            self.missing(link, "tc-ingress", program);
            return Ok(Step::On);
        }
        let run = self.run(link, "tc-ingress", program, place)?;
        Ok(match run.returned {
            TC_ACT_SHOT => Step::Ended(Verdict::Dropped, run.outcome),
            TC_ACT_REDIRECT => Step::Ended(Verdict::Translated, run.outcome),
            _ => Step::On,
        })
    }

    /// TC egress of `link`.
    fn egress(&mut self, link: &Link, arriving: Option<u32>) -> Result<Step, Error> {
        let Some(plan) = self.known.plan(link) else { return Ok(Step::On) };
        if !has_tc(link, TcAttachType::Egress, plan.egress)? {
            self.missing(link, "tc-egress", plan.egress);
            return Ok(Step::On);
        }
        let place = Place { device: link.index, arrived: arriving.unwrap_or(0) };
        let run = self.run(link, "tc-egress", plan.egress, place)?;
        if run.returned == TC_ACT_SHOT {
            return Ok(Step::Ended(Verdict::Dropped, run.outcome));
        }
        if run.outcome.fate() == Fate::Passed && !self.translated {
            return Ok(Step::Ended(Verdict::Passed, run.outcome));
        }
        Ok(Step::On)
    }

    fn missing(&mut self, link: &Link, hook: &'static str, program: &'static str) {
        let device = link.name.clone();
        self.hooks.push(Hook {
            device,
            hook,
            program,
            attached: false,
            outcome: None,
            fate: None,
            reason: None,
        });
    }

    fn run(
        &mut self,
        link: &Link,
        hook: &'static str,
        program: &'static str,
        place: Place,
    ) -> Result<Run, Error> {
        let frame = if link.is_ethernet() {
            [&link.mac[..], &NEIGHBOUR, &[8, 0], &self.bytes].concat()
        } else {
            let mut bytes = self.bytes.clone();
            bytes.resize(bytes.len().max(SHORTEST), 0);
            bytes
        };
        let run = self.rehearsal.run(program, &frame, place)?;
        let skip = if link.is_ethernet() { ETHERNET } else { 0 };
        let length = self.bytes.len();
        if let Some(after) = run.data.get(skip..skip + length) {
            self.bytes = after.to_vec();
        }
        self.asked |= run.report.asked;
        self.taken += run.report.taken;
        if run.vendor != 0 {
            self.vendor = run.vendor;
        }
        self.translated |= run.outcome.fate() == Fate::Translated;
        self.hooks.push(Hook {
            device: link.name.clone(),
            hook,
            program,
            attached: true,
            outcome: Some(run.outcome.name()),
            fate: Some(fate(run.outcome.fate())),
            reason: Some(run.outcome.describe()),
        });
        Ok(run)
    }

    /// Where the kernel sends the packet as it is now, and that device's index; `None` if it ends here.
    fn route(&self, arriving: Option<u32>) -> Result<Option<(Route, u32)>, String> {
        let Some((from, to)) = ends(&self.bytes) else { return Err("It cannot be read.".into()) };
        // What was sent on past the stack bears a source by which it did not arrive.
        let from = (!self.translated).then_some(from.address);
        let arriving = arriving.filter(|_| from.is_some());
        let found = way(&Query { from, to: to.address, arriving })
            .map_err(|error| format!("The kernel's routing refuses it: {}.", refusal(&error)))?;
        let Some(found) = found else { return Err("A route throws it away.".into()) };
        if found.local {
            return Ok(None);
        }
        let link = self.known.link(found.device);
        let mut mtu = found.mtu.or(link.map(|link| link.mtu)).unwrap_or(0);
        let slot = self.known.prefix(to.address).map_or(0, |(_, target)| target.vendor);
        if let Some(policy) = self.known.policy(slot).filter(|policy| policy.path_mtu != 0) {
            mtu = mtu.min(policy.path_mtu.into());
        }
        let device = link.map_or_else(|| found.device.to_string(), |link| link.name.clone());
        Ok(Some((Route { device, gateway: found.gateway, mtu }, found.device)))
    }
}

fn refusal(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EXDEV | libc::EINVAL) => {
            "its source is not reached through this device (rp_filter), or cannot be".into()
        }
        Some(libc::ENETUNREACH) => "no route to its destination".into(),
        Some(libc::EHOSTUNREACH) => {
            "its destination is unreachable, or forwarding is off (net.ipv4.ip_forward)".into()
        }
        _ => error.to_string(),
    }
}

const fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Translated => "translated",
        Fate::Passed => "passed",
        Fate::Dropped => "dropped",
        Fate::Held => "held",
    }
}
