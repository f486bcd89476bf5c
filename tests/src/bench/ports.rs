//! What context tagging, port ownership and accounting cost.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::sample::unmeasured;
use super::{Measure, judges, packets, product};

/// The name of the bench.
pub const NAME: &str = "ports";

/// Where the VM has the eBPF object.
const IN_VM: &str = "/opt/slice/slice-ebpf.o";

/// On this machine: the packet programs alone.
pub fn native() -> Result<Vec<Measure>> {
    packets::measures(NAME, &object()?)
}

/// In the VM: the product against none, and against nftables.
pub fn in_vm() -> Result<Vec<Measure>> {
    let mut lines = judges::measures(NAME, &object()?)
        .unwrap_or_else(|error| vec![failed("traffic under different judges", &error)]);
    lines.extend(
        product::measures(NAME)
            .unwrap_or_else(|error| vec![failed("traffic in a slice of a node", &error)]),
    );
    Ok(lines)
}

fn failed(what: &str, error: &anyhow::Error) -> Measure {
    unmeasured(NAME, what, "", format!("{error:#}"))
}

/// The eBPF object: where `cargo xtask bench` says, or where it is in the VM.
fn object() -> Result<PathBuf> {
    let path = std::env::var_os("SLICE_EBPF_OBJECT").map_or(PathBuf::from(IN_VM), PathBuf::from);
    ensure!(
        path.exists(),
        "find the eBPF object {}: name it in SLICE_EBPF_OBJECT (`cargo xtask bench` does)",
        path.display()
    );
    Ok(path)
}
