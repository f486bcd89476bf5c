//! The whole product against none of it: the same traffic in a slice of a node
//! that is up, and with the node down. The controllers of the slices' cgroups
//! are in this, not the programs alone.

use anyhow::{Context, Result};

use super::Measure;
use super::policy;
use super::sample::{Goal, Sample, measure};
use super::traffic::Kind;
use super::wire::{self, FAR, Wire};

/// Interleaved repeats.
const REPEATS: usize = 5;
/// Milliseconds of one.
const TIME_MS: u64 = 700;

struct Case {
    name: &'static str,
    unit: &'static str,
    kind: Kind,
    /// Over the wire, or inside the node.
    wire: bool,
}

const CASES: &[Case] = &[
    Case {
        name: "TCP stream over veth",
        unit: "Mbit/s",
        kind: Kind::Stream,
        wire: true,
    },
    Case {
        name: "TCP stream over loopback",
        unit: "Mbit/s",
        kind: Kind::Stream,
        wire: false,
    },
    Case {
        name: "TCP round trips over veth",
        unit: "1/s",
        kind: Kind::Turns,
        wire: true,
    },
    Case {
        name: "TCP round trips over loopback",
        unit: "1/s",
        kind: Kind::Turns,
        wire: false,
    },
];

/// Measures each case with the node up and down by turns.
///
/// # Errors
/// The node does not come up, or traffic is refused.
pub fn measures(bench: &str) -> Result<Vec<Measure>> {
    policy::write(
        "",
        &[("one", "ports.tcp = [80]\n"), ("two", "ports.tcp = [81]\n")],
    )?;
    let _wire = Wire::new()?;
    let mut bare = vec![Sample::default(); CASES.len()];
    let mut ours = vec![Sample::default(); CASES.len()];
    for repeat in 0..REPEATS {
        // Which comes first changes, so that a drift favours neither.
        for up in [repeat % 2 == 0, repeat % 2 == 1] {
            if up {
                wire::run(&format!("slice up --policy {}", policy::DIRECTORY))?;
            }
            let samples = if up { &mut ours } else { &mut bare };
            let result: Result<()> = CASES.iter().zip(samples).try_for_each(|(case, sample)| {
                sample.add(case.run(up).with_context(|| case.name)?);
                Ok(())
            });
            if up {
                wire::run("slice down")?;
            }
            result?;
        }
    }
    let lines = CASES
        .iter()
        .zip(ours.iter().zip(&bare))
        .map(|(case, (ours, bare))| {
            let peer = Some(("node down", bare));
            measure(
                bench,
                format!("{}, the whole node", case.name),
                case.unit,
                ours,
                peer,
                Goal::None,
            )
        });
    Ok(lines.collect())
}

impl Case {
    fn run(&self, in_slice: bool) -> Result<f64> {
        let program = std::env::current_exe()?;
        let inside = if in_slice { "slice run one -- " } else { "" };
        let server = if self.wire {
            format!("--server {FAR}")
        } else {
            String::new()
        };
        let number = wire::run(&format!(
            "{inside}{} traffic {} {server} --time {TIME_MS}",
            program.display(),
            self.kind.name()
        ))?;
        number
            .trim()
            .parse()
            .with_context(|| format!("read the number {number}"))
    }
}
