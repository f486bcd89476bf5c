//! The writable layer of a slice: everything it has that its image has not.
//!
//! ```text
//! /var/lib/slice/slices/           0700: nobody on the node reaches the setuid
//!   alpha/                         files that a slice makes
//!     upper/                       what the slice wrote; belongs to its first uid
//!     work/                        overlayfs's own
//! ```
//! From `alpha` down everything belongs to one project of the file system, and
//! what is made there does too: files can neither be moved nor linked into
//! another slice's account.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use policy::SliceId;
use policy::compile::DiskLimits;

use super::disk::{Disk, SLICES, Usage};
use super::trash::Trash;
use crate::cli::exit::{Exit, Failure};
use crate::sys::quota;

/// A slice's layer, made or not.
#[derive(Clone, Debug)]
pub struct Layer {
    slices: PathBuf,
    name: String,
}

impl Layer {
    /// The layer of the slice of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self {
            slices: SLICES.into(),
            name: name.to_owned(),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.slices.join(&self.name)
    }

    /// What the slice wrote: overlayfs's `upperdir`.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.path().join("upper")
    }

    /// overlayfs's `workdir`.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.path().join("work")
    }

    /// Whether it was made.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().is_dir()
    }

    /// Makes it, empty; whole or not at all. One that is there already, of the
    /// same slice, is kept with all that is in it.
    ///
    /// `uid` is the slice's first user. The file system's project is the
    /// slice's id; its bounds are those that `slice up` and `slice reload` set,
    /// or `limits`.
    ///
    /// # Errors
    /// It is there and belongs to another slice; or its files could not be
    /// bounded as they should be.
    pub fn make(&self, uid: u32, id: SliceId, limits: Option<DiskLimits>) -> anyhow::Result<()> {
        make_closed(&self.slices)?;
        let disk = Disk::that_holds(&self.slices)?;
        if let Some(limits) = limits {
            disk.set_limits(id, limits)?;
        }
        let accounts = disk.accounts();
        let path = self.path();
        if path.is_dir() {
            return self.check(id, accounts);
        }
        let trash = Trash::of(&self.slices)?;
        // Names of slices have no dots.
        let new = self.slices.join(format!(".new-{}", self.name));
        trash.take(&new)?;
        trash.empty()?;
        if accounts {
            refuse_used(&disk, id)?;
        }
        make_closed(&new)?;
        if accounts {
            // Before anything is in it: what is made in it belongs to it.
            let directory = open(&new)?;
            quota::set_project_of(&directory, id.0, true)
                .with_context(|| format!("give {} to project {}", new.display(), id.0))?;
        }
        for directory in ["upper", "work"] {
            let directory = new.join(directory);
            DirBuilder::new()
                .create(&directory)
                .with_context(|| format!("make {}", directory.display()))?;
            // Not left to the caller's umask.
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("make {}", directory.display()))?;
            chown(&directory, Some(uid), Some(uid))
                .with_context(|| format!("give {} to uid {uid}", directory.display()))?;
        }
        fs::rename(&new, &path).with_context(|| format!("make {}", path.display()))
    }

    /// Whether the layer that is there is this slice's.
    fn check(&self, id: SliceId, accounts: bool) -> anyhow::Result<()> {
        let path = self.path();
        let owner = self.owner()?;
        if owner == Some(id) || owner.is_none() && !accounts {
            return Ok(());
        }
        let shown = path.display();
        let failure = match owner {
            // Made while nothing was counted.
            None => Failure::new(
                Exit::Failed,
                format!("bound what is in {shown}: it was made before its file system could"),
            )
            .remedy(format!("chattr -R +P -p {} {shown}", id.0)),
            Some(other) => Failure::new(
                Exit::Failed,
                format!(
                    "use {shown}: it holds the files of an earlier slice {} (id {}), not of the one with id {}",
                    self.name, other.0, id.0
                ),
            )
            .remedy(format!("move it away, or remove it: rm -r --one-file-system {shown}")),
        };
        Err(failure.into())
    }

    /// The slice whose files are counted here; `None` where nobody counts.
    ///
    /// # Errors
    /// It is not there.
    pub fn owner(&self) -> anyhow::Result<Option<SliceId>> {
        let directory = open(&self.path())?;
        match quota::project_of(&directory) {
            Ok((0, _) | (_, false)) => Ok(None),
            Ok((project, true)) => Ok(Some(SliceId(project))),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)) => {
                Ok(None)
            }
            Err(error) => Err(error)
                .with_context(|| format!("ask for the project of {}", self.path().display())),
        }
    }

    /// What it holds, and may hold; `None` where there is no layer or the file
    /// system does not count.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn usage(&self) -> anyhow::Result<Option<Usage>> {
        if !self.exists() {
            return Ok(None);
        }
        let disk = Disk::that_holds(&self.path())?;
        match self.owner()? {
            Some(owner) if disk.accounts() => disk.usage(owner).map(Some),
            _ => Ok(None),
        }
    }

    /// Bounds what it may hold.
    ///
    /// # Errors
    /// It is not there, or its file system keeps no bounds.
    pub fn set_limits(&self, limits: DiskLimits) -> anyhow::Result<()> {
        let disk = Disk::that_holds(&self.path())?;
        match self.owner()? {
            Some(owner) => disk.set_limits(owner, limits),
            None if limits.is_none() => Ok(()),
            None => bail!("bound {}: it belongs to no project", self.path().display()),
        }
    }

    /// Removes it with all that is in it. Nothing of it is mounted any more. That
    /// it is not there is fine. Its bounds stay: they are the policy's, and hold
    /// for the layer that may come after it.
    ///
    /// # Errors
    /// Something is mounted in it, or the file system fails: what is left is
    /// out of the way and goes with the next layer that is removed or made.
    pub fn remove(&self) -> anyhow::Result<()> {
        self.set_aside()?;
        self.clear_away()
    }

    /// Takes it out of the way with all that is in it, in one step, whatever that is.
    ///
    /// # Errors
    /// It is a mount point, or the file system fails.
    pub fn set_aside(&self) -> anyhow::Result<()> {
        if !self.slices.is_dir() {
            return Ok(());
        }
        Trash::of(&self.slices)?.take(&self.path())
    }

    /// Removes what is out of the way, which takes as long as there are names in it.
    ///
    /// # Errors
    /// As of [`Layer::remove`].
    pub fn clear_away(&self) -> anyhow::Result<()> {
        if !self.slices.is_dir() {
            return Ok(());
        }
        Trash::of(&self.slices)?
            .empty()
            .with_context(|| format!("remove the files of slice {}", self.name))
    }

    /// The names of all layers there are.
    ///
    /// # Errors
    /// Their directory cannot be read.
    pub fn all() -> anyhow::Result<Vec<String>> {
        let entries = match fs::read_dir(SLICES) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("read {SLICES}")),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.with_context(|| format!("read {SLICES}"))?.file_name();
            names.extend(
                name.to_str()
                    .filter(|n| !n.starts_with('.'))
                    .map(str::to_owned),
            );
        }
        names.sort();
        Ok(names)
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("open {}", path.display()))
}

/// Somebody else's files under the slice's number would be counted as its own.
fn refuse_used(disk: &Disk, id: SliceId) -> anyhow::Result<()> {
    let usage = disk.usage(id)?;
    if usage.inodes.usage == 0 && usage.bytes.usage == 0 {
        return Ok(());
    }
    let message = format!(
        "count the files of the slice with id {0}: project {0} of the file system is in use by others",
        id.0
    );
    Err(Failure::new(Exit::Failed, message)
        .remedy("give those files another project (see /etc/projects), or mount a file system of its own at /var/lib/slice")
        .into())
}

/// Makes a directory that nobody but root may enter.
fn make_closed(path: &Path) -> anyhow::Result<()> {
    let mut made = DirBuilder::new();
    match made.mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(above) = path.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .create(above)
                    .with_context(|| format!("make {}", above.display()))?;
            }
            made.create(path)
        }
        Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => Ok(()),
        made => made,
    }
    .with_context(|| format!("make {}", path.display()))
}
