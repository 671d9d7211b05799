//! WireGuard, two ends: in user space (wireguard-go) or the kernel's own.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::netns::Namespace;
use crate::process::{self, Background};

/// Where both ends listen.
const PORT: u16 = 51820;

/// What carries the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// wireguard-go.
    User,
    /// The kernel's module.
    Kernel,
}

/// One end of the tunnel.
#[derive(Clone, Copy)]
pub struct End<'a> {
    /// Its namespace.
    pub ns: &'a Namespace,
    /// Its device. Both ends share a folder of control sockets: the names must differ.
    pub device: &'a str,
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// What lies behind it.
    pub behind: &'a str,
}

/// A running tunnel. In user space its devices go when it is dropped, the kernel's go with their namespaces.
pub struct WireGuard {
    _daemons: Vec<Background>,
}

impl WireGuard {
    /// Starts both ends and brings the devices up, with a route at each end to what lies behind the other.
    pub fn start(dir: &Path, kind: Kind, a: End<'_>, b: End<'_>) -> Self {
        let (a_key, b_key) = (private_key(a.ns), private_key(b.ns));
        let (a_public, b_public) = (public_key(a.ns, &a_key), public_key(b.ns, &b_key));
        // The end that answers first.
        let far = start(dir, kind, b, &b_key, a, &a_public);
        let near = start(dir, kind, a, &a_key, b, &b_public);
        Self { _daemons: near.into_iter().chain(far).collect() }
    }
}

fn start(dir: &Path, kind: Kind, here: End<'_>, key: &str, there: End<'_>, peer: &str) -> Option<Background> {
    let daemon = match kind {
        Kind::User => Some(user_space(here)),
        Kind::Kernel => {
            here.ns.ip(&format!("link add {} type wireguard", here.device));
            None
        }
    };
    let file = dir.join(format!("{}.conf", here.device));
    let text = format!(
        "[Interface]\nPrivateKey = {key}\nListenPort = {PORT}\n[Peer]\nPublicKey = {peer}\nEndpoint = {}:{PORT}\n\
         AllowedIPs = {}\nPersistentKeepalive = 5\n",
        there.underlay, there.behind
    );
    std::fs::write(&file, text).expect("a WireGuard configuration");
    here.ns.run(&format!("wg setconf {} {}", here.device, file.display()));
    here.ns.ip(&format!("link set {0} up\nroute add {1} dev {0}", here.device, there.behind));
    daemon
}

fn user_space(here: End<'_>) -> Background {
    let mut command = here.ns.command("wireguard-go");
    command.args(["-f", here.device]).env("WG_PROCESS_FOREGROUND", "1");
    let daemon = Background::start(&format!("wireguard-go of {}", here.ns.name()), command);
    process::wait_until("the WireGuard device", Duration::from_secs(10), || {
        here.ns.ifindex(here.device).is_some()
            && here.ns.try_run(&format!("wg show {}", here.device)).status.success()
    });
    daemon
}

fn private_key(ns: &Namespace) -> String {
    ns.run("wg genkey").trim().to_string()
}

fn public_key(ns: &Namespace, private: &str) -> String {
    use std::io::Write;
    let mut command = ns.command("wg");
    command.arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{}", process::cannot_start("wg", &error)));
    child.stdin.take().expect("wg's input").write_all(private.as_bytes()).expect("a key for wg");
    let output = child.wait_with_output().expect("wait for wg");
    assert!(output.status.success(), "wg pubkey failed");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}
