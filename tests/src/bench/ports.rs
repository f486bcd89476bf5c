//! What context tagging, port ownership and accounting cost.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Measure, packets};

/// The name of the bench.
pub const NAME: &str = "ports";

/// On this machine: the packet programs alone.
pub fn native() -> Result<Vec<Measure>> {
    let object = std::env::var_os("SLICE_EBPF_OBJECT")
        .map(PathBuf::from)
        .context("find the eBPF object: SLICE_EBPF_OBJECT is not set (`cargo xtask bench` sets it)")?;
    packets::measures(NAME, &object)
}

/// In the VM.
pub fn in_vm() -> Result<Vec<Measure>> {
    Ok(Vec::new())
}
