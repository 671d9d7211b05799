//! Whole labs: pods, the NAT instance, what lies between it and the vendor, and the vendor, in each of the
//! shapes that the product supports, with captures that watch every packet for as long as the lab stands.
//!
//! ```text
//! pod-a 10.0.2.7 ─┐            two-arm and tunnels                              vendor
//! pod-b 10.0.2.8 ─┼─ subnet ── eth1 NAT eth0 10.0.1.5 ── 10.0.1.1 vpc ───────── 192.0.2.10
//! pod-c 10.0.2.9 ─┤                  + 10.0.1.10                 │    (gateway) 198.51.100.10
//! stranger 10.0.3.7                                              └ in tunnels: 203.0.113.20 gateway
//! ```
//!
//! Single-arm, `subnet` hangs on `vpc`, whose route tables send what comes from the pods to the NAT, and what
//! comes from the NAT to the vendor.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::agent::{Agent, Config, Vendor, Xdp};
use crate::amiss::{amiss, backlog_drops, lost_between};
use crate::ipsec::{self, Charon, Esp};
use crate::link::{bridge, gro, mac, tx_checksum, veth};
use crate::netns::Namespace;
use crate::overlay;
use crate::pod::Pod;
use crate::process::wait_until;
use crate::raw::RawSender;
use crate::sandbox::Sandbox;
use crate::tun::TunPair;
use crate::vendor::VendorServer;
use crate::watch::{Rule, Watch};
use crate::wireguard::{self, Kind, WireGuard};
use crate::xdp_pass::XdpPass;

/// What vendor-a sees, as it should be.
pub const EGRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
/// What vendor-b sees, as it should be.
pub const EGRESS_B: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 11);
/// vendor-a's server.
pub const VENDOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// vendor-b's server.
pub const VENDOR_B: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The NAT instance's own address.
pub const NAT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 5);
/// The pods' gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
/// The router next to the NAT instance.
pub const VPC: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
/// The vendor's own VPN gateway.
pub const VENDOR_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);

/// The far end of a WireGuard tunnel: another name than the near end's, as [`wireguard::End`] says.
const FAR_WIREGUARD: &str = "wg1";

const PODS: [(&str, Ipv4Addr); 3] = [
    ("pod-a", Ipv4Addr::new(10, 0, 2, 7)),
    ("pod-b", Ipv4Addr::new(10, 0, 2, 8)),
    ("pod-c", Ipv4Addr::new(10, 0, 2, 9)),
];
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 7);

/// How the vendor is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// An inside and an outside Ethernet device.
    TwoArm,
    /// One Ethernet device both ways, as with a VPN that ends in the cloud.
    SingleArm,
    /// A tunnel device without Ethernet header, not encrypted.
    Tun,
    /// IPsec with IKEv2, with ESP in user space.
    Ipsec,
    /// WireGuard in user space.
    WireGuard,
    /// IPsec with IKEv2, with the kernel's own ESP and an XFRM interface.
    KernelIpsec,
    /// The same where both sides' selectors are [`ipsec::ANY`]: routes alone decide.
    KernelIpsecAny,
    /// The same, behind a VTI.
    KernelVtiAny,
    /// The kernel's own WireGuard.
    KernelWireGuard,
    /// IP in IP, which the kernel does alone: no keys, no ciphers.
    Ipip,
    /// A tunnel whose packets have Ethernet headers, inside as well.
    Vxlan,
    /// The same in GRE.
    Gretap,
}

impl Shape {
    /// Whether the vendor is reached through a tunnel that ends on the NAT instance.
    pub fn is_tunnel(self) -> bool {
        !matches!(self, Self::TwoArm | Self::SingleArm)
    }

    fn devices(self) -> (&'static str, &'static str) {
        match self {
            Self::TwoArm => ("eth1", "eth0"),
            Self::SingleArm => ("eth0", "eth0"),
            Self::Tun => ("eth1", "tun0"),
            Self::Ipsec => ("eth1", ipsec::DEVICE),
            Self::WireGuard | Self::KernelWireGuard => ("eth1", "wg0"),
            Self::KernelIpsec | Self::KernelIpsecAny => ("eth1", ipsec::INTERFACE),
            Self::KernelVtiAny => ("eth1", ipsec::VTI),
            Self::Ipip => ("eth1", "ipip1"),
            Self::Vxlan | Self::Gretap => ("eth1", overlay::DEVICE),
        }
    }
}

/// Whether senders leave checksums to their devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offload {
    /// As Linux does by itself: packets between veths carry unfinished checksums and may be 64 KiB large.
    On,
    /// Every packet is complete before it leaves its sender; XDP needs it so.
    Off,
}

/// A lab that stands. Dropping it takes it away, and panics if any packet broke the rules.
///
/// Declare the agent after the lab: it is dropped first then.
pub struct Topology<'a> {
    /// pod-a, pod-b and pod-c.
    pub pods: Vec<Pod>,
    /// A neighbour of the pods that may not talk to the vendor.
    pub stranger: Pod,
    /// The NAT instance.
    pub nat: &'a Namespace,
    /// vendor-a's servers, then vendor-b's if there is one.
    pub vendors: Vec<VendorServer>,
    /// The captures and their rules.
    pub watch: Watch,
    /// How the vendor is reached.
    pub shape: Shape,
    tun: Option<TunPair>,
    wireguard: Option<WireGuard>,
    charons: Option<[Charon<'a>; 2]>,
    _peer: Option<XdpPass>,
    backlog_drops: u64,
    site: &'a Site,
}

/// The namespaces of a lab and its private files, for the [`Topology`] to be built in.
pub struct Site {
    /// The pods' subnet: a switch.
    pub subnet: Namespace,
    /// The NAT instance.
    pub nat: Namespace,
    /// What the NAT instance's subnet is connected to.
    pub vpc: Namespace,
    /// The vendor's VPN gateway, in tunnels.
    pub gateway: Namespace,
    /// The vendors' hosts.
    pub vendors: Vec<Namespace>,
    /// The private mounts. Last, as they must go last.
    pub sandbox: Sandbox,
}

impl Site {
    /// Empty namespaces.
    pub fn new() -> Self {
        let sandbox = Sandbox::enter();
        let names = ["vendor-a", "vendor-b"];
        Self {
            subnet: Namespace::new("subnet"),
            nat: Namespace::new("nat"),
            vpc: Namespace::new("vpc"),
            gateway: Namespace::new("gateway"),
            vendors: names.into_iter().map(Namespace::new).collect(),
            sandbox,
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Topology<'a> {
    /// Builds the lab, tunnel included, without any NAT.
    pub fn new(site: &'a Site, shape: Shape, offload: Offload) -> Self {
        routers(site);
        let pods_router = if shape == Shape::SingleArm { (&site.vpc, "pods0") } else { (&site.nat, "eth1") };
        let (pods, stranger) = pods(site, pods_router, offload);
        outside(site, shape);
        let vendors = vendors(site, shape);
        let peer = (offload == Offload::Off).then(|| finish_checksums(site, shape));
        let mut watch = Watch::default();
        watch.start(&site.vpc, "nat0", Rule::FromNat { in_clear: !shape.is_tunnel() });
        for pod in pods.iter().chain([&stranger]) {
            watch.start(&pod.ns, "eth0", Rule::AtPod { address: pod.address });
        }
        watch.start(&site.vendors[0], "eth0", Rule::AtVendor { egress: EGRESS });
        if !shape.is_tunnel() {
            watch.start(&site.vendors[1], "eth0", Rule::AtVendor { egress: EGRESS_B });
        }
        let mut topology = Self {
            pods,
            stranger,
            nat: &site.nat,
            vendors,
            watch,
            shape,
            tun: None,
            wireguard: None,
            charons: None,
            _peer: peer,
            backlog_drops: backlog_drops(),
            site,
        };
        topology.tunnel_up();
        topology
    }

    /// Of segments that `reported` says the pods have lost on their way to the vendors, those that the vendors' kernels have not
    /// received twice.
    pub fn lost(&self, reported: u32) -> u64 {
        u64::from(reported).min(lost_between(self.pods.iter().map(|pod| &pod.ns), &self.site.vendors))
    }

    fn say_what_is_amiss(&self) {
        let site = self.site;
        let pods = self.pods.iter().chain([&self.stranger]).map(|pod| &pod.ns);
        let others = [&site.subnet, &site.nat, &site.vpc, &site.gateway];
        for namespace in pods.chain(others).chain(&site.vendors) {
            let amiss = amiss(namespace);
            if !amiss.is_empty() {
                eprintln!("--- {}: {amiss}", namespace.name());
            }
        }
        let backlog = backlog_drops() - self.backlog_drops;
        eprintln!("--- {backlog} packets dropped from processors' backlogs, this lab's and others'");
    }

    /// The configuration for this shape: both vendors where there are two.
    pub fn config(&self, xdp: Xdp) -> Config {
        let vendor = |name: &str, cidr: &str, egress| Vendor {
            name: name.into(),
            cidrs: vec![cidr.into()],
            egress: vec![egress],
            allow_from: vec!["10.0.2.0/24".into()],
        };
        let mut vendors = vec![vendor("vendor-a", "192.0.2.0/24", EGRESS)];
        if !self.shape.is_tunnel() {
            vendors.push(vendor("vendor-b", "198.51.100.0/24", EGRESS_B));
        }
        let (inside, outside) = self.shape.devices();
        Config { inside: vec![inside.into()], outside: vec![outside.into()], xdp, vendors }
    }

    /// An agent for this lab, not yet started.
    pub fn agent(&self, xdp: Xdp) -> Agent<'a> {
        Agent::new(self.nat, &self.site.sandbox, &self.config(xdp))
    }

    /// The lab's namespaces and files.
    pub fn site(&self) -> &'a Site {
        self.site
    }

    /// The device that the vendor is reached through.
    pub fn outside_device(&self) -> &'static str {
        self.shape.devices().1
    }

    /// Sends from the NAT instance itself, out of its outside device.
    pub fn raw_from_nat(&self) -> RawSender {
        let next = match self.shape {
            Shape::TwoArm | Shape::SingleArm => mac(&self.site.vpc, "nat0"),
            Shape::Vxlan | Shape::Gretap => mac(&self.site.gateway, overlay::DEVICE),
            _ => [0; 6],
        };
        RawSender::new(self.nat, self.outside_device(), next)
    }

    /// Builds the tunnel of this shape and waits until it carries packets; nothing to do without one.
    pub fn tunnel_up(&mut self) {
        let site = self.site;
        match self.shape {
            Shape::TwoArm | Shape::SingleArm => {}
            Shape::Tun => {
                self.tun = Some(TunPair::new((&site.nat, "tun0"), (&site.gateway, "tun0")));
                site.nat.ip("link set tun0 mtu 1400 up\nroute add 192.0.2.0/24 dev tun0");
                site.gateway.ip("link set tun0 mtu 1400 up\nroute add 10.0.1.10/31 dev tun0 src 192.0.2.1");
            }
            Shape::Ipip => {
                let device =
                    |local, remote| format!("link add ipip1 type ipip local {local} remote {remote}");
                site.nat.ip(&format!(
                    "{}\nlink set ipip1 up\nroute add 192.0.2.0/24 dev ipip1",
                    device(NAT, VENDOR_GATEWAY)
                ));
                site.gateway.ip(&format!(
                    "{}\nlink set ipip1 up\nroute add {EGRESS}/32 dev ipip1 src 192.0.2.1",
                    device(VENDOR_GATEWAY, NAT)
                ));
            }
            Shape::Vxlan => {
                overlay::connect("vxlan id 7 dstport 4789 noudpcsum", 1450, &site.nat, &site.gateway)
            }
            Shape::Gretap => overlay::connect("gretap", 1462, &site.nat, &site.gateway),
            Shape::WireGuard | Shape::KernelWireGuard => {
                let near =
                    wireguard::End { ns: &site.nat, device: "wg0", underlay: NAT, behind: "10.0.1.10/32" };
                let far = wireguard::End {
                    ns: &site.gateway,
                    device: FAR_WIREGUARD,
                    underlay: VENDOR_GATEWAY,
                    behind: "192.0.2.0/24",
                };
                let kind = if self.shape == Shape::WireGuard { Kind::User } else { Kind::Kernel };
                self.wireguard = Some(WireGuard::start(site.sandbox.dir(), kind, near, far));
                // Its errors, too, come from an address that the other end lets through.
                site.gateway.ip(&format!("route replace 10.0.1.10/32 dev {FAR_WIREGUARD} src 192.0.2.1"));
            }
            Shape::Ipsec | Shape::KernelIpsec | Shape::KernelIpsecAny | Shape::KernelVtiAny => {
                let any = matches!(self.shape, Shape::KernelIpsecAny | Shape::KernelVtiAny);
                let end = |underlay, own: &str, route: &str| ipsec::End {
                    underlay,
                    selector: if any { ipsec::ANY.into() } else { own.into() },
                    route: route.into(),
                };
                let esp = match self.shape {
                    Shape::Ipsec => Esp::User,
                    Shape::KernelVtiAny => Esp::Vti,
                    _ => Esp::Xfrm,
                };
                let near = end(NAT, "10.0.1.10/32", "192.0.2.0/24");
                let far = end(VENDOR_GATEWAY, "192.0.2.0/24", "10.0.1.10/32 src 192.0.2.1");
                self.charons =
                    Some(ipsec::connect(site.sandbox.dir(), esp, [(&site.nat, near), (&site.gateway, far)]));
                if self.shape == Shape::KernelIpsec {
                    ipsec::let_replies_on(&site.nat, "192.0.2.0/24", "10.0.2.0/24");
                }
            }
        }
    }

    /// Takes the tunnel away, devices and all.
    pub fn tunnel_down(&mut self) {
        self.tun = None;
        self.wireguard = None;
        for charon in self.charons.take().into_iter().flatten() {
            charon.kill();
        }
        // What the kernel itself carries stays when nobody runs it.
        let by_process = [Shape::Tun, Shape::Ipsec, Shape::WireGuard];
        if self.shape.is_tunnel() && !by_process.contains(&self.shape) {
            let near = self.outside_device();
            let far = if self.shape == Shape::KernelWireGuard { FAR_WIREGUARD } else { near };
            for (ns, device) in [(&self.site.nat, near), (&self.site.gateway, far)] {
                ns.ip(&format!("link del {device}\nxfrm state flush\nxfrm policy flush"));
            }
        }
        // A process that another thread is just starting holds the descriptors until it executes.
        let (site, device) = (self.site, self.outside_device());
        wait_until("the tunnel's devices go", Duration::from_secs(5), || {
            (self.shape != Shape::Tun || site.gateway.ifindex(device).is_none())
                && (!self.shape.is_tunnel() || site.nat.ifindex(device).is_none())
        });
    }

    /// The IKE daemons: the NAT instance's, then the vendor's.
    pub fn charons(&self) -> Option<&[Charon<'a>; 2]> {
        self.charons.as_ref()
    }

    /// Makes the NAT instance translate with nftables: what the lab itself is proved with.
    pub fn nftables(&self) {
        let outside = self.outside_device();
        let rules = self.site.sandbox.dir().join("nat.nft");
        let text = format!(
            "table ip lab {{
               chain post {{
                 type nat hook postrouting priority srcnat
                 oifname {outside} ip saddr 10.0.2.0/24 ip daddr 192.0.2.0/24 snat to {EGRESS}
                 oifname {outside} ip saddr 10.0.2.0/24 ip daddr 198.51.100.0/24 snat to {EGRESS_B}
               }}
               chain forward {{
                 type filter hook forward priority filter
                 ip saddr 10.0.3.0/24 ip daddr {{ 192.0.2.0/24, 198.51.100.0/24 }} drop
                 ip protocol gre drop
               }}
             }}"
        );
        std::fs::write(&rules, text).expect("nftables rules");
        self.nat.run(&format!("nft -f {}", rules.display()));
    }
}

impl Drop for Topology<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.say_what_is_amiss();
        } else {
            self.watch.conclude();
        }
    }
}

fn routers(site: &Site) {
    for router in [&site.vpc, &site.gateway, &site.nat] {
        router.sysctl("net.ipv4.ip_forward", "1");
        // So that no error of a burst of tests goes missing.
        router.sysctl("net.ipv4.icmp_ratelimit", "0");
    }
    for router in [&site.vpc, &site.gateway] {
        router.sysctl("net.ipv4.conf.all.rp_filter", "0");
        router.sysctl("net.ipv4.conf.default.rp_filter", "0");
    }
    // Single-arm, its own errors come back through the NAT, from its own address.
    site.vpc.sysctl("net.ipv4.conf.all.accept_local", "1");
    // The strictest setting that a distribution ships.
    site.nat.sysctl("net.ipv4.conf.all.rp_filter", "1");
    site.nat.sysctl("net.ipv4.conf.default.rp_filter", "1");
}

fn pods(site: &Site, router: (&Namespace, &str), offload: Offload) -> (Vec<Pod>, Pod) {
    veth(router, (&site.subnet, "router"));
    router.0.ip(&format!("addr add 10.0.2.1/24 dev {0}\naddr add 10.0.3.1/24 dev {0}", router.1));
    let gateway_mac = mac(router.0, router.1);
    let mut ports = vec!["router".to_string()];
    let mut make = |name: &str, address: Ipv4Addr| {
        let ns = Namespace::new(name);
        veth((&ns, "eth0"), (&site.subnet, name));
        ports.push(name.to_string());
        let [a, b, c, _] = address.octets();
        ns.ip(&format!("addr add {address}/24 dev eth0\nroute add default via {a}.{b}.{c}.1"));
        if offload == Offload::Off {
            tx_checksum(&ns, "eth0", false);
        }
        Pod { ns, address, gateway: gateway_mac }
    };
    let pods = PODS.into_iter().map(|(name, address)| make(name, address)).collect();
    let stranger = make("stranger", STRANGER);
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    bridge(&site.subnet, "br0", &ports);
    (pods, stranger)
}

/// The NAT instance's outside device and the network next to it.
fn outside(site: &Site, shape: Shape) {
    veth((&site.nat, "eth0"), (&site.vpc, "nat0"));
    site.nat.ip(&format!(
        "addr add {NAT}/24 dev eth0
         addr add {EGRESS}/32 dev eth0
         addr add {EGRESS_B}/32 dev eth0
         route add default via {VPC}"
    ));
    site.vpc.ip(&format!("addr add {VPC}/24 dev nat0"));
    match shape {
        // A packet that leaks gets its answer: a leak must not pass for a loss.
        Shape::TwoArm => site.vpc.ip(&format!("route add 10.0.2.0/23 via {NAT}")),
        Shape::SingleArm => site.vpc.ip(&format!(
            "rule add iif pods0 lookup 100
             route add 192.0.2.0/24 via {NAT} table 100
             route add 198.51.100.0/24 via {NAT} table 100"
        )),
        _ => {
            veth((&site.vpc, "wan0"), (&site.gateway, "eth0"));
            site.vpc.ip(&format!("addr add 203.0.113.1/24 dev wan0\nroute add 10.0.2.0/23 via {NAT}"));
            site.gateway
                .ip(&format!("addr add {VENDOR_GATEWAY}/24 dev eth0\nroute add default via 203.0.113.1"));
        }
    }
}

fn vendors(site: &Site, shape: Shape) -> Vec<VendorServer> {
    let router = if shape.is_tunnel() { &site.gateway } else { &site.vpc };
    let all = [("vendor0", "192.0.2.1", VENDOR, EGRESS), ("vendor1", "198.51.100.1", VENDOR_B, EGRESS_B)];
    let count = if shape.is_tunnel() { 1 } else { 2 };
    let mut servers = Vec::new();
    for (ns, (device, gateway, address, egress)) in site.vendors.iter().zip(all).take(count) {
        veth((ns, "eth0"), (router, device));
        router.ip(&format!("addr add {gateway}/24 dev {device}"));
        ns.ip(&format!("addr add {address}/24 dev eth0\nroute add default via {gateway}"));
        servers.push(VendorServer::start(ns, address, egress));
    }
    servers
}

/// Every sender completes its checksums, and the far ends of the NAT's devices take frames from XDP.
fn finish_checksums(site: &Site, shape: Shape) -> XdpPass {
    for vendor in &site.vendors[..if shape.is_tunnel() { 1 } else { 2 }] {
        tx_checksum(vendor, "eth0", false);
    }
    tx_checksum(&site.vpc, "nat0", false);
    if shape == Shape::SingleArm {
        tx_checksum(&site.vpc, "pods0", false);
    } else {
        tx_checksum(&site.nat, "eth1", false);
        tx_checksum(&site.subnet, "router", false);
        gro(&site.subnet, "router", true);
    }
    tx_checksum(&site.nat, "eth0", false);
    XdpPass::attach(&site.vpc, "nat0")
}
