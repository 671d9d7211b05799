//! The path that packets take: pods' end, NAT host, vendor's end, each in a namespace of its own.
//!
//! ```text
//! pods0 10.0.2.2 ── in0 10.0.2.1  NAT  out0 10.0.1.10 ── vendor0 10.0.1.1
//! 10.2.0.0/16 behind                                              198.18.0.0/15 behind
//! ```

use std::time::{Duration, Instant};

use super::contender::{Contender, Host};
use super::end::End;
use super::programs::{Expected, Template};
use super::report::Report;
use crate::link::{gro, mac, veth};
use crate::netns::Namespace;
use crate::sandbox::Sandbox;

/// The NAT host's inside device.
pub const INSIDE: &str = "in0";
/// The NAT host's outside device.
pub const OUTSIDE: &str = "out0";
/// What pods' packets leave as.
pub const EGRESS: [u8; 4] = [10, 0, 1, 10];
/// Where the pods are.
pub const PODS: &str = "10.2.0.0/16";
/// Where the vendors are: the range for benchmarks (RFC 2544).
pub const VENDORS: &str = "198.18.0.0/15";

/// A path that stands, with its NAT at work.
pub struct Path<'a> {
    /// The pods' end.
    pub pods: End,
    /// The vendor's end.
    pub vendor: End,
    /// What runs on the NAT host; nothing where there is no host.
    pub host: Option<Host<'a>>,
    /// The NAT host.
    pub nat: Namespace,
    /// Who does it.
    pub contender: &'a Contender,
}

const FROM_PODS: Expected = Expected { source: true, address: [10, 2, 0, 0], mask: [255, 255, 0, 0] };
const FROM_EGRESS: Expected = Expected { source: true, address: EGRESS, mask: [255; 4] };
const TO_PODS: Expected = Expected { source: false, address: [10, 2, 0, 0], mask: [255, 255, 0, 0] };

impl<'a> Path<'a> {
    /// Builds the path and starts the contender; nothing, and a warning, if no packet gets through.
    pub fn new(sandbox: &'a Sandbox, contender: &'a Contender, report: &mut Report) -> Option<Self> {
        let mut path = Self::without_host(contender);
        if *contender != Contender::Straight {
            path.host = Some(Host::start(sandbox, &path.nat, contender));
            if !path.first_packet() {
                report.warn(format!(
                    "{} is left out: no packet comes through; {} arrived with a wrong address",
                    contender.name(),
                    path.vendor.arrived().1
                ));
                return None;
            }
        }
        Some(path)
    }

    /// Builds the path for a contender that is not there yet.
    pub fn without_host(contender: &'a Contender) -> Self {
        let (pods, nat, vendor) = (Namespace::new("pods"), Namespace::new("nat"), Namespace::new("vendor"));
        let expected = if contender.translates() { FROM_EGRESS } else { FROM_PODS };
        let (to_vendor, to_pods) = if *contender == Contender::Straight {
            veth((&pods, "pods0"), (&vendor, "vendor0"));
            (mac(&vendor, "vendor0"), mac(&pods, "pods0"))
        } else {
            wire(&pods, &nat, &vendor);
            for device in [INSIDE, OUTSIDE] {
                // A veth end takes frames from XDP only while it polls.
                gro(&nat, device, true);
            }
            (mac(&nat, INSIDE), mac(&nat, OUTSIDE))
        };
        let pods = End::new(pods, "pods0", to_vendor, TO_PODS);
        let vendor = End::new(vendor, "vendor0", to_pods, expected);
        Self { pods, vendor, host: None, nat, contender }
    }

    /// Waits until a packet gets through; false if none does.
    fn first_packet(&self) -> bool {
        let begun = Instant::now();
        let number = 0;
        self.pods.set_flow(number, outbound(number));
        while self.pods.burst(&self.vendor, number..number + 1, 1).right == 0 {
            if begun.elapsed() > Duration::from_secs(10) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

/// Devices, addresses and routes, the same for every contender and for the paths of the other measurements.
pub fn wire(pods: &Namespace, nat: &Namespace, vendor: &Namespace) {
    veth((pods, "pods0"), (nat, INSIDE));
    veth((nat, OUTSIDE), (vendor, "vendor0"));
    let hex = |mac: crate::link::Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
    let [a, b, c, d] = EGRESS;
    nat.ip(&format!(
        "addr add 10.0.2.1/24 dev {INSIDE}
         addr add {a}.{b}.{c}.{d}/24 dev {OUTSIDE}
         neigh replace 10.0.2.2 lladdr {} dev {INSIDE} nud permanent
         neigh replace 10.0.1.1 lladdr {} dev {OUTSIDE} nud permanent
         route add {PODS} via 10.0.2.2
         route add {VENDORS} via 10.0.1.1",
        hex(mac(pods, "pods0")),
        hex(mac(vendor, "vendor0")),
    ));
    pods.ip("addr add 10.0.2.2/24 dev pods0\nroute add default via 10.0.2.1");
    vendor.ip("addr add 10.0.1.1/24 dev vendor0");
    for key in ["all", "default", "in0", "out0"] {
        nat.sysctl(&format!("net.ipv4.conf.{key}.rp_filter"), "0");
    }
    nat.sysctl("net.ipv4.ip_forward", "1");
}

/// Flows to one vendor endpoint: no more than it has ports.
pub const FLOWS_PER_ENDPOINT: u32 = 50_000;

/// The packet of an established flow: 50,000 flows from 200 pods to each vendor endpoint, each with a port of
/// its own, so that every NAT can keep it.
pub fn outbound(number: u32) -> Template {
    let (endpoint, place) = (number / FLOWS_PER_ENDPOINT, number % FLOWS_PER_ENDPOINT);
    flow_to(number, endpoint, (place % 200) as u16, 10_000 + place as u16)
}

/// A packet of pod `pod` from `port` to the vendor endpoint numbered `endpoint`.
pub fn flow_to(number: u32, endpoint: u32, pod: u16, port: u16) -> Template {
    let [high, low] = pod.to_be_bytes();
    let [_, _, c, d] = (endpoint + 10).to_be_bytes();
    Template::new(number, ([10, 2, high + 1, low], port), ([198, 18, c, d], 443))
}
