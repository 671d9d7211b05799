//! Vendors: which destinations are theirs, who may talk to them, and as whom.

use super::MAX_EGRESS_PER_VENDOR;
use super::flow::Phase;
use crate::addr::{Ip4, Port};

/// What a destination prefix means, value of the longest-prefix match.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PrefixTarget {
    /// Vendor slot, from 1; 0 if the prefix is closed: nothing leaves to it, see [`PrefixTarget::CLOSED`].
    pub vendor: u8,
    /// 1 if packets to this prefix are exempt: they pass untranslated and unguarded (RFC 6888 REQ-6).
    pub exempt: u8,
    /// Padding, 0.
    pub _pad: [u8; 2],
}

impl PrefixTarget {
    /// A prefix that was a vendor's and is no longer: pods that still send to it must not be seen there as themselves.
    pub const CLOSED: Self = Self { vendor: 0, exempt: 0, _pad: [0; 2] };
}

/// Bits of [`SourceKey`] in front of the address.
pub const SOURCE_KEY_VENDOR_BITS: u32 = 32;

/// A source as a vendor sees it, key data of the longest-prefix match on sources: the vendor's 32 bits are
/// always compared in full, then as many of the address as the prefix is long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SourceKey {
    /// Vendor slot, most significant byte first.
    pub vendor: [u8; 4],
    /// Source address.
    pub address: Ip4,
}

impl SourceKey {
    /// The key of `address` towards the vendor in `slot`.
    #[inline(always)]
    pub const fn new(slot: u8, address: Ip4) -> Self {
        Self { vendor: [0, 0, 0, slot], address }
    }
}

/// The `allow_from` entry that admitted a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SourceRule {
    /// Position in the vendor's `allow_from` list, from 0, host byte order.
    pub index: u32,
}

/// What an egress address is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct EgressAddress {
    /// Bit `n` is set if vendor slot `n` uses this address.
    pub vendors: u64,
}

/// Idle timers in seconds. Defaults and minima: RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2,
/// RFC 7857 section 2.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Timeouts {
    /// UDP mapping.
    pub udp: u32,
    /// ICMP query session.
    pub icmp_query: u32,
    /// TCP before the handshake is complete.
    pub tcp_init: u32,
    /// TCP established or half-closed.
    pub tcp_established: u32,
    /// TCP after both FINs.
    pub tcp_closing: u32,
    /// TCP after a reset.
    pub tcp_trans: u32,
}

impl Timeouts {
    /// What applies where the configuration says nothing.
    pub const DEFAULT: Self = Self {
        udp: 300,
        icmp_query: 60,
        tcp_init: 240,
        tcp_established: 7440,
        tcp_closing: 240,
        tcp_trans: 240,
    };

    /// The timer, in seconds, of a flow in `phase`.
    #[inline(always)]
    pub const fn of(&self, phase: Phase) -> u32 {
        match phase {
            Phase::Udp => self.udp,
            Phase::IcmpQuery => self.icmp_query,
            Phase::TcpInit => self.tcp_init,
            // A half-closed connection is an open one.
            Phase::TcpEstablished | Phase::TcpClientFin | Phase::TcpServerFin => self.tcp_established,
            Phase::TcpBothFin => self.tcp_closing,
            Phase::TcpTrans => self.tcp_trans,
            // Set by the flows that it has, never by itself.
            Phase::Binding => 0,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Bits of [`VendorPolicy::flags`].
pub mod flag {
    /// A TCP segment other than a SYN, without a flow, makes one (a connection that outlived its state).
    pub const TCP_PICK_UP: u32 = 1;
    /// The vendor is not configured any more; its flows go on until they end. Read by the agent only.
    pub const DRAINING: u32 = 1 << 31;
    /// Who is refused for want of ports or table space is told "prohibited" (RFC 5508 REQ-8), not "host unreachable"
    /// (RFC 6888 REQ-11b).
    pub const REFUSE_PROHIBITED: u32 = 2;
    /// Nobody who is refused is told.
    pub const REFUSE_SILENTLY: u32 = 4;
    /// A pod's end shows one port to all remote ends (RFC 4787 REQ-1), not one for each.
    pub const ENDPOINT_INDEPENDENT: u32 = 8;
}

/// How packets to one vendor are treated, by vendor slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
pub struct VendorPolicy {
    /// The configured name, zero-padded, cut at 15 bytes.
    pub name: [u8; 16],
    /// Idle timers.
    pub timeouts: Timeouts,
    /// The first `egress_count` are the vendor's egress addresses.
    pub egress: [Ip4; MAX_EGRESS_PER_VENDOR],
    /// How many egress addresses; 0 marks a free slot.
    pub egress_count: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Lowest port given out.
    pub port_min: Port,
    /// Highest port given out.
    pub port_max: Port,
    /// Largest MSS that a SYN may offer, bytes; 0 leaves it alone.
    pub mss: u16,
    /// Largest packet that the routes to the vendor take, bytes, where they say less than their device; 0 if they
    /// say nothing. The kernel's route lookup for programs tells the device's only.
    pub path_mtu: u16,
    /// How long the port of an ended UDP flow or ICMP query is kept from others, seconds (RFC 6888 REQ-8).
    pub hold_s: u32,
    /// Flows that a source may have at a time, of each protocol; 0: any number (RFC 6888 REQ-4).
    pub max_flows_per_source: u32,
    /// Flows that a source may open in a second of the clock, of each protocol; 0: any number.
    pub new_flows_per_source: u32,
    /// Largest packet that the routes to the pods take, bytes, as [`Self::path_mtu`].
    pub inside_mtu: u16,
    /// Padding, 0.
    pub _pad: u16,
}

/// What [`VendorPolicy::hold_s`] is where the configuration says nothing (RFC 6888 REQ-8).
pub const DEFAULT_HOLD_S: u32 = 120;

impl VendorPolicy {
    /// A slot that no vendor uses.
    pub const FREE: Self = Self {
        name: [0; 16],
        timeouts: Timeouts::DEFAULT,
        egress: [Ip4::UNSPECIFIED; MAX_EGRESS_PER_VENDOR],
        egress_count: 0,
        flags: 0,
        port_min: Port::new(1024),
        port_max: Port::new(65535),
        mss: 0,
        path_mtu: 0,
        hold_s: DEFAULT_HOLD_S,
        max_flows_per_source: 0,
        new_flows_per_source: 0,
        inside_mtu: 0,
        _pad: 0,
    };

    /// The vendor's egress addresses.
    #[inline(always)]
    pub fn egress_addresses(&self) -> impl Iterator<Item = Ip4> + '_ {
        self.egress.iter().take(self.egress_count as usize).copied()
    }
}

const _: () = assert!(size_of::<VendorPolicy>() == 104);
