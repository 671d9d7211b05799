//! IPsec with IKEv2 as a site-to-site VPN speaks it: strongSwan, with ESP in user space (kernel-libipsec) or the
//! kernel's own.
//!
//! Each side is a charon of its own, with its configuration and its control socket in the lab's folder. In user space
//! the tunnel appears as the TUN device `ipsec0`, MTU 1400, with its route in table 220. With the kernel's ESP it is
//! an XFRM interface or a VTI, which is made beforehand.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use crate::netns::Namespace;
use crate::process::{self, Background};

/// The tunnel's device in both namespaces.
pub const DEVICE: &str = "ipsec0";

/// The XFRM interface in both namespaces, with the kernel's ESP.
pub const INTERFACE: &str = "xfrm0";

/// The VTI in both namespaces.
pub const VTI: &str = "vti1";

/// What ties policies to the XFRM interface, and by a mark to the VTI.
const IF_ID: u32 = 42;

/// Traffic selectors of a tunnel that leaves it to routes what goes through.
pub const ANY: &str = "0.0.0.0/0";

/// What encrypts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Esp {
    /// The daemon.
    User,
    /// The kernel, behind an XFRM interface.
    Xfrm,
    /// The kernel, behind a VTI.
    Vti,
}

/// Lets packets that came through the tunnel on to the pods, as `docs/setups.md` tells the operator: the policies of the
/// tunnel know the egress address only, and the kernel looks at a reply once it has the pod's address again.
pub fn let_replies_on(ns: &Namespace, from: &str, to: &str) {
    ns.ip(&format!("xfrm policy add src {from} dst {to} dir fwd if_id {IF_ID} tmpl proto esp mode tunnel"));
}

/// One end of the tunnel.
#[derive(Clone, Debug)]
pub struct End {
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// Its side of the traffic selectors.
    pub selector: String,
    /// What is routed through its device: a prefix, and what else `ip route` takes. In user space the daemon makes the route.
    pub route: String,
}

/// Makes the devices of both ends, starts their daemons, and waits for the tunnel. The first end connects.
pub fn connect<'a>(dir: &Path, esp: Esp, ends: [(&'a Namespace, End); 2]) -> [Charon<'a>; 2] {
    let [(near_ns, near), (far_ns, far)] = ends;
    make_device(near_ns, esp, &near, &far);
    make_device(far_ns, esp, &far, &near);
    let responder = Charon::start(far_ns, dir, esp, &far, &near, false);
    let initiator = Charon::start(near_ns, dir, esp, &near, &far, true);
    initiator.wait_for_tunnel();
    responder.wait_for_tunnel();
    [initiator, responder]
}

/// The MTU is user space's: what is larger would not fit the underlay.
fn make_device(ns: &Namespace, esp: Esp, here: &End, there: &End) {
    let (name, kind) = match esp {
        Esp::User => return,
        Esp::Xfrm => (INTERFACE, format!("xfrm if_id {IF_ID}")),
        Esp::Vti => (VTI, format!("vti local {} remote {} key {IF_ID}", here.underlay, there.underlay)),
    };
    ns.ip(&format!(
        "link add {name} type {kind}
         link set {name} mtu 1400 up
         route add {} dev {name}",
        here.route
    ));
}

/// One running IKE daemon.
pub struct Charon<'a> {
    ns: &'a Namespace,
    esp: Esp,
    socket: String,
    settings: PathBuf,
    daemon: Background,
}

impl<'a> Charon<'a> {
    /// Starts the daemon and loads the connection. The side that `initiates` connects at once, and again
    /// whenever the tunnel is lost; the other must have been started before.
    pub fn start(ns: &'a Namespace, dir: &Path, esp: Esp, here: &End, there: &End, initiates: bool) -> Self {
        let dir = dir.join(format!("ipsec-{}", ns.name()));
        std::fs::create_dir_all(&dir).expect("a folder for the IKE daemon");
        let socket = dir.join("vici");
        // A daemon that was killed leaves its socket behind.
        let _ = std::fs::remove_file(&socket);
        let settings = dir.join("strongswan.conf");
        std::fs::write(&settings, daemon_settings(&socket, esp)).expect("the IKE daemon's settings");
        let connection = dir.join("swanctl.conf");
        std::fs::write(&connection, connection_settings(esp, here, there, initiates))
            .expect("the connection's settings");

        let mut command = ns.command("charon-systemd");
        command.env("STRONGSWAN_CONF", &settings);
        let mut daemon = Background::start(&format!("charon of {}", ns.name()), command);
        process::wait_until("the IKE daemon's control socket", Duration::from_secs(10), || {
            if let Some(status) = daemon.ended() {
                panic!("charon of {} ended at once ({status}):\n{}", ns.name(), daemon.last_words());
            }
            socket.exists()
        });
        let charon = Self { ns, esp, socket: format!("unix://{}", socket.display()), settings, daemon };
        let loaded = charon.swanctl(&["--load-all", "--file", &connection.to_string_lossy()]);
        assert!(loaded.status.success(), "swanctl: {}", String::from_utf8_lossy(&loaded.stderr));
        charon
    }

    /// Runs swanctl against this daemon.
    pub fn swanctl(&self, words: &[&str]) -> Output {
        let mut command = self.ns.command("swanctl");
        command.env("STRONGSWAN_CONF", &self.settings).args(words).args(["--uri", &self.socket]);
        process::output(command)
    }

    /// Waits until the tunnel is up: its device is there and the route through it, or the kernel has its keys.
    pub fn wait_for_tunnel(&self) {
        if self.esp != Esp::User {
            let up = || self.associations().contains("INSTALLED");
            return process::wait_until("the IPsec tunnel", Duration::from_secs(20), up);
        }
        process::wait_until("the IPsec tunnel", Duration::from_secs(20), || {
            self.ns.ifindex(DEVICE).is_some()
                && self
                    .ns
                    .try_run("ip route show table 220")
                    .stdout
                    .windows(DEVICE.len())
                    .any(|word| word == DEVICE.as_bytes())
        });
    }

    /// The security associations, as swanctl prints them.
    pub fn associations(&self) -> String {
        String::from_utf8_lossy(&self.swanctl(&["--list-sas"]).stdout).into_owned()
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Ends the daemon in good order; the device goes with it.
    pub fn stop(mut self) {
        self.daemon.stop();
    }

    /// Kills the daemon; the device goes with it.
    pub fn kill(mut self) {
        self.daemon.kill();
    }
}

fn daemon_settings(socket: &Path, esp: Esp) -> String {
    // In the kernel the routes are the interface's own.
    let (plugin, user) = if esp == Esp::User { ("kernel-libipsec ", "yes") } else { ("", "no") };
    format!(
        "charon-systemd {{
  load = random nonce aes aesni sha2 hmac kdf gcm openssl drbg {plugin}kernel-netlink socket-default vici updown counters
  install_routes = {user}
  plugins {{
    vici {{
      socket = unix://{}
    }}
    kernel-libipsec {{
      load = {user}
    }}
  }}
}}
swanctl {{
  load =
}}
",
        socket.display()
    )
}

/// Proposals and timers as AWS site-to-site VPN uses them.
fn connection_settings(esp: Esp, here: &End, there: &End, initiates: bool) -> String {
    let start = if initiates { "start" } else { "none" };
    let interface = match esp {
        Esp::User => String::new(),
        Esp::Xfrm => format!("\n        if_id_in = {IF_ID}\n        if_id_out = {IF_ID}"),
        Esp::Vti => format!("\n        mark_in = {IF_ID}\n        mark_out = {IF_ID}"),
    };
    format!(
        "connections {{
  vendor {{
    version = 2
    local_addrs = {here}
    remote_addrs = {there}
    proposals = aes256gcm16-prfsha384-ecp384
    rekey_time = 28800s
    dpd_delay = 30s
    mobike = no
    keyingtries = 0
    local {{
      auth = psk
      id = {here}
    }}
    remote {{
      auth = psk
      id = {there}
    }}
    children {{
      net {{
        local_ts = {here_ts}
        remote_ts = {there_ts}
        esp_proposals = aes256gcm16-ecp384
        rekey_time = 3600s
        start_action = {start}
        dpd_action = restart{interface}
      }}
    }}
  }}
}}
secrets {{
  ike-vendor {{
    id-here = {here}
    id-there = {there}
    secret = \"only for the lab\"
  }}
}}
",
        here = here.underlay,
        there = there.underlay,
        here_ts = here.selector,
        there_ts = there.selector,
    )
}
