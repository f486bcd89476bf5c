//! The policy language and what becomes of it, as the node's owner meets it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

// What each test stands on.
mod node;

// Text -> Config: what is refused, in which words.
mod malformed;
mod permissions;

// Config -> Admitted: what does not fit, and by how much.
mod fit;

// Admitted -> Plan: golden files, and the way from one plan to the next.
mod examples;
mod plans;

// All of that for one subject: links, their floors, shares and caps.
mod links;

// The same for slices that slices make.
mod lending;

// Laws that hold for every input.
mod changes;
mod judge;
mod laws;
mod numbers;
mod refusals;
mod robust;

// docs/policy.md says what the code does.
mod manual;
