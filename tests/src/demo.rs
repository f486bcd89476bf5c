//! The demonstration: prints a transcript of what a slice node does, and fails
//! where it does not do it.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Shows everything.
///
/// # Errors
/// Something did not come out as it was announced.
pub fn run() -> Result<ExitCode> {
    bail!("the demonstration is not written yet")
}
