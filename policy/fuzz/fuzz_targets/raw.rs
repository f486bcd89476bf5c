//! Whatever a program sends: no panic, and another parser reads the same packet.
#![no_main]

#[path = "../../tests/raw/judge.rs"]
mod judge;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| judge::judge(bytes));
