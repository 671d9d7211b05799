//! The demo's scenes, in order.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Barrier;
use std::time::Duration;

use super::screen::Screen;
use crate::agent::{Agent, Xdp, sum_of};
use crate::long::{Pinger, Upload};
use crate::packet::UDP;
use crate::pod::Pod;
use crate::topology::{EGRESS, NAT, Offload, Shape, Site, Topology, VENDOR, VENDOR_GATEWAY};

/// The one source port of all pods.
const PORT: u16 = 40000;

/// How long a pod waits for an answer that must not come.
const NO_ANSWER: Duration = Duration::from_secs(1);

/// Everything that stands at the end.
pub struct Stage<'a, 'site> {
    /// The lab.
    pub lab: &'a Topology<'site>,
    /// The agent.
    pub agent: &'a Agent<'site>,
}

/// What to do at the end while everything still stands, given whether all checks held.
pub type Keep<'a> = &'a dyn Fn(&Stage<'_, '_>, bool);

const INTRODUCTION: &str = "\
Pods reach the vendor through one address
    pod-a 10.0.2.7 ┐                                                   ┌ vendor 192.0.2.10
    pod-b 10.0.2.8 ┼── eth1 [NAT instance: vpnat] ══ IPsec IKEv2 ══ gateway   admits 10.0.1.10 only
    pod-c 10.0.2.9 ┘         SNAT to 10.0.1.10";

/// Plays all scenes. `kept` is called at the end with everything still standing.
pub fn play(screen: &Screen, kept: Option<Keep<'_>>) {
    screen.heading(INTRODUCTION);
    screen.heading("The lab");
    let Some(site) = screen
        .get("network namespaces with nothing in common with this machine's network", || {
            Ok((Site::new(), String::new()))
        })
    else {
        return;
    };
    let Some(lab) = screen.get("pods, NAT instance, tunnel and vendor", || {
        let lab = Topology::new(&site, Shape::Ipsec, Offload::On);
        Ok((lab, String::new()))
    }) else {
        return;
    };
    screen.check("IPsec tunnel", || association(&lab));

    screen.heading("Without vpnat");
    if let Some(silent) = screen.get("all three pods ask at once and wait for a second", || {
        Ok((each(&lab.pods, unreachable), String::new()))
    }) {
        for (pod, outcome) in lab.pods.iter().zip(silent) {
            screen.check(&from(pod), || outcome);
        }
    }
    screen.check("the vendor has seen", || {
        let seen = lab.vendors[0].seen();
        if seen.sources.is_empty() { Ok("nobody".into()) } else { Err(format!("{:?}", seen.sources)) }
    });

    screen.heading("With vpnat");
    let mut agent = lab.agent(Xdp::Auto);
    if !screen.check("vpnat run: ready", || {
        agent.start();
        Ok(String::new())
    }) {
        return;
    }
    with_agent(screen, &lab, &agent);
    restart(screen, &lab, &mut agent);
    captures(screen, &lab);
    inside(screen, &agent);
    if let Some(kept) = kept {
        let held = screen.summary();
        kept(&Stage { lab: &lab, agent: &agent }, held);
    }
    drop(agent);
    // What it would complain about has been shown as a failed check.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(lab)));
}

fn from(pod: &Pod) -> String {
    format!("{} {}:{PORT} to {VENDOR}", pod.name(), pod.address)
}

fn association(lab: &Topology<'_>) -> Result<String, String> {
    let charons = lab.charons().ok_or("there is no tunnel")?;
    let text = charons[0].associations();
    let established = text.contains("ESTABLISHED") && text.contains("INSTALLED");
    let cipher = text.contains("AES_GCM_16-256");
    match (established, cipher) {
        (true, true) => {
            Ok(format!("IKEv2 {NAT} to {VENDOR_GATEWAY}, AES-256-GCM, {EGRESS}/32 to 192.0.2.0/24"))
        }
        _ => Err(text),
    }
}

fn unreachable(pod: &Pod) -> Result<String, String> {
    match pod.http_get_within(NO_ANSWER, PORT, VENDOR, "/") {
        Ok(reply) => Err(format!("was answered: {reply:?}")),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Ok("no answer within a second".into()),
        Err(error) => Ok(format!("not reached ({error})")),
    }
}

fn with_agent(screen: &Screen, lab: &Topology<'_>, agent: &Agent<'_>) {
    let Some(replies) = screen.get("all three pods ask over HTTP at once, all from port 40000", || {
        // The answer takes a while, so that all three connections are there together.
        Ok((each(&lab.pods, |pod| pod.http_get(PORT, VENDOR, "/slow")), String::new()))
    }) else {
        return;
    };
    for (pod, reply) in lab.pods.iter().zip(&replies) {
        screen.check(&from(pod), || match reply {
            Ok(reply) if reply.status == 200 && *reply.seen.ip() == EGRESS => Ok(format!(
                "HTTP 200, the vendor saw {} (after {:.1} ms)",
                reply.seen,
                reply.took.as_secs_f64() * 1e3
            )),
            other => Err(format!("{other:?}")),
        });
    }
    screen.check("each has a port of its own at the vendor", || {
        let ports: BTreeSet<u16> = replies.iter().flatten().map(|reply| reply.seen.port()).collect();
        if ports.len() == replies.len() { Ok(format!("{ports:?}")) } else { Err(format!("{replies:?}")) }
    });
    screen.check("UDP from port 40000 of all three", || {
        let mut seen = Vec::new();
        for pod in &lab.pods {
            let address = pod
                .udp_exchange(PORT, VENDOR, b"question")
                .map_err(|error| format!("{}: {error}", pod.name()))?;
            if *address.ip() != EGRESS {
                return Err(format!("{}: the vendor saw {address}", pod.name()));
            }
            seen.push(address.to_string());
        }
        Ok(format!("the vendor saw {}", seen.join(", ")))
    });
    screen.check("ping from all three", || {
        let mut answered = 0;
        for pod in &lab.pods {
            let report = pod.ping(VENDOR, 10, 77);
            if report.lost() > 0 {
                return Err(format!("{}: {report:?}", pod.name()));
            }
            answered += report.received;
        }
        Ok(format!("{answered} of {answered} answered"))
    });
    let stranger = &lab.stranger;
    screen.check(&format!("{}, not allowed", from(stranger)), || {
        let refused = || agent.metric("vpnat_hook_packets_total", &["outcome=\"source-not-allowed\""]);
        let before = refused();
        let outcome = unreachable(stranger)?;
        match refused() - before {
            counted if counted > 0.0 => Ok(format!("{outcome}, {counted} packets refused and counted")),
            _ => Err("no refused packet was counted".into()),
        }
    });
}

/// Does the same for all pods at the same time.
fn each<T: Send>(pods: &[Pod], work: impl Fn(&Pod) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(pods.len());
    let one = |pod| {
        start.wait();
        work(pod)
    };
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(move || one(pod))).collect();
        let ends = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        ends.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

fn restart(screen: &Screen, lab: &Topology<'_>, agent: &mut Agent<'_>) {
    screen.heading("The agent is killed under load, and started again");
    screen.check("200 pings a second and a transfer through kill -9 and a new start", || {
        let pinger = Pinger::start(&lab.pods[0], VENDOR, 78, Duration::from_millis(5));
        let upload = Upload::start(&lab.pods[1], 0, VENDOR, Duration::from_millis(10))
            .map_err(|error| error.to_string())?;
        let mut going = pinger.wait_for(50) && upload.wait_for(1 << 19);
        agent.kill9();
        going &= pinger.wait_for(100) && upload.wait_for(1 << 19);
        agent.start();
        going &= pinger.wait_for(100) && upload.wait_for(1 << 19);
        let (pings, upload) =
            (pinger.stop(), upload.stop().map_err(|error| format!("the transfer broke: {error}"))?);
        if going && pings.lost() == 0 && upload.lost == 0 && upload.sent == upload.right {
            let mebibytes = upload.right as f64 / f64::from(1 << 20);
            Ok(format!("{} of {} pings, {mebibytes:.1} MiB unharmed", pings.received, pings.sent))
        } else {
            Err(format!("{pings:?}, {upload:?}"))
        }
    });
}

fn captures(screen: &Screen, lab: &Topology<'_>) {
    screen.heading("What the captures hold");
    screen.check("beside the vendor", || {
        let capture = lab.watch.vendor(0);
        capture.settle();
        let (mut packets, mut sources) = (0u32, BTreeSet::<Ipv4Addr>::new());
        for packet in capture.packets() {
            // What the vendor's own network says to the vendor is not the pods' traffic.
            if let Some(ip) = packet.ipv4()
                && packet.way == crate::capture::Way::In
            {
                packets += 1;
                sources.insert(ip.source());
            }
        }
        match sources.iter().collect::<Vec<_>>()[..] {
            [only] if *only == EGRESS => Ok(format!("{packets} packets came in, all from {only}")),
            _ => Err(format!("{packets} packets came from {sources:?}")),
        }
    });
    screen.check("on the underlay", || {
        let capture = lab.watch.underlay();
        let ends = [NAT, VENDOR_GATEWAY];
        let packets = capture.matching(|packet| packet.ipv4().is_some());
        let strays: Vec<_> = packets
            .iter()
            .filter(|packet| {
                !packet.is(|ip| {
                    let encrypted = ip.protocol() == UDP
                        && ip.ports().is_none_or(|(from, to)| {
                            [500, 4500].contains(&from) && [500, 4500].contains(&to)
                        });
                    encrypted && ends.contains(&ip.source()) && ends.contains(&ip.destination())
                })
            })
            .collect();
        match strays[..] {
            [] if !packets.is_empty() => {
                Ok(format!("{} packets, all of them IKE or ESP in UDP (ports 500 and 4500)", packets.len()))
            }
            [] => Err("nothing at all".into()),
            _ => Err(format!("{} packets in clear, the first {:?}", strays.len(), strays[0])),
        }
    });
    screen.check("every checksum computed afresh, every source looked at", || {
        let complaints = lab.watch.complaints();
        if complaints.is_empty() {
            let packets = lab.watch.underlay().count() + lab.watch.vendor(0).count();
            Ok(format!("{packets} packets, none wrong"))
        } else {
            Err(complaints.into_iter().take(5).collect::<Vec<_>>().join("\n"))
        }
    });
}

fn inside(screen: &Screen, agent: &Agent<'_>) {
    screen.heading("What vpnat says");
    screen.check("vpnat flows list", || {
        let text = agent.vpnat_ok("flows list");
        screen.excerpt("vpnat flows list", &text, 12);
        let pods = ["10.0.2.7", "10.0.2.8", "10.0.2.9"];
        if pods.iter().all(|pod| text.contains(pod)) && text.contains("10.0.1.10") {
            Ok("names the three pods and their one address".into())
        } else {
            Err("a pod or the egress address is missing".into())
        }
    });
    screen.check("metrics", || {
        let text = agent.metrics();
        let of = |direction: &str| {
            sum_of(&text, "vpnat_packets_total", &["vendor=\"vendor-a\"", &format!("\"{direction}\"")])
        };
        let shown: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("vpnat_packets_total") && !line.ends_with(" 0"))
            .collect();
        screen.excerpt(
            "curl -s http://127.0.0.1:9477/metrics | grep vpnat_packets_total",
            &shown.join("\n"),
            12,
        );
        match (of("outbound"), of("inbound")) {
            (out, back) if out > 0.0 && back > 0.0 => Ok(format!("vendor-a: {out} packets out, {back} back")),
            _ => Err("no translated packets of vendor-a are counted".into()),
        }
    });
    screen.check("bpftool reads the flow table", || {
        let pin = agent.pin("FLOWS").ok_or("no pinned map FLOWS")?;
        let dump = agent.bpftool_dump("FLOWS");
        let first =
            dump.get(0).and_then(|entry| entry.get("formatted")).ok_or("no entry with named fields")?;
        let text = serde_json::to_string_pretty(first).unwrap_or_default();
        screen.excerpt(&format!("bpftool map dump pinned {}", pin.display()), &compact(&text), 14);
        if text.contains("octets") { Ok("fields by name, addresses as octets".into()) } else { Err(text) }
    });
}

/// Puts arrays of numbers on one line each: `[10,0,2,7]`.
fn compact(json: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in json.lines() {
        let trimmed = line.trim();
        if inside {
            out.push_str(trimmed);
        } else {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(line);
        }
        inside = if inside { !trimmed.starts_with(']') } else { trimmed.ends_with('[') };
    }
    out
}
