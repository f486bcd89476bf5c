//! Who sent what to whom, kept: what the programs tallied goes into a database
//! every few seconds, generation by generation, each exactly once, whoever is
//! killed meanwhile.

mod history;
mod walk;

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

pub use history::History;
pub use walk::{Looking, Position, Row, Whose};

use crate::kernel::store::Store;
use crate::kernel::tallies::Tallies;
use crate::node::Record;
use crate::report::{Clock, Names};

/// Root's alone.
const DIRECTORY: &str = "/var/lib/slice/flows";

/// How long one waits for another's drain.
const PATIENCE: Duration = Duration::from_secs(20);

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
    let _lock = lock(&Path::new(DIRECTORY).join("lock"))?;
    let path = database();
    let drained = drain_into(&path, store, record);
    match drained {
        Err(error) if history::failed_by_damage(&error) => {
            history::put_aside(&path)?;
            drain_into(&path, store, record)
        }
        drained => drained,
    }
}

/// Keeps others out, who wait for each other so long at most: `slice down` must not
/// wait for a disk that hangs.
fn lock(path: &Path) -> anyhow::Result<Flock<File>> {
    let mut file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    let until = Instant::now() + PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK)) if Instant::now() < until => file = again,
            Err((_, errno)) => {
                return Err(errno).with_context(|| format!("lock {}", path.display()));
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn drain_into(path: &Path, store: &Store, record: &Record) -> anyhow::Result<()> {
    let mut history = History::open(path, record.flows.bytes)?;
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
    // Nothing is written for nothing: who was not told of it takes it again.
    if tallied.is_empty() {
        return Ok(());
    }
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
    kept_at(&database())
}

/// The same of a database that lies elsewhere.
///
/// # Errors
/// As above.
pub fn kept_at(path: &Path) -> anyhow::Result<Option<History>> {
    match fs::exists(path) {
        Ok(false) => Ok(None),
        _ => History::read(path).map(Some),
    }
}

/// Where the database lies.
#[must_use]
pub fn database() -> PathBuf {
    Path::new(DIRECTORY).join("flows.db")
}
