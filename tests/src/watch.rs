//! The leak test that runs through every lab: captures beside the vendors and beside the NAT instance, and
//! the rules that every packet must keep.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::capture::{Capture, Captured, Way};
use crate::netns::Namespace;
use crate::topology::{EGRESS, EGRESS_B, NAT, VENDOR, VENDOR_B};

/// What may pass at a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// At a vendor's host: nothing comes in but from this address, or from the vendor's own network.
    AtVendor {
        /// The vendor's egress address.
        egress: Ipv4Addr,
    },
    /// At a pod: an error quotes what the pod has sent, not what became of it.
    AtPod {
        /// The pod's address.
        address: Ipv4Addr,
    },
    /// At the device towards the NAT instance: what the instance sends is from its own address or from an
    /// egress address. To a vendor, from that vendor's egress address, and only if the vendor is reached in
    /// clear at all.
    FromNat {
        /// False if the vendor is reached through a tunnel that ends on the instance.
        in_clear: bool,
    },
}

impl Rule {
    /// Why the packet may not pass, if it may not.
    fn broken_by(self, packet: &Captured) -> Option<String> {
        // What a pod sends is its own affair, also where it passes on its way to the instance (single-arm), or where a
        // switch floods it: some send broken packets on purpose.
        let own = match self {
            Self::AtPod { address } => packet.way == Way::Out || packet.is(|ip| ip.destination() != address),
            Self::FromNat { .. } => packet.way == Way::Out,
            Self::AtVendor { .. } => false,
        };
        if let (Err(wrong), false) = (&packet.checksums, own) {
            return Some(wrong.to_string());
        }
        let ip = packet.ipv4()?;
        if packet.way == Way::Out {
            return None;
        }
        let (source, destination) = (ip.source(), ip.destination());
        match self {
            Self::AtVendor { egress } => {
                let own = same_network(source, destination) && destination != source;
                (source != egress && !own).then(|| format!("the vendor saw {source}"))
            }
            Self::AtPod { address } => {
                let quoted = ip.quoted().filter(|_| destination == address)?.source();
                (quoted != address).then(|| format!("the pod is shown a packet from {quoted}"))
            }
            Self::FromNat { in_clear } => {
                let vendor = [(VENDOR, EGRESS), (VENDOR_B, EGRESS_B)]
                    .into_iter()
                    .find(|(vendor, _)| same_network(*vendor, destination));
                match vendor {
                    Some(_) if !in_clear => Some("to the vendor in clear".into()),
                    Some((_, egress)) if source != egress => Some(format!("to the vendor from {source}")),
                    Some(_) => None,
                    None if is_pod(destination) => None,
                    None => (![NAT, EGRESS, EGRESS_B].contains(&source))
                        .then(|| format!("the NAT instance sent from {source}")),
                }
            }
        }
    }
}

fn same_network(a: Ipv4Addr, b: Ipv4Addr) -> bool {
    a.octets()[..3] == b.octets()[..3]
}

fn is_pod(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [10, 0, 2 | 3, _])
}

/// Captures with their rules.
#[derive(Default)]
pub struct Watch {
    captures: Vec<(Capture, Rule)>,
}

/// A capture's place in the list: the order in which a lab starts them.
const UNDERLAY: usize = 0;
const PODS: usize = 1;
const VENDORS: usize = 5;

impl Watch {
    /// Adds a capture.
    pub fn start(&mut self, ns: &Namespace, device: &str, rule: Rule) {
        self.captures.push((Capture::start(ns, device), rule));
    }

    /// The capture beside the NAT instance, on its outside.
    pub fn underlay(&self) -> &Capture {
        &self.captures[UNDERLAY].0
    }

    /// The capture at a pod: 0 for pod-a, 3 for the stranger.
    pub fn pod(&self, index: usize) -> &Capture {
        &self.captures[PODS + index].0
    }

    /// The capture at a vendor's host: 0 for vendor-a.
    pub fn vendor(&self, index: usize) -> &Capture {
        &self.captures[VENDORS + index].0
    }

    /// Ends the captures; nobody will look at them any more.
    pub fn end(&self) {
        for (capture, _) in &self.captures {
            capture.end();
        }
    }

    /// Forgets what has passed so far: from now on the rules hold.
    pub fn begin(&self) {
        for (capture, _) in &self.captures {
            capture.forget();
        }
    }

    /// How many packets all captures hold, and how many of them came to a vendor.
    pub fn counts(&self) -> (usize, usize) {
        let came = |packets: &[Captured]| packets.iter().filter(|packet| packet.way == Way::In).count();
        let vendors =
            self.captures.iter().filter(|(_, rule)| matches!(rule, Rule::AtVendor { .. })).map(|(c, _)| c);
        (self.captures.iter().map(|(c, _)| c.count()).sum(), vendors.map(|c| c.look(came)).sum())
    }

    /// Every broken rule so far, in words.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (capture, rule) in &self.captures {
            capture.settle();
            let lost = capture.lost();
            if lost > 0 {
                complaints.push(format!("{}: the capture lost {lost} packets", capture.place()));
            }
            capture.look(|packets| {
                for packet in packets {
                    if let Some(why) = rule.broken_by(packet) {
                        complaints.push(format!("{}: {why}: {packet:?}", capture.place()));
                    }
                }
            });
        }
        complaints
    }

    /// Panics if a packet has broken the rules, with the first few of them.
    pub fn check(&self) {
        Self::refuse(&self.complaints());
    }

    /// The last check, with the numbers for a report of many labs.
    pub fn conclude(&self) {
        let complaints = self.complaints();
        let ((captured, at_vendors), wrong) = (self.counts(), complaints.len());
        println!("chaos: captured={captured} captured-at-vendors={at_vendors} packets-against-rules={wrong}");
        Self::refuse(&complaints);
    }

    fn refuse(complaints: &[String]) {
        let mut text = String::new();
        for complaint in complaints.iter().take(10) {
            let _ = write!(text, "\n  {complaint}");
        }
        assert!(complaints.is_empty(), "{} packets broke the rules of the lab:{text}", complaints.len());
    }
}
