//! The agent: loads and attaches the programs, fills the maps, sweeps the flow table and exports
//! statistics. Every packet decision is the datapath's; this crate never sees a packet.

pub mod bring_up;
pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
pub mod detach;
pub mod doctor;
pub mod explain;
pub mod flow_log;
pub mod forwarding;
pub mod guard;
pub mod metrics;
pub mod netlink;
pub mod notify;
pub mod preflight;
pub mod privileges;
pub mod reference;
pub mod reload;
pub mod run;
pub mod stop;
pub mod supervisor;
pub mod top;
pub mod trace;
pub mod waiting;
pub mod watchdog;
