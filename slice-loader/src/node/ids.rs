//! Which slice has which id: `policy::ledger`, kept in a file that outlives
//! `slice down` and restarts of the machine.

use std::path::Path;

use policy::ledger::Ledger;

use super::record::{read_json, write_json};

/// Where the ids are kept.
const PATH: &str = "/var/lib/slice/ids.json";

/// Reads the file; none yet is no ids.
///
/// # Errors
/// It is there and cannot be understood: guessing would give an id twice.
pub fn load() -> anyhow::Result<Ledger> {
    Ok(read_json(Path::new(PATH))?.unwrap_or_default())
}

/// Writes the file, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn save(ledger: &Ledger) -> anyhow::Result<()> {
    write_json(Path::new(PATH), ledger)
}
