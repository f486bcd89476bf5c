//! What raw and packet sockets cost: the node, and those who measure with them.

use anyhow::Result;

use super::sample::unmeasured;
use super::{Measure, ports, probes, written};

/// The name of the bench.
pub const NAME: &str = "raw";

/// On this machine: the packet programs alone.
///
/// # Errors
/// They do not do what is meant.
pub fn native() -> Result<Vec<Measure>> {
    written::measures(NAME, &ports::object()?)
}

/// In the VM: the same program in a slice and as root of the node.
///
/// # Errors
/// None: what cannot be measured is said in a line.
pub fn in_vm() -> Result<Vec<Measure>> {
    Ok(probes::measures(NAME).unwrap_or_else(|error| {
        vec![unmeasured(
            NAME,
            "raw sockets in a slice",
            "",
            format!("{error:#}"),
        )]
    }))
}
