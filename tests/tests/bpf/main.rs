//! Single packets through the real programs (BPF_PROG_TEST_RUN): input bytes, verdict, exact output bytes,
//! counters and flow entries.
//!
//! Each scenario is the life of a flow or a table of packets, and runs in every way in which a packet can
//! meet vpnat: at XDP and at TC, with and without Ethernet header, with two devices and with one. What a
//! packet must become is worked out by [`model`], from scratch and not with the product's own arithmetic.

mod case;
mod model;
mod plan;
mod raw_map;
mod seen;
mod world;

mod basics;
mod corrupt;
mod errors;
mod events;
mod explain;
mod found;
mod fragments;
mod fuzz;
mod headers;
mod identification;
mod policy;
mod ports;
mod refusal;
mod rfc;
mod routes;
mod speed;
mod spoiled;
mod tcp;
mod timers;
mod trace;
mod udp;
mod upkeep;
