//! The slice's `/proc/net`: the network is the node's, its list of sockets is
//! not. Files that list everybody's sockets are closed to slices; here each
//! has a namesake that shows the slice's own, and all other files of the
//! kernel's stay where they are.
//!
//! `/proc/net` is a symbolic link of the kernel's. A link of ours is mounted
//! over it, which the slice cannot take away, to a directory that the slice
//! cannot write.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use rustix::fs::{CWD, Mode, OFlags, openat, symlinkat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::root::{QUIET, new};
use crate::kernel::views::{EMPTY, FILES};

/// Where the directory is, inside.
const DIRECTORY: &str = "/run/slice/net";
/// The link, in the directory itself.
const LINK: &str = ".net";
/// The kernel's files, whichever process asks.
const KERNELS: &str = "/proc/self/net";

/// The views, opened while the node's files are there.
#[derive(Debug)]
pub struct ProcNet {
    views: Vec<(&'static str, OwnedFd)>,
}

impl ProcNet {
    /// Opens the views in a directory of bpffs.
    ///
    /// # Errors
    /// One is not there: the node is down.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let view = |(name, pin): &(&'static str, &str)| {
            let path = directory.join(pin);
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let view = open_tree(CWD, &path, flags)
                .with_context(|| format!("open the view {}", path.display()))?;
            Ok((*name, view))
        };
        Ok(Self {
            views: FILES.iter().map(view).collect::<anyhow::Result<_>>()?,
        })
    }

    /// Puts it in place, below a root whose `/proc` and `/run/slice` are mounted
    /// and new.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mount(&self, root: BorrowedFd<'_>) -> anyhow::Result<()> {
        let below = |path: &'static str| path.trim_start_matches('/');
        let options = [("mode", "0755"), ("size", "64k"), ("nr_inodes", "256")];
        let files = new("tmpfs", &options, QUIET)?;
        move_mount(
            &files,
            "",
            root,
            below(DIRECTORY),
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .with_context(|| format!("mount {DIRECTORY}"))?;
        self.fill(files.as_fd())?;
        symlinkat(DIRECTORY, &files, LINK).context("make the link for /proc/net")?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let link = open_tree(&files, LINK, flags).context("open the link for /proc/net")?;
        // Without MOVE_MOUNT_T_SYMLINKS the kernel's own link is not followed.
        move_mount(
            &link,
            "",
            root,
            "proc/net",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .context("mount a link over /proc/net")
    }

    fn fill(&self, files: BorrowedFd<'_>) -> anyhow::Result<()> {
        let empty = |name: &str| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(files, name, flags, Mode::from_raw_mode(0o444))
                .with_context(|| format!("make {DIRECTORY}/{name}"))
        };
        for (name, view) in &self.views {
            empty(name)?;
            move_mount(
                view,
                "",
                files,
                *name,
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            )
            .with_context(|| format!("mount the view {name}"))?;
        }
        for name in EMPTY {
            empty(name)?;
        }
        let others = std::fs::read_dir(KERNELS).with_context(|| format!("read {KERNELS}"))?;
        for other in others.flatten() {
            let name = other.file_name();
            let name = name.to_string_lossy();
            let ours = EMPTY.contains(&&*name) || FILES.iter().any(|(file, _)| *file == name);
            if !ours {
                symlinkat(format!("{KERNELS}/{name}"), files, &*name)
                    .with_context(|| format!("make {DIRECTORY}/{name}"))?;
            }
        }
        Ok(())
    }
}
