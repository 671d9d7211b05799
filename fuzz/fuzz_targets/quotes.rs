//! `cargo +nightly fuzz run --features libfuzzer quotes`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vpnat_fuzz::quotes(data));
