//! Who is measured, and how each is started on the NAT host.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::bpf::{self, Shared};
use super::path::{EGRESS, INSIDE, OUTSIDE, PODS, VENDORS};
use super::programs::{self, Line};
use crate::agent;
use crate::link::{Mac, mac};
use crate::netns::Namespace;
use crate::process::Background;
use crate::sandbox::Sandbox;

/// A way from the pods to the vendor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contender {
    /// No host between: what generator, link and sink cost by themselves.
    Straight,
    /// A host that only writes Ethernet addresses and sends on, in XDP.
    Redirect,
    /// The same, with a lookup in a hash map like vpnat's flow table: what any NAT with such a table costs at least.
    Lookup,
    /// The same, but with one cache line for each flow in an array: what a table could save at most.
    Array,
    /// The kernel's routing, no NAT.
    Plain,
    /// `iptables -j MASQUERADE`.
    Iptables,
    /// `nft snat`.
    Nftables,
    /// vpnat in XDP.
    VpnatXdp,
    /// vpnat in TC, as it is configured by itself: past the stack where it can.
    VpnatTc,
    /// vpnat in TC, everything by way of the stack.
    VpnatStack,
    /// Anything else: a name and a shell command that starts it.
    Other(String, String),
}

impl Contender {
    /// All that need no explanation.
    pub const KNOWN: [Self; 10] = [
        Self::Straight,
        Self::Redirect,
        Self::Lookup,
        Self::Array,
        Self::Plain,
        Self::Iptables,
        Self::Nftables,
        Self::VpnatXdp,
        Self::VpnatTc,
        Self::VpnatStack,
    ];

    /// The name on the command line and in tables.
    pub fn name(&self) -> &str {
        match self {
            Self::Straight => "straight",
            Self::Redirect => "redirect",
            Self::Lookup => "lookup",
            Self::Array => "array",
            Self::Plain => "plain",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::VpnatXdp => "vpnat-xdp",
            Self::VpnatTc => "vpnat-tc",
            Self::VpnatStack => "vpnat-stack",
            Self::Other(name, _) => name,
        }
    }

    /// Whether it is a NAT.
    pub fn translates(&self) -> bool {
        !matches!(self, Self::Straight | Self::Redirect | Self::Lookup | Self::Array | Self::Plain)
    }

    /// Whether it is ours.
    pub fn is_vpnat(&self) -> bool {
        matches!(self, Self::VpnatXdp | Self::VpnatTc | Self::VpnatStack)
    }

    /// How many flows it can hold on `nat`, if there is a limit that the bench knows.
    pub fn capacity(&self, nat: &Namespace) -> Option<u32> {
        match self {
            Self::Iptables | Self::Nftables => nat.read_sysctl("net.netfilter.nf_conntrack_max").parse().ok(),
            Self::VpnatXdp | Self::VpnatTc | Self::VpnatStack => Some(MAX_FLOWS),
            _ => None,
        }
    }
}

/// What vpnat's table is made for: a million flows and what the other measurements open.
pub const MAX_FLOWS: u32 = 1_048_576;

/// A contender at work.
pub struct Host<'a> {
    agent: Option<Background>,
    pins: Option<PathBuf>,
    attached: Vec<(OwnedFd, OwnedFd)>,
    table: Option<Shared<Line>>,
    _sandbox: &'a Sandbox,
}

impl<'a> Host<'a> {
    /// Starts the contender in `nat`.
    pub fn start(sandbox: &'a Sandbox, nat: &Namespace, contender: &Contender) -> Self {
        let mut host = Self { agent: None, pins: None, attached: Vec::new(), table: None, _sandbox: sandbox };
        match contender {
            Contender::Straight | Contender::Plain => {}
            Contender::Redirect => host.attached = redirect(nat, programs::redirect),
            Contender::Lookup => {
                let table = bpf::flow_table(2 * MAX_FLOWS);
                host.attached = redirect(nat, |target, to, from| programs::lookup(&table, target, to, from));
            }
            Contender::Array => {
                let table = host.table.insert(Shared::new(programs::LINES));
                host.attached = redirect(nat, |target, to, from| programs::array(table, target, to, from));
            }
            Contender::Iptables => {
                nat.run(&format!("iptables -t nat -A POSTROUTING -s {PODS} -o {OUTSIDE} -j MASQUERADE"));
                conntrack(nat);
            }
            Contender::Nftables => {
                let rules = format!(
                    "add table ip bench
                     add chain ip bench post {{ type nat hook postrouting priority srcnat; }}
                     add rule ip bench post oifname {OUTSIDE} ip saddr {PODS} snat to {}\n",
                    Ipv4Addr::from(EGRESS)
                );
                let file = sandbox.dir().join("bench.nft");
                std::fs::write(&file, rules).expect("nftables rules");
                nat.run(&format!("nft -f {}", file.display()));
                conntrack(nat);
            }
            Contender::VpnatXdp => host.vpnat(sandbox, nat, "xdp = \"native\""),
            Contender::VpnatTc => host.vpnat(sandbox, nat, "xdp = \"off\""),
            Contender::VpnatStack => host.vpnat(sandbox, nat, "xdp = \"off\"\nredirect = false"),
            Contender::Other(name, line) => {
                let mut command = nat.command("sh");
                command.args(["-c", line]);
                command.envs([("BENCH_INSIDE", INSIDE), ("BENCH_OUTSIDE", OUTSIDE)]);
                command.envs([("BENCH_PODS", PODS), ("BENCH_VENDORS", VENDORS)]);
                command.env("BENCH_EGRESS", Ipv4Addr::from(EGRESS).to_string());
                host.agent = Some(Background::start(name, command));
            }
        }
        host
    }

    fn vpnat(&mut self, sandbox: &Sandbox, nat: &Namespace, how: &str) {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let pins = Sandbox::bpffs().join(format!("bench{number}"));
        let file = sandbox.dir().join(format!("bench{number}.toml"));
        std::fs::write(&file, config(&pins, how, MAX_FLOWS)).expect("vpnat's configuration");
        let (agent, _) = start_vpnat(nat, &file);
        self.agent = Some(agent);
        self.pins = Some(pins);
    }

    /// The contender's process, if it has one.
    pub fn pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Background::pid)
    }

    /// The programs that it runs, by name.
    pub fn programs(&self) -> Vec<(String, OwnedFd)> {
        let own = self.attached.iter().map(|(program, _)| ("the bench's", program));
        let own = own.map(|(name, program)| (name.to_string(), program.try_clone().expect("a descriptor")));
        let pinned = self.pins.iter().flat_map(|pins| linked_programs(pins));
        own.chain(pinned).collect()
    }

    /// A file pinned by vpnat, by its name.
    pub fn pin(&self, name: &str) -> Option<PathBuf> {
        find(self.pins.as_ref()?, name)
    }
}

/// The programs that the pinned links hold in place.
fn linked_programs(pins: &Path) -> Vec<(String, OwnedFd)> {
    let Some(folder) = find(pins, "links") else { return Vec::new() };
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| bpf::linked_program(&bpf::open(&file.path()).ok()?)).collect()
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if entry.file_name() == name { Some(path) } else { find(&path, name) }
    })
}

/// vpnat's configuration; `how` are lines of its datapath.
///
/// Several agents run at a time, each in a network namespace of its own, but with the file system in common.
pub fn config(pins: &Path, how: &str, max_flows: u32) -> String {
    let own = pins.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "[agent]\nbpffs = \"{}\"\nrun_dir = \"/run/vpnat-{own}\"\nmetrics = \"{}\"\n\n\
         [datapath]\ninside = [\"{INSIDE}\"]\noutside = [\"{OUTSIDE}\"]\n{how}\nmax_flows = {max_flows}\n\n\
         [[vendor]]\nname = \"bench\"\ncidrs = [\"{VENDORS}\"]\negress_ips = [\"{}\"]\nallow_from = [\"{PODS}\"]\n\
         [vendor.timeouts]\nudp = 7200\n",
        pins.display(),
        agent::METRICS,
        Ipv4Addr::from(EGRESS),
    )
}

/// Starts vpnat and waits until it says that it is ready; how long that took.
pub fn start_vpnat(nat: &Namespace, file: &Path) -> (Background, Duration) {
    let begun = Instant::now();
    let mut command = nat.command(&agent::binary().to_string_lossy());
    command.args(["run", "--config"]).arg(file);
    let mut process = Background::start("vpnat run", command);
    while !http(nat, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
        if let Some(status) = process.ended() {
            process.wait(Duration::from_secs(1));
            panic!("vpnat run ended ({status}) before it was ready:\n{}", process.last_words());
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "vpnat is not ready:\n{}", process.last_words());
        std::thread::sleep(Duration::from_millis(2));
    }
    (process, begun.elapsed())
}

/// What the agent in `nat` answers.
pub fn http(nat: &Namespace, what: &str) -> Option<String> {
    use std::io::{Read, Write};
    nat.enter(|| {
        let mut stream =
            std::net::TcpStream::connect_timeout(&agent::METRICS.into(), Duration::from_secs(1)).ok()?;
        write!(stream, "GET {what} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", agent::METRICS)
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })
}

/// Nothing expires while it is measured.
fn conntrack(nat: &Namespace) {
    nat.sysctl("net.netfilter.nf_conntrack_udp_timeout", "7200");
    nat.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", "7200");
}

/// Both directions of the host that only sends on.
fn redirect(
    nat: &Namespace,
    program: impl Fn(&OwnedFd, Mac, Mac) -> OwnedFd + Sync,
) -> Vec<(OwnedFd, OwnedFd)> {
    let index = |device| nat.ifindex(device).expect("the NAT host's devices are there");
    let neighbour = |address: &str| {
        let text = nat.run(&format!("ip -json neigh show to {address}"));
        let neighbours: serde_json::Value = serde_json::from_str(&text).expect("ip -json prints JSON");
        let mut mac = [0; 6];
        let digits = neighbours[0]["lladdr"].as_str().expect("a neighbour has an address");
        for (byte, digits) in mac.iter_mut().zip(digits.split(':')) {
            *byte = u8::from_str_radix(digits, 16).expect("an Ethernet address in hexadecimal");
        }
        mac
    };
    let mut attached = Vec::new();
    for (from, to, next_hop) in [(INSIDE, OUTSIDE, "10.0.1.1"), (OUTSIDE, INSIDE, "10.0.2.2")] {
        let (next_hop, own) = (neighbour(next_hop), mac(nat, to));
        let (from, to) = (index(from), index(to));
        attached.push(nat.enter(|| {
            let program = program(&bpf::devmap(to), next_hop, own);
            let link = bpf::attach_xdp(&program, from);
            (program, link)
        }));
    }
    attached
}
