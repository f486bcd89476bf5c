//! The cgroups of one slice: `NAME/{payload,login,broker}`, the last two once
//! there is something to put into them: ten thousand slices are many cgroups.
//!
//! Limits sit on `NAME`, whose files stay root's. The slice may subdivide
//! `payload`: it owns that directory and the three files that moving its own
//! processes about inside it needs, nothing above, so that no process can leave
//! (the kernel asks for write access to the nearest common ancestor's
//! `cgroup.procs`).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::holder::make_directory;

/// What of `payload` belongs to the slice.
const DELEGATED: [&str; 4] = [
    "",
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.subtree_control",
];

/// Most cgroups that a slice makes below `payload`: a cgroup costs kernel memory
/// that no limit of the slice covers. Bounded there, so that those for a login and
/// a broker can be made whatever the slice did.
const DESCENDANTS_MAX: u32 = 61;
/// Most levels below it.
const DEPTH_MAX: u32 = 8;

/// How long killed processes may take to be gone. One that hangs in the kernel
/// (a dead NFS server) takes for ever.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The cgroup of one slice.
#[derive(Clone, Debug)]
pub struct SliceCgroup {
    path: PathBuf,
}

impl SliceCgroup {
    /// The cgroup of this name below the slices' parent, made or not.
    #[must_use]
    pub fn of(slices: &Path, name: &str) -> Self {
        Self {
            path: slices.join(name),
        }
    }

    /// The parent of all slices, to be killed and removed as one.
    #[must_use]
    pub fn all(slices: &Path) -> Self {
        Self {
            path: slices.to_owned(),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it, empty, with its `payload`, which `uid` owns as far as it is
    /// delegated. What is there already is kept.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn make(&self, uid: u32) -> anyhow::Result<()> {
        make_directory(&self.path)?;
        self.write("cgroup.max.depth", &DEPTH_MAX.to_string())?;
        let payload = leaf(&self.path, "payload")?;
        let most = payload.join("cgroup.max.descendants");
        fs::write(&most, DESCENDANTS_MAX.to_string())
            .with_context(|| format!("write {DESCENDANTS_MAX} to {}", most.display()))?;
        for file in DELEGATED {
            let path = payload.join(file);
            chown(&path, Some(uid), Some(uid))
                .with_context(|| format!("give {} to uid {uid}", path.display()))?;
        }
        Ok(())
    }

    /// The kernel's id of it, by which programs know the slice.
    ///
    /// # Errors
    /// It is not there.
    pub fn id(&self) -> anyhow::Result<u64> {
        let metadata = fs::metadata(&self.path)
            .with_context(|| format!("find cgroup {}", self.path.display()))?;
        Ok(metadata.ino())
    }

    /// What a file of it says, without the newline.
    ///
    /// # Errors
    /// There is no such file.
    pub fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// Writes to a file of it.
    ///
    /// # Errors
    /// There is no such file (no such controller), or the kernel refuses the
    /// value.
    pub fn write(&self, file: &str, value: &str) -> anyhow::Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
    }

    /// Sends all processes in it SIGKILL, at once and for good: none can fork
    /// away. That it is not there is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn begin_kill(&self) -> anyhow::Result<()> {
        let kill = self.path.join("cgroup.kill");
        match fs::write(&kill, "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written.with_context(|| format!("write to {}", kill.display())),
        }
    }

    /// Whether it has processes, in whichever leaf. One that is not there has
    /// none.
    ///
    /// # Errors
    /// That cannot be read.
    pub fn populated(&self) -> anyhow::Result<bool> {
        if !self.path.exists() {
            return Ok(false);
        }
        let events = self.read("cgroup.events")?;
        Ok(events.lines().any(|line| line == "populated 1"))
    }

    /// Ends all processes of its payload; logins that wait go on.
    ///
    /// # Errors
    /// One of them does not end.
    pub fn end_payload(&self) -> anyhow::Result<()> {
        for leaf in ["payload", "broker"] {
            let path = self.path.join(leaf);
            Self { path }.kill()?;
        }
        Ok(())
    }

    /// Ends all processes in it and waits until they are gone.
    ///
    /// # Errors
    /// One of them does not end.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.begin_kill()?;
        let until = Instant::now() + KILL_TIMEOUT;
        while self.populated()? {
            if Instant::now() > until {
                bail!(
                    "end the processes in {}: some do not end; see its cgroup.procs",
                    self.path.display()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Ends its processes and removes it.
    ///
    /// # Errors
    /// One of them does not end.
    pub fn remove(&self) -> anyhow::Result<()> {
        self.kill()?;
        remove_tree(&self.path)
    }
}

/// The leaf of a slice's cgroup that has this name, made where it is not there.
///
/// # Errors
/// The slice has no cgroup, or the kernel refuses.
pub(super) fn leaf(slice: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = slice.join(name);
    make_directory(&path)?;
    Ok(path)
}

/// Removes a cgroup and all below it, none of which has processes. That it is
/// not there is fine.
pub(super) fn remove_tree(path: &Path) -> anyhow::Result<()> {
    // A process that was just reaped may keep the cgroup busy for a moment, and a
    // login that begins makes one in it.
    let until = Instant::now() + KILL_TIMEOUT;
    loop {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("read cgroup {}", path.display()));
            }
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("read cgroup {}", path.display()))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_tree(&entry.path())?;
            }
        }
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("remove cgroup {}", path.display()));
            }
        }
    }
}
