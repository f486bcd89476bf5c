//! What the node remembers of itself while it is up: `/run/slice/node.json`,
//! written whole or not at all, so that every command works with the daemon
//! dead; and the lock that lets one command at a time change the node.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use policy::ids::SliceId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::control::turn;
use super::snapshot;
use crate::cli::exit::{Exit, Failure};
use crate::context::account::{self, Login};
use crate::context::holder::Holder;
use crate::context::start::Recipe;
use crate::flows::Kept;

/// The directory of all run state.
pub const DIRECTORY: &str = "/run/slice";

const RECORD: &str = "/run/slice/node.json";
const LOCK: &str = "/run/slice/lock";

/// How long a command waits for another to finish.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// How far `up` has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `up` works, or died half-way.
    Starting,
    /// Everything is in force.
    Up,
}

/// A slice as it is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SliceRecord {
    /// Its id.
    pub id: u32,
    /// First of its user ids, which its processes start with.
    pub uid: u32,
}

impl SliceRecord {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> SliceId {
        SliceId(self.id)
    }
}

/// The node as it is in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// How far `up` has come.
    pub phase: Phase,
    /// Version of the program that wrote this.
    pub version: String,
    /// Which eBPF object is attached.
    pub object: u64,
    /// The boot this holds for (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// When the node came up, seconds since 1970.
    pub since: u64,
    /// Where the policy was read from.
    pub policy: PathBuf,
    /// Rows of the per-slice maps.
    pub rows: u32,
    /// The cgroup of everything.
    pub holder: Holder,
    /// `ip_local_reserved_ports` before `up`.
    pub reserved_ports_before: String,
    /// What we made of it.
    pub reserved_ports: String,
    /// Addresses of devices that are nobody's, as prefixes.
    pub exclude: Vec<String>,
    /// The links, by number.
    #[serde(default)]
    pub links: Vec<String>,
    /// What is kept of who sent what to whom.
    #[serde(default)]
    pub flows: Kept,
    /// Counts changes of policy: which one [`super::in_force`] has to tell.
    #[serde(default)]
    pub edition: u64,
    /// TCP port of the node's localhost with the status page.
    #[serde(default)]
    pub page: Option<u16>,
    /// The slices.
    pub slices: BTreeMap<String, SliceRecord>,
    /// How many user ids each has.
    pub uids_per_slice: u32,
    /// How those that have a context are started.
    pub contexts: BTreeMap<String, Recipe>,
    /// Who logs in to those that have an account.
    pub logins: BTreeMap<String, Login>,
    /// The slices that slices made, with the names of these.
    #[serde(default)]
    pub controllers: BTreeMap<String, String>,
    /// Of the owner's policy that is in force (`snapshot`).
    #[serde(default)]
    pub digest: u64,
}

impl Record {
    /// What tells the maps of this start of the node from those of any other.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{} {}", self.boot, self.since)
    }

    /// The accounts that there shall be: the id of each and who logs in.
    #[must_use]
    pub fn accounts(&self) -> BTreeMap<&str, (u32, &Login)> {
        self.logins
            .iter()
            .filter_map(|(name, login)| {
                let slice = self.slices.get(name)?;
                let uid = account::uid(slice.uid, self.uids_per_slice);
                Some((name.as_str(), (uid, login)))
            })
            .collect()
    }

    /// The record of this boot; of an earlier one nothing is in force.
    ///
    /// # Errors
    /// It is there and cannot be understood.
    pub fn load() -> anyhow::Result<Option<Self>> {
        let Some(record) = read_json::<Self>(Path::new(RECORD))? else {
            return Ok(None);
        };
        Ok((record.boot == boot()?).then_some(record))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self) -> anyhow::Result<()> {
        write_json(Path::new(RECORD), self)
    }

    /// Removes it.
    ///
    /// # Errors
    /// It cannot be removed; that it is not there is no error.
    pub fn remove() -> anyhow::Result<()> {
        super::in_force::remove()?;
        // What a command that was killed while it wrote left beside it.
        for path in [
            beside(Path::new(RECORD)),
            beside(Path::new(snapshot::PATH)),
            PathBuf::from(snapshot::PATH),
            PathBuf::from(turn::PATH),
            PathBuf::from(RECORD),
        ] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.with_context(|| format!("remove {}", path.display()))?,
            }
        }
        Ok(())
    }
}

/// This boot.
///
/// # Errors
/// /proc is not mounted.
pub fn boot() -> anyhow::Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(PATH)
        .with_context(|| format!("read {PATH}"))?
        .trim()
        .to_owned())
}

/// Held while the node is changed.
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
}

impl Lock {
    /// Waits for other commands to finish.
    ///
    /// # Errors
    /// One does not finish for a minute, or the directory cannot be made.
    pub fn take() -> anyhow::Result<Self> {
        let until = Instant::now() + LOCK_TIMEOUT;
        loop {
            make_directory(Path::new(DIRECTORY), 0o755)?;
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(LOCK)
                .with_context(|| format!("open {LOCK}"))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // `down` removes the file: a lock on one that is gone locks
                // nothing.
                Ok(file) if is_at(&file, LOCK) => return Ok(Self { file }),
                Ok(_) => {}
                Err((_, Errno::EWOULDBLOCK)) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Failure::new(
                        Exit::Busy,
                        format!("lock {LOCK}: another command changes the node"),
                    )
                    .remedy(format!("see which: fuser -v {LOCK}"))
                    .into());
                }
                Err((_, errno)) => return Err(errno).with_context(|| format!("lock {LOCK}")),
            }
        }
    }

    /// Removes the lock's file, and the directory where nothing else is in it.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(self) -> anyhow::Result<()> {
        fs::remove_file(LOCK).with_context(|| format!("remove {LOCK}"))?;
        // The daemon's sockets may be there still; they are its to remove.
        let _ = fs::remove_dir(DIRECTORY);
        drop(self.file);
        Ok(())
    }
}

/// Whether the open file is the one of this name.
fn is_at(file: &File, path: &str) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("make {}", path.display()))
}

/// A file's JSON; none where there is no file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    serde_json::from_str(&text)
        .map(Some)
        .with_context(|| format!("understand {}", path.display()))
}

/// Writes a file beside, then renames it into place.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    write_json_as(path, value, 0o644)
}

/// The same, with these permissions.
pub(super) fn write_json_as(path: &Path, value: &impl Serialize, mode: u32) -> anyhow::Result<()> {
    let beside = beside(path);
    let write = || -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        // Else a power cut may bring the former one back.
        path.parent()
            .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    if let Some(directory) = path.parent() {
        make_directory(directory, 0o755)?;
    }
    write()
        .with_context(|| format!("write {}", path.display()))
        .inspect_err(|_| {
            // Half a file, where the disk is full.
            let _ = fs::remove_file(&beside);
        })
}

/// Where a file is written before it takes its name.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_is_left_beside_it() {
        let directory = std::env::temp_dir().join(format!("slice-record-{}", std::process::id()));
        let path = directory.join("deep/ids.json");
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), None);
        write_json(&path, &[1, 2]).unwrap();
        write_json(&path, &[3]).unwrap();
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), Some(vec![3]));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::write(&path, "[3").unwrap();
        assert!(read_json::<Vec<u32>>(&path).is_err());
        fs::remove_dir_all(directory).unwrap();
    }
}
