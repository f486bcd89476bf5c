//! The policy that is in force as slices are told of it, `/run/slice/policy.json`: beside
//! the node's record, since only who asks for policy reads it. The record says which
//! edition holds, so that one that was left by a change that was interrupted is not told.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;

use super::record::{read_json, write_json};
use crate::report::policies::Policies;

/// Where it lies.
pub(super) const PATH: &str = "/run/slice/policy.json";

/// Writes it, whole or not at all.
pub(super) fn save(policies: &Policies) -> anyhow::Result<()> {
    write_json(Path::new(PATH), policies)
}

/// What was written last; none where there is nothing.
pub(super) fn load() -> anyhow::Result<Option<Policies>> {
    read_json(Path::new(PATH))
}

/// The same, if it is this edition.
///
/// # Errors
/// It cannot be read.
pub fn of_edition(edition: u64) -> anyhow::Result<Option<Policies>> {
    Ok(load()?.filter(|policies| policies.edition == edition))
}

/// Removes it; that it is not there is no error.
pub(super) fn remove() -> anyhow::Result<()> {
    for path in [PATH, "/run/slice/policy.json.new"] {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.with_context(|| format!("remove {path}"))?,
        }
    }
    Ok(())
}
