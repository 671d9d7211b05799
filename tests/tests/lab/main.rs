//! Whole paths: pods, the NAT instance, tunnels and vendors in network namespaces.
//!
//! Every scenario runs under the watch of captures beside the vendors and the NAT instance; a packet with a
//! source that is not its egress address, or with a wrong checksum, fails the scenario.

#[macro_use]
mod setting;

mod after_translation;
mod answers;
mod captured;
mod chaos;
mod cli;
mod cloud;
mod config;
mod dashboard;
mod detach;
mod differential;
mod doctor;
mod doctor_mends;
mod errors;
mod explain;
mod flows;
mod fragments;
mod guard;
mod killed;
mod leaks;
mod migrate;
mod missing;
mod mtu;
mod natdiscovery;
mod pressure;
mod prometheus;
mod records;
mod recycling;
mod refusal;
mod reload;
mod restart;
mod rfc;
mod runbooks;
mod standin;
mod steps;
mod ten_thousand;
mod told;
mod top;
mod trace;
mod trace_shown;
mod tunnels;
