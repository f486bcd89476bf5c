//! What programs write themselves, as another parser reads it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

// Both parsers over the same octets.
mod judge;

// Packets that the other parser's library wrote, and what becomes of them.
mod agreement;

// The fuzz target's corpus.
#[path = "../policy/numbers.rs"]
mod numbers;
mod robust;
