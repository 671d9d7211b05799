//! The agent: loads and attaches the programs, fills the maps, sweeps the flow table and exports
//! statistics. Every packet decision is the datapath's; this crate never sees a packet.

pub mod config;
pub mod netlink;
