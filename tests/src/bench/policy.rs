//! The policy of a node that comes up for a bench.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Its directory.
pub const DIRECTORY: &str = "/run/slice-bench/policy";

/// The least that a node has room for.
const FEW: usize = 16;

/// Writes it instead of what another bench had there: these slices, by name, on a node with
/// room for them of which this is said besides.
///
/// # Errors
/// A file cannot be written.
pub fn write(node: &str, slices: &[(&str, &str)]) -> Result<()> {
    let directory = Path::new(DIRECTORY);
    let of_slices = directory.join("slices");
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(&of_slices).with_context(|| format!("create {}", of_slices.display()))?;
    let most = slices.len().max(FEW);
    fs::write(
        directory.join("node.toml"),
        format!("[node]\nmax_slices = {most}\n{node}"),
    )?;
    for (name, text) in slices {
        fs::write(of_slices.join(format!("{name}.toml")), text)?;
    }
    Ok(())
}
