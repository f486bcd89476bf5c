//! Who changed which slice that it made, when, and from what to what: a line of JSON for each, for
//! root alone. A change whose first line cannot be written is not made.
//!
//! A change has two lines: `begin` before anything is touched, then `done` or `failed`; of one that was
//! interrupted whoever settles it writes the second. What is refused is no change and has none, so that
//! nobody pushes lines out by asking in vain.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use policy::config::Terms;
use serde::{Deserialize, Serialize};

/// Where it is; older ones have a number behind.
pub const PATH: &str = "/var/lib/slice/control.log";
/// Bytes of one file.
const MOST: u64 = 8 << 20;
/// Older files that are kept.
const OLDER: u32 = 3;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub time: Timestamp,
    /// Who: name and id.
    pub controller: (String, u32),
    /// What.
    pub act: Act,
    /// Which slice.
    pub slice: String,
    /// How far it is.
    pub stage: Stage,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What it was before; absent where there was none, or where that is not changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Terms>,
    /// What it is to be, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Terms>,
}

/// What is done to a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// It is made.
    Create,
    /// It is given other terms.
    Change,
    /// It goes, and all that it had.
    Destroy,
    /// Its context starts.
    Start,
    /// Its context ends.
    Stop,
    /// Both.
    Restart,
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It was admitted, and is about to be made.
    Begin,
    /// It was made.
    Done,
    /// It was not made, or not wholly.
    Failed,
}

/// Adds a line, on the disk when this returns.
///
/// # Errors
/// It cannot be written.
pub fn write(entry: &Entry) -> anyhow::Result<()> {
    write_to(Path::new(PATH), entry, MOST).with_context(|| format!("write {PATH}"))
}

fn write_to(path: &Path, entry: &Entry, most: u64) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)?;
    }
    // One at a time: files change their names.
    let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
    let _lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    let there = fs::metadata(path).map_or(0, |file| file.len());
    if there > 0 && there + line.len() as u64 > most {
        for number in (1..OLDER).rev() {
            let _ = fs::rename(older(path, number), older(path, number + 1));
        }
        fs::rename(path, older(path, 1))?;
    }
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(path)?;
    // What a power cut left of a line takes nothing of the next.
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(-1)).is_ok() {
        file.read_exact(&mut last)?;
    }
    if last != *b"\n" {
        line.insert(0, b'\n');
    }
    file.write_all(&line)?;
    file.sync_data()
}

fn older(path: &Path, number: u32) -> PathBuf {
    path.with_extension(format!("log.{number}"))
}

/// The last lines, the oldest first; one that is broken is passed over.
///
/// # Errors
/// A file cannot be read; none there is no error.
pub fn last(count: usize) -> anyhow::Result<Vec<Entry>> {
    last_of(Path::new(PATH), count).with_context(|| format!("read {PATH}"))
}

fn last_of(path: &Path, count: usize) -> io::Result<Vec<Entry>> {
    let mut entries = std::collections::VecDeque::new();
    each(path, OLDER, |entry| {
        entries.push_back(entry);
        if entries.len() > count {
            entries.pop_front();
        }
    })?;
    Ok(entries.into())
}

/// The changes that begin in the log and do not end there, the earliest first.
///
/// # Errors
/// As [`last`].
pub fn open() -> anyhow::Result<Vec<Entry>> {
    open_in(Path::new(PATH)).with_context(|| format!("read {PATH}"))
}

fn open_in(path: &Path) -> io::Result<Vec<Entry>> {
    let mut open: Vec<Entry> = Vec::new();
    // Whoever settles ends all that are open: none lies further back than one older file.
    each(path, 1, |entry| {
        let what = |entry: &Entry| (entry.controller.clone(), entry.act, entry.slice.clone());
        match entry.stage {
            Stage::Begin => open.push(entry),
            Stage::Done | Stage::Failed => {
                // The latest: of two that began alike the one before was interrupted.
                let its = open.iter().rposition(|begun| what(begun) == what(&entry));
                if let Some(its) = its {
                    open.remove(its);
                }
            }
        }
    })?;
    Ok(open)
}

/// The lines of so many older files and the last, the oldest first; one that is broken is passed over.
fn each(path: &Path, files: u32, mut take: impl FnMut(Entry)) -> io::Result<()> {
    let files = (1..=files).rev().map(|number| older(path, number));
    for path in files.chain([path.to_owned()]) {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        for line in BufReader::new(file).lines() {
            if let Ok(entry) = serde_json::from_str(&line?) {
                take(entry);
            }
        }
    }
    Ok(())
}

/// The lines of one change.
#[derive(Debug)]
pub struct Change {
    entry: Entry,
    begun: Cell<bool>,
}

impl Change {
    /// Nothing is written yet.
    #[must_use]
    pub fn of(
        who: (&str, u32),
        act: Act,
        slice: &str,
        (before, after): (Option<&Terms>, Option<&Terms>),
    ) -> Self {
        Self {
            entry: Entry {
                time: Timestamp::now(),
                controller: (who.0.to_owned(), who.1),
                act,
                slice: slice.to_owned(),
                stage: Stage::Begin,
                why: None,
                before: before.cloned(),
                after: after.cloned(),
            },
            begun: Cell::new(false),
        }
    }

    /// One that began, of which nobody is left to write how it ended.
    #[must_use]
    pub fn left(entry: Entry) -> Self {
        Self {
            entry,
            begun: Cell::new(true),
        }
    }

    /// Writes that it begins: else it may not be made.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(&self) -> anyhow::Result<()> {
        write(&self.entry)?;
        self.begun.set(true);
        Ok(())
    }

    /// Writes how it ended; where it failed, `undo` comes first.
    ///
    /// # Errors
    /// `result`'s own.
    pub fn end<T>(
        &self,
        result: anyhow::Result<T>,
        undo: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<T> {
        if !self.begun.get() {
            return result;
        }
        let result = result.map_err(|error| match undo() {
            Ok(()) => error,
            Err(left) => error.context(format!("it could not be undone: {left:#}")),
        });
        let Entry {
            controller: (who, _),
            act,
            slice,
            ..
        } = &self.entry;
        match &result {
            Ok(_) => tracing::info!("{who}: {act:?} {slice}"),
            Err(error) => tracing::warn!("{who}: {act:?} {slice} failed: {error:#}"),
        }
        let line = Entry {
            time: Timestamp::now(),
            stage: if result.is_ok() {
                Stage::Done
            } else {
                Stage::Failed
            },
            why: result.as_ref().err().map(|error| format!("{error:#}")),
            before: None,
            after: None,
            ..self.entry.clone()
        };
        // The change is made, and its first line is there.
        if let Err(error) = write(&line) {
            tracing::warn!("{error:#}");
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_log_of_changes_is_bounded_for_root_alone_and_read_back_in_order() {
        let directory = std::env::temp_dir().join(format!("slice-control-{}", std::process::id()));
        let path = directory.join("control.log");
        assert_eq!(last_of(&path, 5).unwrap(), []);
        let entry = |number: u32| Entry {
            time: Timestamp::UNIX_EPOCH,
            controller: ("ctl".into(), number),
            act: Act::Create,
            slice: "exp_a".into(),
            stage: Stage::Begin,
            why: None,
            before: None,
            after: Some(Terms::default()),
        };
        for number in 0..100 {
            write_to(&path, &entry(number), 2000).unwrap();
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let files: Vec<_> = fs::read_dir(&directory).unwrap().flatten().collect();
        assert_eq!(files.len(), 1 + OLDER as usize);
        for file in files {
            assert!(file.metadata().unwrap().len() <= 2000);
        }
        let numbers = |count| -> Vec<u32> {
            let entries = last_of(&path, count).unwrap();
            entries.iter().map(|entry| entry.controller.1).collect()
        };
        assert_eq!(numbers(3), [97, 98, 99]);
        // Half a line, as a power cut leaves it, hides nothing else.
        fs::write(older(&path, 3), "{\"time\":").unwrap();
        assert_eq!(numbers(3), [97, 98, 99]);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"time\":").unwrap();
        write_to(&path, &entry(100), u64::MAX).unwrap();
        assert_eq!(numbers(2), [99, 100]);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_change_is_open_until_its_end_is_written() {
        let directory = std::env::temp_dir().join(format!("slice-open-{}", std::process::id()));
        let path = directory.join("control.log");
        assert_eq!(open_in(&path).unwrap(), []);
        let line = |(act, slice, stage): (Act, &str, Stage)| Entry {
            time: Timestamp::UNIX_EPOCH,
            controller: ("ctl".into(), 7),
            act,
            slice: slice.into(),
            stage,
            why: None,
            before: None,
            after: None,
        };
        let write = |lines: &[(Act, &str, Stage)]| {
            for one in lines {
                write_to(&path, &line(*one), u64::MAX).unwrap();
            }
            let open = open_in(&path).unwrap().into_iter();
            open.map(|entry| (entry.act, entry.slice))
                .collect::<Vec<_>>()
        };
        use Stage::{Begin, Done, Failed};
        let open = |act, slice: &str| (act, slice.to_owned());
        let told = write(&[
            (Act::Create, "exp_a", Begin),
            (Act::Create, "exp_b", Begin),
            (Act::Create, "exp_a", Done),
            (Act::Start, "exp_a", Begin),
        ]);
        assert_eq!(
            told,
            [open(Act::Create, "exp_b"), open(Act::Start, "exp_a")]
        );
        // Begun once more and ended, it was interrupted before.
        let told = write(&[
            (Act::Create, "exp_b", Begin),
            (Act::Create, "exp_b", Failed),
            (Act::Start, "exp_a", Failed),
        ]);
        assert_eq!(told, [open(Act::Create, "exp_b")]);
        // Also in the file that was put aside since.
        fs::rename(&path, older(&path, 1)).unwrap();
        assert_eq!(write(&[(Act::Stop, "exp_b", Begin)]).len(), 2);
        assert_eq!(write(&[(Act::Create, "exp_b", Failed)]).len(), 1);
        fs::remove_dir_all(directory).unwrap();
    }
}
