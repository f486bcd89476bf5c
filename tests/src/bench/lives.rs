//! From nothing to a container that runs, and back to nothing: a slice, the bare
//! minimum, and two programs that many nodes have.

use anyhow::Result;

use super::Measure;
use super::context::{Peers, milliseconds};
use super::sample::{Goal, Sample, measure};
use super::wire::run;
use super::{bare, context::LIVING};
use crate::image::DISTRIBUTION;

/// Interleaved repeats.
const REPEATS: usize = 5;

/// Measures all by turns.
///
/// # Errors
/// The node or the bare minimum fails; peers that are not there are left out.
pub fn measures(bench: &str, peers: &Peers) -> Result<Vec<Measure>> {
    let [mut ours, mut least, mut podman, mut nspawn] = [(); 4].map(|()| Sample::default());
    for _ in 0..REPEATS {
        ours.add(milliseconds(|| {
            run(&format!("slice start {LIVING}"))?;
            run(&format!("slice destroy --yes {LIVING}"))
        })?);
        least.add(milliseconds(bare::run)?);
        if peers.podman {
            podman.add(milliseconds(|| {
                run(&format!(
                    "podman run --rm --network=host --rootfs {DISTRIBUTION}:O true"
                ))
            })?);
        }
        if peers.nspawn {
            nspawn.add(milliseconds(|| {
                run(&format!(
                    "systemd-nspawn --quiet --console=pipe --volatile=overlay --directory={DISTRIBUTION} true"
                ))
            })?);
        }
    }
    let line = |peer, sample, goal| {
        measure(
            bench,
            "create, start, stop, remove".to_owned(),
            "ms",
            &ours,
            Some((peer, sample)),
            goal,
        )
    };
    Ok(vec![
        line("clone3 and overlay", &least, Goal::RatioAtMost(1.5)),
        line("podman run", &podman, Goal::RatioAtMost(0.2)),
        line("systemd-nspawn", &nspawn, Goal::RatioAtMost(0.2)),
    ])
}
