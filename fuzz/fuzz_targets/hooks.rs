//! `cargo +nightly fuzz run --features libfuzzer hooks`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vpnat_fuzz::hooks(data));
