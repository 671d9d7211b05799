//! Two hosts that send what they are told and answer nothing, and what arrives at each.

use std::net::Ipv4Addr;

use tests::capture::{Capture, Captured, Way};
use tests::link::mac;
use tests::packet::{ICMP, Packet, TCP, UDP};
use tests::raw::RawSender;
use tests::topology::{EGRESS, Topology};

/// A pod that has no stack: its packets come and go through another pod's device.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 50);
/// Another one.
pub const HOST_2: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 51);
/// A server of the vendor's without a stack.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// A router on the way.
pub const TRANSIT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);

/// Senders and captures on both sides of a NAT host.
pub struct Bench {
    pod: RawSender,
    vendor: RawSender,
    transit: RawSender,
    at_pod: Capture,
    at_vendor: Capture,
}

impl Bench {
    /// In the lab, with whatever NAT there is.
    pub fn new(lab: &Topology<'_>) -> Self {
        let (pod, site) = (&lab.pods[0], lab.site());
        let colons = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        let pod_mac = colons(mac(&pod.ns, "eth0"));
        let vendor_mac = colons(mac(&site.vendors[0], "eth0"));
        for host in [HOST, HOST_2] {
            lab.nat.ip(&format!("neigh add {host} lladdr {pod_mac} dev eth1 nud permanent"));
        }
        site.vpc.ip(&format!("neigh add {SERVER} lladdr {vendor_mac} dev vendor0 nud permanent"));
        let bench = Self {
            pod: pod.raw(),
            vendor: RawSender::new(&site.vendors[0], "eth0", mac(&site.vpc, "vendor0")),
            transit: RawSender::new(&site.vpc, "nat0", mac(lab.nat, "eth0")),
            at_pod: Capture::start(&pod.ns, "eth0"),
            at_vendor: Capture::start(&site.vendors[0], "eth0"),
        };
        // So that every hop knows the next.
        pod.udp_exchange(41999, tests::topology::VENDOR, b"hello").expect("a way to the vendor");
        bench.at_vendor.settle();
        bench.at_pod.settle();
        bench
    }

    /// Sends from the pod's side; what arrived where, in words.
    pub fn out(&self, packets: &[Vec<u8>]) -> String {
        self.sent(&self.pod, packets)
    }

    /// Sends from the vendor.
    pub fn back(&self, packets: &[Vec<u8>]) -> String {
        self.sent(&self.vendor, packets)
    }

    /// Sends from a router on the way, straight to the NAT host.
    pub fn on_the_way(&self, packets: &[Vec<u8>]) -> String {
        self.sent(&self.transit, packets)
    }

    fn sent(&self, sender: &RawSender, packets: &[Vec<u8>]) -> String {
        let before = (self.at_pod.count(), self.at_vendor.count());
        for packet in packets {
            sender.send(packet);
        }
        // On a busy machine an answer takes its time.
        std::thread::sleep(std::time::Duration::from_millis(100));
        self.at_vendor.settle();
        self.at_pod.settle();
        let mut words = Vec::new();
        for (place, capture, before) in
            [("pod", &self.at_pod, before.0), ("vendor", &self.at_vendor, before.1)]
        {
            for packet in capture.packets().into_iter().skip(before).filter(|packet| packet.way == Way::In) {
                words.extend(describe(&packet).map(|packet| format!("{place} sees {packet}")));
            }
        }
        if words.is_empty() { "nothing".into() } else { words.join("; ") }
    }

    /// The port or identifier that the vendor saw last.
    pub fn public(&self) -> u16 {
        let last = self.at_vendor.packets().into_iter().rev().find_map(|packet| {
            let ip = packet.ipv4().filter(|ip| packet.way == Way::In && ip.source() == EGRESS)?;
            match ip.protocol() {
                TCP | UDP => Some(ip.ports()?.0),
                ICMP => Some(u16::from_be_bytes([ip.payload()[4], ip.payload()[5]])),
                _ => None,
            }
        });
        last.unwrap_or(40000)
    }
}

/// A packet in words that do not depend on which port was free.
fn describe(packet: &Captured) -> Option<String> {
    // What the namespaces say among themselves is nobody's case.
    let hosts = [HOST, HOST_2, SERVER];
    let ip = packet.ipv4().filter(|ip| hosts.contains(&ip.source()) || hosts.contains(&ip.destination()))?;
    let mut text = ends(ip);
    text += &format!(" ttl {} tos {}", ip.ttl(), packet.start()[1]);
    let fragment = u16::from_be_bytes([packet.start()[6], packet.start()[7]]);
    if fragment & 0x4000 != 0 {
        text += " df";
    }
    if fragment & 0x3fff != 0 {
        text += &format!(" part at {}", (fragment & 0x1fff) * 8);
    }
    text += &format!(" {} bytes", packet.length);
    if let Some(quoted) = ip.quoted() {
        text += &format!(" about [{}]", ends(quoted));
    } else if let (UDP, Some([0, 0])) = (ip.protocol(), ip.payload().get(6..8)) {
        text += " no checksum";
    }
    if packet.checksums.is_err() {
        text += " WRONG CHECKSUM";
    }
    Some(text)
}

fn ends(ip: Packet<'_>) -> String {
    let (source, destination) = (ip.source(), ip.destination());
    // The pods' ports are from 40000 to 40019, and low ones.
    let name = |port: u16| match port {
        0..=1023 => "low".to_string(),
        40000..40020 => "own".to_string(),
        _ => "other".to_string(),
    };
    match (ip.protocol(), ip.ports()) {
        (TCP | UDP, Some((from, to))) => {
            let protocol = if ip.protocol() == TCP { "TCP" } else { "UDP" };
            let flags = if ip.protocol() == TCP && ip.payload().len() > 13 {
                format!(" flags {:#04x}", ip.payload()[13])
            } else {
                String::new()
            };
            format!("{protocol} {source}:{}>{destination}:{}{flags}", name(from), name(to))
        }
        (ICMP, _) => {
            let kind = ip.payload().first().copied().unwrap_or(0);
            let code = ip.payload().get(1).copied().unwrap_or(0);
            format!("ICMP {kind}/{code} {source}>{destination}")
        }
        (protocol, _) => format!("protocol {protocol} {source}>{destination}"),
    }
}
