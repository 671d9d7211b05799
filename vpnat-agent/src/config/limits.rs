//! Numbers that the file may hold: from where to where, and what holds where it says nothing.

use vpnat_common::layout::account::MOST_NEW_FLOWS_PER_S;
use vpnat_common::layout::event::EVENT_BUFFER;
use vpnat_common::layout::refusal::MOST_ANSWERS_PER_S;
use vpnat_common::layout::vendor::{DEFAULT_HOLD_S, Timeouts, VendorPolicy};
use vpnat_common::layout::{MAX_EGRESS_PER_VENDOR, MAX_VENDORS};

/// A number.
#[derive(Debug)]
pub struct Number {
    /// The key.
    pub name: &'static str,
    /// Smallest.
    pub least: u32,
    /// Largest.
    pub most: u32,
    /// What holds where the file says nothing.
    pub default: u32,
}

impl Number {
    const fn new(name: &'static str, (least, most): (u32, u32), default: u32) -> Self {
        Self { name, least, most, default }
    }

    /// Whether it may be `value`.
    pub fn takes(&self, value: u32) -> bool {
        (self.least..=self.most).contains(&value)
    }
}

pub const MAX_FLOWS: Number =
    Number::new("max_flows", (1024, super::MAX_MAX_FLOWS), super::DEFAULT_MAX_FLOWS);
pub const REFUSAL_ANSWERS: Number =
    Number::new("refusal_answers", (0, MOST_ANSWERS_PER_S), super::DEFAULT_REFUSAL_ANSWERS);
pub const MAX_FLOWS_PER_SOURCE: Number = Number::new("max_flows_per_source", (0, super::MAX_MAX_FLOWS), 0);
pub const NEW_FLOWS_PER_SOURCE: Number = Number::new("new_flows_per_source", (0, MOST_NEW_FLOWS_PER_S), 0);
pub const PORT_HOLD: Number = Number::new("port_hold", (0, super::LONGEST_HOLD), DEFAULT_HOLD_S);
pub const MAX_HELD_PORTS: Number = Number::new("max_held_ports", (0, super::MAX_MAX_FLOWS), 0);
pub const MAX_SIZE_MB: Number = Number::new("max_size_mb", (1, 1_000_000), 100);
pub const KEEP: Number = Number::new("keep", (0, 10_000), 10);
/// A power of two besides.
pub const BUFFER_KIB: Number = Number::new("buffer_kib", (64, 1 << 20), EVENT_BUFFER / 1024);
pub const IPFIX_DOMAIN: Number = Number::new("ipfix_domain", (0, u32::MAX), 1);
/// RFC 879's default, and what fits the largest packet; or a word, and no number by default.
pub const MSS: Number = Number::new("tcp_mss", (536, 65_495), 0);

/// Longest path of the run directory, bytes: the control socket's path in it has to fit `sockaddr_un`.
pub const LONGEST_RUN_DIR: usize = 80;
/// Longest vendor name, bytes: the map layout ends it with a zero.
pub const LONGEST_NAME: usize = VendorPolicy::FREE.name.len() - 1;
/// Longest device name, bytes: the kernel's ends with a zero, too.
pub const LONGEST_DEVICE: usize = libc::IFNAMSIZ - 1;
/// Lower ones are the system's (RFC 6335 section 6).
pub const LOWEST_PORT: u16 = 1024;

/// Most vendors: the first slot is nobody's.
pub const MOST_VENDORS: usize = MAX_VENDORS as usize - 1;
/// Most egress addresses of a vendor.
pub const MOST_EGRESS: usize = MAX_EGRESS_PER_VENDOR;

/// An idle timer, in seconds.
#[derive(Debug)]
pub struct Timer {
    /// The key.
    pub name: &'static str,
    /// What holds where the file says nothing.
    pub default: u32,
    /// Shorter ones need `allow_short`.
    pub minimum: u32,
    /// Who says so.
    pub rule: &'static str,
}

/// A year: any longer is a mistake, and far below where second counters wrap.
pub const LONGEST_TIMEOUT: u32 = 31_536_000;

const fn timer(name: &'static str, default: u32, minimum: u32, rule: &'static str) -> Timer {
    Timer { name, default, minimum, rule }
}

const DEFAULT: Timeouts = Timeouts::DEFAULT;

pub const UDP: Timer = timer("udp", DEFAULT.udp, 120, "RFC 4787 REQ-5");
pub const ICMP_QUERY: Timer = timer("icmp_query", DEFAULT.icmp_query, 60, "RFC 5508 REQ-2");
/// RFC 7857 section 2.1 lets an operator set this one below four minutes.
pub const TCP_INIT: Timer = timer("tcp_init", DEFAULT.tcp_init, 1, "RFC 7857 section 2.1");
pub const TCP_ESTABLISHED: Timer = timer("tcp_established", DEFAULT.tcp_established, 7440, "RFC 5382 REQ-5");
pub const TCP_CLOSING: Timer = timer("tcp_closing", DEFAULT.tcp_closing, 240, "RFC 5382 REQ-5");
pub const TCP_TRANS: Timer = timer("tcp_trans", DEFAULT.tcp_trans, 240, "RFC 7857 section 2.2");
