//! Who sent what to whom, kept: what the programs tallied goes into a database
//! every few seconds, generation by generation, each exactly once, whoever is
//! killed meanwhile.

mod history;

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

pub use history::History;

use crate::kernel::store::Store;
use crate::kernel::tallies::Tallies;
use crate::node::Record;
use crate::report::{Clock, Names};

/// Root's alone.
const DIRECTORY: &str = "/var/lib/slice/flows";

/// For how long, and how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Seconds; 0 where nothing is.
    pub seconds: u64,
    /// Bytes of the database.
    pub bytes: u64,
}

impl Default for Kept {
    /// As a policy that says nothing.
    fn default() -> Self {
        Self {
            seconds: 14 * 86_400,
            bytes: 256 << 20,
        }
    }
}

/// Takes what was tallied into the database; waits for another who does.
///
/// # Errors
/// The kernel refuses, or the database does: then what was tallied stays in the
/// kernel, and is taken the next time.
pub fn drain(store: &Store, record: &Record) -> anyhow::Result<()> {
    if !Path::new(DIRECTORY).exists() {
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(DIRECTORY)
            .with_context(|| format!("make {DIRECTORY}"))?;
    }
    let path = Path::new(DIRECTORY).join("lock");
    let lock = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("lock {}", path.display()))?;
    let mut history = History::open(&Path::new(DIRECTORY).join("flows.db"), record.flows.bytes)?;
    let tallies = Tallies::open(store)?;
    let node = record.identity();
    let current = tallies.current()?;
    if let Some(former) = current.checked_sub(1) {
        // One who was killed left it, before it was taken or after.
        if history.last(&node)?.is_none_or(|last| last < former) {
            tallies.settle()?;
            take(&mut history, &tallies, record, former)?;
        }
        tallies.remove(former)?;
    }
    let former = tallies.turn()?;
    take(&mut history, &tallies, record, former)?;
    tallies.remove(former)?;
    history.bound(record.flows)
}

fn take(
    history: &mut History,
    tallies: &Tallies,
    record: &Record,
    number: u64,
) -> anyhow::Result<()> {
    let tallied = tallies.read(number)?;
    let clock = Clock::now().context("read the clock")?;
    history.keep(&record.identity(), &clock, &names(record), &tallied)
}

/// The names of the owners there are now.
fn names(record: &Record) -> Names {
    let slices = record.slices.iter();
    Names::new(slices.map(|(name, slice)| (slice.id(), name.as_str())))
}

/// What is kept, to be asked; none where nothing ever was.
///
/// # Errors
/// The database cannot be read.
pub fn kept() -> anyhow::Result<Option<History>> {
    let path = Path::new(DIRECTORY).join("flows.db");
    match fs::exists(&path) {
        Ok(false) => Ok(None),
        _ => History::read(&path).map(Some),
    }
}
