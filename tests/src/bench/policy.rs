//! The policy of a node that comes up for a bench.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Its directory.
pub const DIRECTORY: &str = "/run/slice-bench/policy";

/// Writes it: a small node with these slices, by name.
///
/// # Errors
/// A file cannot be written.
pub fn write(slices: &[(&str, &str)]) -> Result<()> {
    let directory = Path::new(DIRECTORY);
    let of_slices = directory.join("slices");
    fs::create_dir_all(&of_slices).with_context(|| format!("create {}", of_slices.display()))?;
    fs::write(directory.join("node.toml"), "[node]\nmax_slices = 16\n")?;
    for (name, text) in slices {
        fs::write(of_slices.join(format!("{name}.toml")), text)?;
    }
    Ok(())
}

/// Adds to what the node's file says.
///
/// # Errors
/// The file cannot be written.
pub fn add_to_node(text: &str) -> Result<()> {
    let path = Path::new(DIRECTORY).join("node.toml");
    let before = fs::read_to_string(&path)?;
    fs::write(&path, before + text).with_context(|| format!("write {}", path.display()))
}
