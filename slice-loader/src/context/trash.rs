//! Directories that are to go: put out of the way in one step, then removed.
//!
//! What is removed was written by a slice's root, so nothing in it is followed:
//! neither symbolic links, nor a mount point, nor a name that changes its
//! meaning meanwhile. A directory that is not empty is moved up into the trash
//! before it is looked into. So each directory is opened by a single name, in
//! a place that only the node's root can change, and a tree as deep as the
//! file system allows needs no more descriptors or stack than a flat one.

use std::ffi::{CStr, CString};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::cli::exit::{Exit, Failure};

/// The trash of a directory, in which no other name begins with a dot.
const NAME: &str = ".trash";

/// Where directories go before they are gone. What a killed command left in it
/// goes with the next that empties it.
#[derive(Debug)]
pub struct Trash {
    path: PathBuf,
    at: OwnedFd,
}

impl Trash {
    /// The trash of `directory`; made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn of(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(NAME);
        // Without the project flag: into such a directory everything can be
        // moved, whatever project it belongs to.
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("make {}", path.display()));
            }
            _ => {}
        }
        let at = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            path,
            at: at.into(),
        })
    }

    /// Takes a directory or a file of the same file system out of its place.
    /// That it is not there is fine.
    ///
    /// # Errors
    /// It is a mount point, or of another file system.
    pub fn take(&self, path: &Path) -> anyhow::Result<()> {
        loop {
            match renameat2(
                AT_FDCWD,
                path,
                &self.at,
                fresh().as_c_str(),
                RenameFlags::RENAME_NOREPLACE,
            ) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(Errno::EEXIST) => {}
                Err(Errno::EBUSY) => bail!(mount_point(path)),
                Err(errno) => {
                    return Err(errno).with_context(|| {
                        format!("move {} to {}", path.display(), self.path.display())
                    });
                }
            }
        }
    }

    /// Removes everything in it.
    ///
    /// # Errors
    /// Something cannot be removed: a mount point is among it. All else that
    /// comes before it is gone.
    pub fn empty(&self) -> anyhow::Result<()> {
        while let Some(name) = self.first()? {
            self.remove(&name)
                .with_context(|| format!("remove what is in {}", self.path.display()))?;
        }
        Ok(())
    }

    /// The first name in the trash.
    fn first(&self) -> anyhow::Result<Option<CString>> {
        let mut entries = self
            .entries(&self.at)
            .with_context(|| format!("read {}", self.path.display()))?;
        for entry in entries.iter() {
            let entry = entry.with_context(|| format!("read {}", self.path.display()))?;
            if !is_dots(entry.file_name()) {
                return Ok(Some(entry.file_name().to_owned()));
            }
        }
        Ok(None)
    }

    fn entries(&self, directory: &OwnedFd) -> io::Result<Dir> {
        Ok(Dir::from_fd(directory.try_clone()?)?)
    }

    /// Removes one name of the trash.
    fn remove(&self, name: &CStr) -> anyhow::Result<()> {
        match unlinkat(&self.at, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_XDEV,
            );
        let directory = match openat2(&self.at, name, how) {
            Ok(directory) => directory,
            Err(Errno::EXDEV) => bail!(mount_point(&self.path_of(name))),
            // Another process empties it too.
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        // Reading on while names go is allowed to miss some.
        while self.clear(&directory)? > 0 {}
        match unlinkat(&self.at, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes every name out of a directory; how many there were.
    fn clear(&self, directory: &OwnedFd) -> anyhow::Result<u64> {
        let mut gone = 0;
        for entry in self.entries(directory)?.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            gone += 1;
            if entry.file_type() != Some(Type::Directory) {
                match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => continue,
                    // A file system that does not tell the kind.
                    Err(Errno::EISDIR) => {}
                    Err(Errno::EBUSY) => bail!(mount_point(&self.path_of(name))),
                    Err(errno) => return Err(errno.into()),
                }
            }
            match unlinkat(directory, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => self.take_up(directory, name)?,
                Err(Errno::EBUSY) => bail!(mount_point(&self.path_of(name))),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(gone)
    }

    fn take_up(&self, directory: &OwnedFd, name: &CStr) -> anyhow::Result<()> {
        loop {
            let no_replace = RenameFlags::RENAME_NOREPLACE;
            match renameat2(directory, name, &self.at, fresh().as_c_str(), no_replace) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(Errno::EEXIST) => {}
                Err(Errno::EBUSY) => bail!(mount_point(&self.path_of(name))),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn path_of(&self, name: &CStr) -> PathBuf {
        self.path.join("...").join(&*name.to_string_lossy())
    }
}

/// A name that was not there before.
fn fresh() -> CString {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    CString::new(format!("{}-{number}", std::process::id())).unwrap_or_default()
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn mount_point(path: &Path) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("remove {}: something is mounted there", path.display()),
    )
    .remedy("see which: findmnt; unmount it and try again")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn directory(test: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("slice-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_tree_is_removed_and_what_its_links_point_to_stays() {
        let directory = directory("trash-links");
        let (kept, tree) = (directory.join("kept"), directory.join("tree"));
        fs::create_dir_all(kept.join("deep")).unwrap();
        fs::write(kept.join("deep/file"), "x").unwrap();
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        symlink(&kept, tree.join("a/link")).unwrap();
        symlink("../kept", tree.join("link")).unwrap();
        let trash = Trash::of(&directory).unwrap();
        trash.take(&tree).unwrap();
        assert!(!tree.exists());
        trash.empty().unwrap();
        assert_eq!(fs::read_dir(directory.join(NAME)).unwrap().count(), 0);
        assert!(kept.join("deep/file").exists());
        // A link is taken, not what it points to.
        symlink(&kept, &tree).unwrap();
        trash.take(&tree).unwrap();
        trash.empty().unwrap();
        assert!(kept.join("deep/file").exists());
        trash.take(&tree).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_a_path_may_be_long_is_removed() {
        let directory = directory("trash-deep");
        // Each level of a name as long as names get: no path reaches the end.
        let name = "d".repeat(250);
        let mut at: OwnedFd = File::open(&directory).unwrap().into();
        let mode = nix::sys::stat::Mode::S_IRWXU;
        for level in 0..2000 {
            let name = if level == 0 { "tree" } else { &name };
            nix::sys::stat::mkdirat(&at, name, mode).unwrap();
            at = openat2(&at, name, OpenHow::new().flags(OFlag::O_DIRECTORY)).unwrap();
        }
        let trash = Trash::of(&directory).unwrap();
        trash.take(&directory.join("tree")).unwrap();
        trash.empty().unwrap();
        assert_eq!(fs::read_dir(directory.join(NAME)).unwrap().count(), 0);
        fs::remove_dir_all(directory).unwrap();
    }
}
