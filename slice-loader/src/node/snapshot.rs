//! The owner's policy as it is in force: its texts, as they were when `slice up` or `slice reload`
//! took them. Slices that make slices change the node on this ground, not on files that the owner
//! may be editing.
//!
//! The record has a digest of it, so that one is not taken for it that a command left that was killed.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;

use policy::config::{Config, Sources, parse};

use super::record::{Record, read_json, write_json_as};
use crate::cli::exit::{Exit, Failure};

/// Where it is, for root alone.
pub const PATH: &str = "/run/slice/policy-files.json";

/// Paths, as the owner named them, and texts.
type Texts = Vec<(String, String)>;

/// Keeps these texts; their digest.
///
/// # Errors
/// It cannot be written.
pub fn save(sources: &Sources) -> anyhow::Result<u64> {
    let texts = sources.iter().map(|(_, source)| {
        let path = source.path.to_string_lossy().into_owned();
        (path, source.text.clone())
    });
    let texts: Texts = texts.collect();
    write_json_as(Path::new(PATH), &texts, 0o600)?;
    Ok(digest(&texts))
}

/// The policy that is in force.
///
/// # Errors
/// It is not there, or another.
pub fn load(record: &Record) -> anyhow::Result<Config> {
    let texts = read_json::<Texts>(Path::new(PATH))?.unwrap_or_default();
    if digest(&texts) != record.digest {
        let message = "change the node: the policy that is in force was not kept whole";
        return Err(Failure::new(Exit::Failed, message)
            .remedy("slice reload")
            .into());
    }
    let mut sources = Sources::default();
    for (path, text) in texts {
        sources.add(path, text);
    }
    // That no account has one of the names was seen when it was put in force.
    Ok(parse(sources, &|_| false)?)
}

/// What is there, to be put back.
#[must_use]
pub fn raw() -> Option<Vec<u8>> {
    std::fs::read(PATH).ok()
}

/// Puts back what was there.
///
/// # Errors
/// It cannot be written.
pub fn put_back(raw: Option<Vec<u8>>) -> anyhow::Result<()> {
    let Some(raw) = raw else {
        return Ok(());
    };
    let texts: Texts = serde_json::from_slice(&raw)?;
    write_json_as(Path::new(PATH), &texts, 0o600)
}

fn digest(texts: &Texts) -> u64 {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    hasher.finish()
}
