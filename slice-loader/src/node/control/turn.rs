//! One change of slices that slices make at a time, and the node's lock for half of the time at most: as
//! long as a change had it, others have it before the next.
//!
//! Changes are made by processes of their own, so the turn is a lock on a file, in which stands when the
//! next may begin.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};

use crate::node::NotUp;
use crate::node::record::{Lock, Phase, Record};
use crate::sys::clock;

/// The file, in the node's directory.
pub const PATH: &str = "/run/slice/control.turn";
/// The longest pause after a change.
const PAUSE: Duration = Duration::from_secs(5);

/// Its turn, with the node's lock.
pub struct Turn {
    lock: Option<Lock>,
    since: Instant,
    file: Flock<File>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.lock.take());
        let next = since_boot() + self.since.elapsed().min(PAUSE);
        // Who cannot read it waits for nothing.
        let _ = note(&mut self.file, next);
    }
}

fn since_boot() -> Duration {
    Duration::from_nanos(clock::boottime_ns().unwrap_or(0))
}

fn note(file: &mut File, next: Duration) -> std::io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    write!(file, "{}", next.as_millis())
}

/// How long to wait yet.
fn left(file: &mut File, now: Duration) -> Duration {
    let mut text = String::new();
    let next = file.read_to_string(&mut text).ok().and(text.parse().ok());
    let next = Duration::from_millis(next.unwrap_or(0));
    next.saturating_sub(now).min(PAUSE)
}

/// Waits for the turn, then for the lock; with the record of a node that is up.
pub fn begin() -> anyhow::Result<(Turn, Record)> {
    begin_at(Path::new(PATH))
}

fn begin_at(path: &Path) -> anyhow::Result<(Turn, Record)> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    let mut file = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("lock {}", path.display()))?;
    sleep(left(&mut file, since_boot()));
    let lock = Lock::take()?;
    match Record::load()?.filter(|record| record.phase == Phase::Up) {
        Some(record) => {
            let turn = Turn {
                lock: Some(lock),
                since: Instant::now(),
                file,
            };
            Ok((turn, record))
        }
        None => {
            let _ = std::fs::remove_file(path);
            lock.remove()?;
            Err(NotUp.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_waits_as_long_as_was_noted_and_no_longer_than_is_bearable() {
        let path = std::env::temp_dir().join(format!("slice-turn-{}", std::process::id()));
        let open = || {
            let mut options = OpenOptions::new();
            let options = options.create(true).truncate(false).read(true).write(true);
            options.open(&path).unwrap()
        };
        let now = Duration::from_secs(1000);
        assert_eq!(left(&mut open(), now), Duration::ZERO);
        for (noted, waits) in [(998, 0), (1000, 0), (1003, 3), (9000, 5)] {
            note(&mut open(), Duration::from_secs(noted)).unwrap();
            assert_eq!(left(&mut open(), now), Duration::from_secs(waits));
        }
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(left(&mut open(), now), Duration::ZERO);
        std::fs::remove_file(path).unwrap();
    }
}
