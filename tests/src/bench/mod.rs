//! The benches: each measures, and prints one [`Measure`] per line.

mod measure; // the line that every bench prints

use std::process::ExitCode;

use anyhow::{Result, bail};

pub use measure::Measure;

/// A bench: what can be measured without a VM, and what inside one.
struct Bench {
    name: &'static str,
    native: fn() -> Result<Vec<Measure>>,
    in_vm: fn() -> Result<Vec<Measure>>,
}

/// All benches.
const BENCHES: &[Bench] = &[];

/// Runs the bench `name`, or all, and prints a line for each measure.
///
/// # Errors
/// There is no such bench, or it cannot go on; what it merely cannot measure
/// it says in a line.
pub fn run(name: Option<&str>, native: bool) -> Result<ExitCode> {
    let chosen: Vec<&Bench> = BENCHES
        .iter()
        .filter(|bench| name.is_none_or(|name| name == bench.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!(
            "no bench is called {}; there are: {}",
            name.unwrap_or("anything"),
            names.join(", ")
        );
    }
    for bench in chosen {
        let measures = if native {
            (bench.native)()?
        } else {
            (bench.in_vm)()?
        };
        for measure in measures {
            println!("{}", serde_json::to_string(&measure)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
