//! The host's view of map contents: plain bytes are checked before they become a type with rules.

use aya::Pod;

use super::account::{Account, AccountKey};
use super::clock::{Moment, Settings};
use super::device::{Device, XdpPort};
use super::event::{ExhaustedKey, FlowEvent};
use super::flow::{Direction, FlowEntry, FlowKey, FragmentKey, Phase};
use super::outcome::Count;
use super::pool::{PoolKey, PortPool};
use super::recycling::{SetKey, WorkingSet};
use super::refusal::Answers;
use super::rehearsal::Report;
use super::trace::{TraceCpu, TraceEvent, TraceFilter};
use super::vendor::{EgressAddress, PrefixTarget, SourceKey, SourceRule, VendorPolicy};
use crate::addr::{Ip4, Port};

macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        // SAFETY: `repr(C)`, no implicit padding, and every bit pattern is a value: integers and arrays only.
        $(unsafe impl Pod for $type {})+
    };
}

pod!(
    Account,
    AccountKey,
    Answers,
    Count,
    Device,
    EgressAddress,
    ExhaustedKey,
    FlowEntryBytes,
    FlowEvent,
    FlowKey,
    FragmentKey,
    Ip4,
    PoolKey,
    PortPool,
    PrefixTarget,
    Report,
    SetKey,
    Settings,
    SourceKey,
    SourceRule,
    TraceCpu,
    TraceEvent,
    TraceFilter,
    VendorPolicy,
    WorkingSet,
    XdpPort,
);

/// A key of the flow table as it lies in the map.
#[derive(Clone, Copy, Debug)]
pub struct FlowKeyBytes(pub [u8; size_of::<FlowKey>()]);

impl FlowKeyBytes {
    /// The key; any bytes are one.
    pub fn decode(&self) -> FlowKey {
        let u16_at = |offset: usize| u16::from_ne_bytes([self.0[offset], self.0[offset + 1]]);
        let addr_at = |offset: usize| {
            let mut octets = [0; 4];
            octets.copy_from_slice(&self.0[offset..offset + 4]);
            Ip4 { octets }
        };
        FlowKey::new(
            addr_at(core::mem::offset_of!(FlowKey, src)),
            Port::new(u16_at(core::mem::offset_of!(FlowKey, src_port))),
            addr_at(core::mem::offset_of!(FlowKey, dst)),
            Port::new(u16_at(core::mem::offset_of!(FlowKey, dst_port))),
            self.0[core::mem::offset_of!(FlowKey, protocol)],
        )
        .of_kind(self.0[core::mem::offset_of!(FlowKey, kind)])
    }
}

/// A flow entry as it lies in the map, not yet known to be sound.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct FlowEntryBytes(pub [u8; size_of::<FlowEntry>()]);

impl FlowEntryBytes {
    /// The entry, or `None` if a field holds a value that the datapath never writes.
    pub fn decode(&self) -> Option<FlowEntry> {
        let at = |offset: usize| self.0[offset];
        let u16_at = |offset: usize| u16::from_ne_bytes([at(offset), at(offset + 1)]);
        let u32_at =
            |offset: usize| u32::from_ne_bytes([at(offset), at(offset + 1), at(offset + 2), at(offset + 3)]);
        let u64_at = |offset: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.0[offset..offset + 8]);
            u64::from_ne_bytes(bytes)
        };
        macro_rules! offset {
            ($field:ident) => {
                core::mem::offset_of!(FlowEntry, $field)
            };
        }
        let mut out_mac = [0; 6];
        out_mac.copy_from_slice(&self.0[offset!(out_mac)..offset!(out_mac) + 6]);
        let new_addr = offset!(new_addr);
        Some(FlowEntry {
            bytes: u64_at(offset!(bytes)),
            packets: u64_at(offset!(packets)),
            expires: Moment::new(u32_at(offset!(expires))),
            created: Moment::new(u32_at(offset!(created))),
            new_addr: Ip4 { octets: [at(new_addr), at(new_addr + 1), at(new_addr + 2), at(new_addr + 3)] },
            new_port: Port::new(u16_at(offset!(new_port))),
            addr_delta: u16_at(offset!(addr_delta)),
            check: u16_at(offset!(check)),
            vendor: at(offset!(vendor)),
            direction: Direction::from_byte(at(offset!(direction)))?,
            phase: Phase::from_byte(at(offset!(phase)))?,
            sent: at(offset!(sent)),
            window_scale: at(offset!(window_scale)),
            out_slot: at(offset!(out_slot)),
            seq_end: u32_at(offset!(seq_end)),
            ack: u32_at(offset!(ack)),
            ts_val: u32_at(offset!(ts_val)),
            window: u16_at(offset!(window)),
            stamp: u16_at(offset!(stamp)),
            mtu: u16_at(offset!(mtu)),
            out_mac,
        })
    }
}
