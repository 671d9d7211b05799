//! The real agent, the binary `vpnat`, inside a namespace.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::netns::Namespace;
use crate::patience::patient;
use crate::process::{self, Background};
use crate::sandbox::Sandbox;
use crate::sockets::{PATIENCE, tcp_connect};
use crate::steps::{Got, Traced};

/// Where the agent answers for metrics and readiness, inside its namespace.
pub const METRICS: std::net::SocketAddrV4 = std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9477);

/// How long an agent may take to become ready on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The `vpnat` binary: `$VPNAT_BIN`, or the one that was built beside this program, or in `target/release`.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("VPNAT_BIN") {
        return PathBuf::from(path);
    }
    let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let path = target.join("release/vpnat");
    assert!(
        path.exists(),
        "{} is missing: build it with `cargo xtask build`, or name one in VPNAT_BIN",
        path.display()
    );
    path
}

/// An agent of another layout: `$VPNAT_NEXT_BIN`, or the one that was built beside this program.
pub fn next_binary() -> PathBuf {
    let built = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug/vpnat-next"));
    let path = std::env::var_os("VPNAT_NEXT_BIN").map_or(built, PathBuf::from);
    assert!(path.exists(), "{} is missing: `cargo xtask test --tier lab` builds it", path.display());
    path
}

/// How the agent uses XDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Xdp {
    /// As the agent sees fit.
    Auto,
    /// Not at all.
    Off,
    /// In the driver.
    Native,
}

/// A vendor in the agent's configuration.
#[derive(Clone, Debug)]
pub struct Vendor {
    /// Its name.
    pub name: String,
    /// Its prefixes.
    pub cidrs: Vec<String>,
    /// What its traffic leaves as.
    pub egress: Vec<Ipv4Addr>,
    /// Who may talk to it.
    pub allow_from: Vec<String>,
}

/// What the agent is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Devices towards the pods.
    pub inside: Vec<String>,
    /// Devices towards the vendors.
    pub outside: Vec<String>,
    /// Use of XDP.
    pub xdp: Xdp,
    /// Vendors.
    pub vendors: Vec<Vendor>,
}

impl Config {
    /// The file's text.
    pub fn toml(&self) -> String {
        let xdp = match self.xdp {
            Xdp::Auto => "auto",
            Xdp::Off => "off",
            Xdp::Native => "native",
        };
        let mut text = format!(
            "[agent]\nbpffs = \"{}\"\nmetrics = \"{METRICS}\"\n\n[datapath]\ninside = {:?}\noutside = {:?}\n\
             xdp = \"{xdp}\"\nmax_flows = 65536\n",
            Sandbox::bpffs().join("vpnat").display(),
            self.inside,
            self.outside,
        );
        for vendor in &self.vendors {
            let egress: Vec<String> = vendor.egress.iter().map(Ipv4Addr::to_string).collect();
            let _ = write!(
                text,
                "\n[[vendor]]\nname = {:?}\ncidrs = {:?}\negress_ips = {egress:?}\nallow_from = {:?}\n",
                vendor.name, vendor.cidrs, vendor.allow_from
            );
        }
        text
    }
}

/// The agent in its namespace: running or, between runs, only its pins.
///
/// Dropping it kills the agent; its pins go with the sandbox.
pub struct Agent<'a> {
    ns: &'a Namespace,
    file: PathBuf,
    binary: PathBuf,
    prefix: Vec<String>,
    running: Option<Background>,
}

impl<'a> Agent<'a> {
    /// An agent that has not been started, with its configuration written to a file.
    pub fn new(ns: &'a Namespace, sandbox: &Sandbox, config: &Config) -> Self {
        let file = sandbox.dir().join(format!("{}.toml", ns.name()));
        std::fs::write(&file, config.toml()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self { ns, file, binary: binary(), prefix: Vec::new(), running: None }
    }

    /// The configuration file.
    pub fn file(&self) -> &PathBuf {
        &self.file
    }

    /// Uses another build from now on.
    pub fn use_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// Names the configuration by another path from now on, for who sees it elsewhere.
    pub fn use_file(&mut self, file: PathBuf) {
        self.file = file;
    }

    /// Starts the agent and kills it `after` so long, ready or not.
    pub fn start_and_kill(&mut self, after: Duration) {
        assert!(self.running.is_none(), "the agent is running");
        let mut agent = self.spawn();
        std::thread::sleep(after);
        agent.kill();
    }

    /// Starts the agent and kills it as it enters its step number `step`, from 1; it runs on if it is ready before.
    pub fn start_and_kill_at(&mut self, step: u32) -> Got {
        assert!(self.running.is_none(), "the agent is running");
        let agent = self.spawn();
        let traced = Traced::seize(agent.pid());
        self.running = Some(agent);
        self.killed_at(traced, step)
    }

    /// Has the running agent read its file again and kills it as it enters step number `step` of that, from 1; it runs on
    /// if it is done before.
    pub fn reload_and_kill_at(&mut self, step: u32) -> Got {
        let traced = Traced::seize(self.pid().expect("the agent is running"));
        self.signal_unseen(nix::sys::signal::Signal::SIGHUP);
        self.killed_at(traced, step)
    }

    fn killed_at(&mut self, traced: Traced, step: u32) -> Got {
        let got = traced.run_to(step);
        if matches!(got, Got::Killed(_)) {
            self.kill9();
        }
        got
    }

    /// Starts it by way of another program, which executes the rest of its arguments.
    pub fn run_under(&mut self, words: &[&str]) {
        self.prefix = words.iter().map(|word| (*word).to_owned()).collect();
    }

    fn spawn(&self) -> Background {
        let binary = self.binary.to_string_lossy().into_owned();
        let mut words = self.prefix.iter().chain([&binary]);
        let mut command = self.ns.command(words.next().expect("a program"));
        command.args(words).arg("run").arg("--config").arg(&self.file);
        Background::start("vpnat run", command)
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Background::pid)
    }

    /// Starts the agent and waits until it is ready; returns how long that took.
    pub fn start(&mut self) -> Duration {
        assert!(self.running.is_none(), "the agent is running");
        let start = Instant::now();
        let mut agent = self.spawn();
        while !self.ready() {
            if let Some(status) = agent.ended() {
                agent.wait(Duration::from_secs(1));
                panic!("vpnat run ended ({status}) before it was ready:\n{}", agent.last_words());
            }
            assert!(
                start.elapsed() < patient(READY_WITHIN),
                "vpnat run is not ready after {:?}:\n{}",
                start.elapsed(),
                agent.last_words()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        self.running = Some(agent);
        start.elapsed()
    }

    /// Whether the agent says that it is ready.
    pub fn ready(&self) -> bool {
        self.http("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// The text of the metrics endpoint.
    pub fn metrics(&self) -> String {
        let (status, text) = self.http("/metrics").unwrap_or_else(|| panic!("no answer from {METRICS}"));
        assert_eq!(status, 200, "status of /metrics");
        text
    }

    /// The sum of a metric's samples whose labels contain all of `labels` (each as `name="value"`).
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        sum_of(&self.metrics(), name, labels)
    }

    fn http(&self, path: &str) -> Option<(u16, String)> {
        use std::io::{Read, Write};
        self.ns.enter(|| {
            let mut stream = tcp_connect(0, METRICS, PATIENCE).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            Some((head.split(' ').nth(1)?.parse().ok()?, body.to_string()))
        })
    }

    /// Sends a signal without a look at whether the agent still runs, which would take a stop from who traces it.
    fn signal_unseen(&self, signal: nix::sys::signal::Signal) {
        let pid = self.pid().expect("the agent is running") as i32;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("a signal");
    }

    /// Sends a signal to the running agent.
    pub fn signal(&mut self, signal: nix::sys::signal::Signal) {
        self.running.as_mut().expect("the agent is running").signal(signal);
    }

    /// Kills the agent as a crash would.
    pub fn kill9(&mut self) {
        self.running.take().expect("the agent is running").kill();
    }

    /// Stops the agent as a service manager would.
    pub fn stop(&mut self) {
        let mut agent = self.running.take().expect("the agent is running");
        let status = agent.stop();
        assert!(status.success(), "vpnat run ended with {status} after SIGTERM:\n{}", agent.last_words());
    }

    /// What the running agent has written so far.
    pub fn log(&self) -> String {
        self.running.as_ref().map(Background::log).unwrap_or_default()
    }

    /// Runs a verb of the command line, with `--config` after it.
    pub fn vpnat(&self, words: &str) -> Output {
        let mut command = self.ns.command(&self.binary.to_string_lossy());
        command.args(words.split_whitespace()).arg("--config").arg(&self.file);
        process::output(command)
    }

    /// Runs a verb that goes on, likewise.
    pub fn background(&self, words: &str) -> Background {
        let mut command = self.ns.command(&self.binary.to_string_lossy());
        command.args(words.split_whitespace()).arg("--config").arg(&self.file);
        Background::start(&format!("vpnat {words}"), command)
    }

    /// Runs a verb that must succeed and returns what it printed.
    pub fn vpnat_ok(&self, words: &str) -> String {
        let output = self.vpnat(words);
        assert!(
            output.status.success(),
            "vpnat {words} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stdout).expect("vpnat prints UTF-8")
    }

    /// Runs a verb that prints JSON.
    pub fn vpnat_json(&self, words: &str) -> serde_json::Value {
        let text = self.vpnat_ok(&format!("{words} --json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("vpnat {words} --json: {error}:\n{text}"))
    }

    /// What `bpftool` prints of a pinned map, decoded. The map is found by its name below the pins.
    pub fn bpftool_dump(&self, map: &str) -> serde_json::Value {
        let path = self.pin(map).unwrap_or_else(|| panic!("no pinned map {map}"));
        let text = self.ns.run(&format!("bpftool --json --pretty map dump pinned {}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("bpftool: {error}:\n{text}"))
    }

    /// The path of a pin, by its name.
    pub fn pin(&self, name: &str) -> Option<PathBuf> {
        self.pins().into_iter().find(|path| path.file_name().is_some_and(|last| last == name))
    }

    /// Every pin of the agent.
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut pins = Vec::new();
        let mut folders = vec![Sandbox::bpffs().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    // bpffs shows itself two iterators of the kernel's in every mount.
                    Ok(_) if entry.file_name() == "maps.debug" || entry.file_name() == "progs.debug" => {}
                    _ => pins.push(entry.path()),
                }
            }
        }
        pins.sort();
        pins
    }

    /// Programs that hang on the devices of the agent's namespace, as the kernel lists them.
    pub fn attached(&self) -> Vec<String> {
        let mut command = self.ns.command("bpftool");
        command.args(["--json", "net", "show"]).stderr(Stdio::null());
        let text = process::checked(command);
        let all: serde_json::Value = serde_json::from_str(&text).expect("bpftool prints JSON");
        let mut found = Vec::new();
        for kind in ["xdp", "tc"] {
            for entry in all[0][kind].as_array().into_iter().flatten() {
                found.push(format!("{kind} {entry}"));
            }
        }
        // Not every bpftool knows TCX.
        found.extend(self.ns.enter(|| {
            let devices = nix::net::if_::if_nameindex().expect("the devices");
            let counts = devices.iter().map(|device| (device.name(), tcx_programs(device.index())));
            let attached = counts.filter(|(_, count)| *count > 0);
            attached.map(|(name, count)| format!("{count} by TCX on {name:?}")).collect::<Vec<_>>()
        }));
        found
    }
}

/// How many programs hang on a device by TCX, both ways; none on a kernel that does not have it.
fn tcx_programs(ifindex: u32) -> u32 {
    /// The start of the kernel's `union bpf_attr` for BPF_PROG_QUERY.
    #[repr(C)]
    struct Query {
        ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        program_ids: u64,
        count: u32,
        padding: [u32; 9],
    }
    const BPF_PROG_QUERY: libc::c_int = 16;
    const BPF_TCX_INGRESS: u32 = 46;
    const BPF_TCX_EGRESS: u32 = 47;
    let mut sum = 0;
    for attach_type in [BPF_TCX_INGRESS, BPF_TCX_EGRESS] {
        let mut query = Query {
            ifindex,
            attach_type,
            query_flags: 0,
            attach_flags: 0,
            program_ids: 0,
            count: 0,
            padding: [0; 9],
        };
        // SAFETY: the attribute is alive and as long as is said; without a buffer only the count is written.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
        if result == 0 {
            sum += query.count;
        }
    }
    sum
}

/// The sum of a metric's samples whose labels contain all of `labels`.
pub fn sum_of(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_name_and_label() {
        let text =
            "# HELP a_total x\na_total{v=\"1\",d=\"in\"} 2\na_total{v=\"1\",d=\"out\"} 3\na_total_more 7\n";
        assert_eq!(sum_of(text, "a_total", &[]), 5.0);
        assert_eq!(sum_of(text, "a_total", &["v=\"1\"", "d=\"out\""]), 3.0);
    }
}
