//! The NAT itself, free of I/O.
//!
//! [`layout`] is what lies in the BPF maps, shared by the programs and the agent. Everything else is the
//! pure logic that the programs run on each packet: it sees packets through [`packet::Packet`] and maps
//! through [`engine::tables::Tables`], so that the host's tests run the very same code on byte slices and hash
//! maps of their own. Nothing here calls the kernel, allocates or panics.
#![no_std]
// BPF's atomic operations have no other way in.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(test)]
extern crate std;

pub mod account_ref;
pub mod addr;
pub mod atomic;
pub mod bounded;
pub mod checksum;
pub mod engine;
pub mod flow_ref;
pub mod held_ref;
pub mod ip_options;
pub mod layout;
pub mod opaque;
pub mod packet;
pub mod pool_ref;
pub mod ports;
pub mod recycling;
pub mod siphash;
pub mod tcp;
pub mod tcp_options;
pub mod trace;
