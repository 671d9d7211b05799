//! The engine on the host: the code that the BPF programs run, on byte slices and hash maps, with a clock, a
//! random source and routes that the tests decide.

mod frame;
mod holding;
mod identification;
mod life;
mod tables;
mod wire;

mod books;
mod checksums;
mod fuzz;
mod ports;
mod recycling;
mod round_trip;
mod tcp_table;
mod timers;
