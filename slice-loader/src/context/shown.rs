//! What of the node a slice sees as its `/run/slice`: a directory of the
//! node's for each slice that has a context, shown there and nowhere else. The
//! slice cannot write it, so what the node puts into it later appears in
//! contexts that run.
//!
//! ```text
//!  resolv.conf   name servers of the node, as they were at the start
//!  net/          a place for the views of sockets (`proc_net`)
//!  status.sock   the status hooks: made by the daemon (`status::sockets`)
//! ```

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::sys;

/// Where the directories of all slices are, for the node's root alone: who
/// could reach a slice's socket would be taken for the slice.
pub const DIRECTORY: &str = "/run/slice/shown";

/// The directory of one slice.
#[derive(Clone, Debug)]
pub struct Shown {
    directory: PathBuf,
}

impl Shown {
    /// Of the slice of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self {
            directory: Path::new(DIRECTORY).join(name),
        }
    }

    /// Its path on the node.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes it with these name servers; what is there already stays.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(&self, resolver: &[u8]) -> anyhow::Result<()> {
        make_top()?;
        let file = self.directory.join("resolv.conf");
        for directory in [&self.directory, &self.directory.join("net")] {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => fs::set_permissions(directory, Permissions::from_mode(0o755)),
            }
            .with_context(|| format!("make {}", directory.display()))?;
        }
        fs::write(&file, resolver)
            .and_then(|()| fs::set_permissions(&file, Permissions::from_mode(0o644)))
            .with_context(|| format!("write {}", file.display()))
    }

    /// A mount of it that is mounted nowhere yet: read-only, nothing in it is a
    /// program or a device.
    ///
    /// # Errors
    /// It was not made.
    pub fn open(&self) -> anyhow::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, &self.directory, flags)
            .with_context(|| format!("open {}", self.directory.display()))?;
        sys::mount::only_show(mount.as_fd())
            .with_context(|| format!("show {} read-only", self.directory.display()))?;
        Ok(mount)
    }

    /// Removes it. A context that still runs sees an empty directory.
    ///
    /// # Errors
    /// Something cannot be removed; that nothing is there is no error.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.directory)
    }
}

/// Makes the directory that has those of all slices.
///
/// # Errors
/// It cannot be made.
pub fn make_top() -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(DIRECTORY)
        .with_context(|| format!("make {DIRECTORY}"))
}

/// Removes those of all slices; no context runs.
///
/// # Errors
/// As [`Shown::remove`].
pub fn remove_all() -> io::Result<()> {
    remove(Path::new(DIRECTORY))
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
