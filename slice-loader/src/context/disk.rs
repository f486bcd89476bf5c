//! The file system that slices' files lie on, and what it lets each have.
//!
//! Bounds are project quotas: a slice's files are the project whose number is
//! the slice's id. So what `repquota -P` shows under a number is what the slice
//! with that id has, and a slice that comes later never inherits a former
//! one's account.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::statvfs::fstatvfs;
use policy::SliceId;
use policy::admission::{Disk as Fact, Unbounded};
use policy::compile::DiskLimits;
use policy::config::units::Bytes;

use crate::report::Used;
use crate::sys::quota;

/// Where slices' files are, each slice's in a directory of its name.
pub const SLICES: &str = "/var/lib/slice/slices";

/// What is told of every file system that must be another.
const OWN: &str = "or mount a file system of its own at /var/lib/slice: see docs/disk.md";

/// The file system that slices' files lie on.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    at: OwnedFd,
}

/// What a slice has on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Bytes, in whole blocks.
    pub bytes: Used,
    /// Files, directories and links.
    pub inodes: Used,
}

impl Disk {
    /// Opens it; any user may. Before the first slice has files it is the one
    /// on which they will lie.
    ///
    /// # Errors
    /// Not even / can be opened.
    pub fn open() -> anyhow::Result<Self> {
        Self::that_holds(Path::new(SLICES))
    }

    /// The file system that holds `path`, or would if it were made.
    ///
    /// # Errors
    /// Not even / can be opened.
    pub fn that_holds(path: &Path) -> anyhow::Result<Self> {
        for path in path.ancestors() {
            // A handle is enough to ask, and needs no right to look inside.
            let opened = File::options()
                .read(true)
                .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
                .open(path);
            match opened {
                Ok(at) => {
                    return Ok(Self {
                        path: path.to_owned(),
                        at: at.into(),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("open {}", path.display()));
                }
            }
        }
        anyhow::bail!("open {}: there is no such directory", path.display())
    }

    /// What admission asks for.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn fact(&self) -> anyhow::Result<Fact> {
        let room = fstatvfs(&self.at)
            .with_context(|| format!("ask for the size of {}", self.path.display()))?;
        Ok(Fact {
            size: Bytes(room.blocks().saturating_mul(room.fragment_size())),
            inodes: match room.files() {
                // A file system that has no such number.
                0 => u64::MAX,
                files => files,
            },
            unbounded: self.unbounded(),
        })
    }

    /// Whether the file system counts what projects have.
    #[must_use]
    pub fn accounts(&self) -> bool {
        quota::state(&self.at).is_ok_and(|state| state.accounted)
    }

    /// Why it cannot bound slices; `None` where it can.
    #[must_use]
    pub fn unbounded(&self) -> Option<Unbounded> {
        // EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC.
        const EXT4: FsType = FsType(0xef53);
        const XFS: FsType = FsType(0x5846_5342);
        let state = quota::state(&self.at).ok();
        if state.is_some_and(|state| state.accounted && state.enforced) {
            return None;
        }
        let (point, path) = (self.mount_point(), self.path.display());
        let (why, remedy) = match fstatfs(&self.at).map(|about| about.filesystem_type()) {
            Ok(EXT4) if state.is_some_and(|state| state.accounted) => (
                format!("ext4 counts what projects have in {path}, but does not bound them"),
                format!(
                    "quotaon -P {point}; and for the next boot: add prjquota to its options in /etc/fstab"
                ),
            ),
            Ok(EXT4) => (
                format!("ext4 has no project quotas on in {path}"),
                format!(
                    "unmount {point}, run `tune2fs -O project,quota -Q prjquota` on its device, mount it with -o prjquota; {OWN}"
                ),
            ),
            Ok(XFS) => (
                format!("xfs was not mounted with project quotas in {path}"),
                format!(
                    "unmount {point} and mount it with -o prjquota (the root: boot with rootflags=prjquota); {OWN}"
                ),
            ),
            _ => (
                format!("{path} is neither on ext4 nor on xfs, which have project quotas"),
                format!("make {} {OWN}", "an ext4 or xfs with project quotas,"),
            ),
        };
        Some(Unbounded { why, remedy })
    }

    /// The highest directory above that is of the same file system.
    fn mount_point(&self) -> String {
        let device = |path: &Path| std::fs::metadata(path).map(|looked| looked.dev()).ok();
        let here = device(&self.path);
        let same = self
            .path
            .ancestors()
            .take_while(|path| device(path) == here);
        same.last().unwrap_or(&self.path).display().to_string()
    }

    /// What a slice has on it, and may have.
    ///
    /// # Errors
    /// It does not count what projects have.
    pub fn usage(&self, id: SliceId) -> anyhow::Result<Usage> {
        let project = quota::project(&self.at, id.0)
            .with_context(|| format!("ask what project {} has in {}", id.0, self.path.display()))?;
        let used = |usage, limit: u64| Used {
            usage,
            limit: (limit != 0).then_some(limit),
        };
        Ok(Usage {
            bytes: used(project.bytes, project.bytes_limit),
            inodes: used(project.inodes, project.inodes_limit),
        })
    }

    /// The bounds of a slice; none where the file system keeps none.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn limits(&self, id: SliceId) -> anyhow::Result<DiskLimits> {
        if !self.accounts() {
            return Ok(DiskLimits::default());
        }
        let Usage { bytes, inodes } = self.usage(id)?;
        Ok(DiskLimits {
            bytes: bytes.limit.unwrap_or(0),
            inodes: inodes.limit.unwrap_or(0),
        })
    }

    /// Bounds a slice. What it has already stays, more than it may have
    /// included.
    ///
    /// # Errors
    /// The file system keeps no bounds, or the caller is not root.
    pub fn set_limits(&self, id: SliceId, limits: DiskLimits) -> anyhow::Result<()> {
        if limits.is_none() && !self.accounts() {
            return Ok(());
        }
        quota::set_limits(&self.at, id.0, limits.bytes, limits.inodes)
            .with_context(|| format!("bound project {} in {}", id.0, self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_projects_is_told_with_a_remedy() {
        let disk = Disk::that_holds(Path::new("/proc/self/none/such")).unwrap();
        let unbounded = disk.unbounded().unwrap();
        assert!(
            unbounded.why.contains("neither on ext4 nor on xfs"),
            "{unbounded:?}"
        );
        assert!(unbounded.remedy.contains("docs/disk.md"), "{unbounded:?}");
        assert!(!disk.accounts());
        let id = SliceId(7);
        assert!(disk.limits(id).unwrap().is_none());
        disk.set_limits(id, DiskLimits::default()).unwrap();
        let bound = DiskLimits {
            bytes: 1 << 20,
            inodes: 0,
        };
        assert!(disk.set_limits(id, bound).is_err());
    }

    #[test]
    fn the_size_of_a_file_system_is_known_before_anything_is_made_on_it() {
        let path = std::env::temp_dir().join("not/yet/there");
        let fact = Disk::that_holds(&path).unwrap().fact().unwrap();
        assert!(fact.size.0 > 1 << 20 && fact.inodes > 100, "{fact:?}");
    }
}
