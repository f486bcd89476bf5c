//! Whatever an owner writes: no panic, and every error cites a place in the text.
#![no_main]

#[path = "../../tests/policy/judge.rs"]
mod judge;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/policy/node.rs"]
mod node;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| judge::judge(bytes));
