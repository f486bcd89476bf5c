//! What context tagging, port ownership and accounting cost.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::sample::{Goal, Sample, measure, unmeasured};
use super::{Measure, judges, packets, product};
use crate::verifier;

/// The name of the bench.
pub const NAME: &str = "ports";

/// On this machine: the packet programs alone.
pub fn native() -> Result<Vec<Measure>> {
    packets::measures(NAME, &object()?)
}

/// In the VM: the same traffic with and without us and against nftables, and
/// what the programs cost the kernel's verifier.
pub fn in_vm() -> Result<Vec<Measure>> {
    let mut lines = judges::measures(NAME, &object()?)
        .unwrap_or_else(|error| vec![failed("traffic under different judges", &error)]);
    lines.extend(
        product::measures(NAME)
            .unwrap_or_else(|error| vec![failed("traffic in a slice of a node", &error)]),
    );
    lines.extend(verified().unwrap_or_else(|error| vec![failed("the verifier's work", &error)]));
    Ok(lines)
}

/// Instructions that the verifier looked at, against those on record.
fn verified() -> Result<Vec<Measure>> {
    let recorded = verifier::recorded(&std::env::var("SLICE_VM_KERNEL")?)?;
    let lines = verifier::counts(&object()?)?
        .into_iter()
        .map(|(name, count)| {
            let sample = |count: Option<&u32>| {
                let mut sample = Sample::default();
                count
                    .into_iter()
                    .for_each(|count| sample.add(f64::from(*count)));
                sample
            };
            let (ours, recorded) = (sample(Some(&count)), sample(recorded.get(&name)));
            let peer = Some(("recorded", &recorded));
            measure(
                NAME,
                format!("verifier's work, {name}"),
                "instructions",
                &ours,
                peer,
                Goal::RatioAtMost(2.0),
            )
        });
    Ok(lines.collect())
}

fn failed(what: &str, error: &anyhow::Error) -> Measure {
    unmeasured(NAME, what, "", format!("{error:#}"))
}

/// The eBPF object: where `cargo xtask bench` says, or where it is in the VM.
pub fn object() -> Result<PathBuf> {
    let path = std::env::var_os("SLICE_EBPF_OBJECT")
        .map_or(PathBuf::from(verifier::OBJECT), PathBuf::from);
    ensure!(
        path.exists(),
        "find the eBPF object {}: name it in SLICE_EBPF_OBJECT (`cargo xtask bench` does)",
        path.display()
    );
    Ok(path)
}
