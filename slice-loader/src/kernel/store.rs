//! The tree below /sys/fs/bpf that keeps programs in force while no process of
//! ours runs: `maps/NAME` and `links/PROGRAM`; and `views/PROGRAM`, which can
//! be read.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Where bpffs is mounted on every system that mounts it.
const BPFFS: &str = "/sys/fs/bpf";

/// The pinned maps and links of the node.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The node's store, whether it exists or not.
    #[must_use]
    pub fn of_node() -> Self {
        Self {
            root: Path::new(BPFFS).join("slice"),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether anything of a node is pinned, half-done work included. Who may
    /// not look is told so when it is opened.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.root.try_exists().unwrap_or(true)
    }

    /// Where the map of this name is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    /// Where the link of this program is pinned.
    #[must_use]
    pub fn link(&self, program: &str) -> PathBuf {
        let directory = if Self::is_view(program) {
            self.views()
        } else {
            self.root.join("links")
        };
        directory.join(program)
    }

    /// Where the links are that are files to read. Anybody may read them, who
    /// can reach the directory: for a slice, it must be mounted elsewhere.
    #[must_use]
    pub fn views(&self) -> PathBuf {
        self.root.join("views")
    }

    /// Whether the program of this name is read by others.
    #[must_use]
    pub fn is_view(program: &str) -> bool {
        program.starts_with("view_")
    }

    /// The names of all pins in one of its directories.
    ///
    /// # Errors
    /// The directory cannot be read; that it is not there is no error.
    pub fn names(&self, directory: &str) -> anyhow::Result<Vec<String>> {
        names(&self.root.join(directory))
    }

    /// The names of all pinned links.
    ///
    /// # Errors
    /// The directory cannot be read; that it is not there is no error.
    pub fn links(&self) -> anyhow::Result<Vec<String>> {
        let mut links = names(&self.root.join("links"))?;
        links.extend(names(&self.views())?);
        Ok(links)
    }

    /// The names of all pinned maps.
    ///
    /// # Errors
    /// The directory cannot be read; that it is not there is no error.
    pub fn maps(&self) -> anyhow::Result<Vec<String>> {
        names(&self.root.join("maps"))
    }

    /// Removes the pins of maps that are not in the list.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn remove_maps_but(&self, keep: &[String]) -> anyhow::Result<()> {
        for name in self.maps()?.into_iter().filter(|name| !keep.contains(name)) {
            let path = self.map(&name);
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Makes the directories, mode 0700: what is pinned can be written by
    /// whoever opens it; that of the views is open to all, once one can reach
    /// it. Mounts bpffs where systemd has not.
    ///
    /// # Errors
    /// bpffs cannot be mounted or written.
    pub fn create(&self) -> anyhow::Result<()> {
        if statfs(BPFFS).map(|s| s.filesystem_type()) != Ok(BPF_FS_MAGIC) {
            mount(
                Some("bpf"),
                BPFFS,
                Some("bpf"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some("mode=0700"),
            )
            .with_context(|| format!("mount bpffs on {BPFFS}"))?;
        }
        make(&self.root, 0o700)?;
        make(&self.root.join("maps"), 0o700)?;
        make(&self.root.join("links"), 0o700)?;
        make(&self.root.join("devices"), 0o700)?;
        make(&self.root.join("paced"), 0o700)?;
        make(&self.views(), 0o755)
    }

    /// Removes the links, which detaches the programs, then the maps and the
    /// directories. bpffs itself stays mounted.
    ///
    /// # Errors
    /// Something cannot be unlinked; that it is not there is no error.
    pub fn remove(&self) -> anyhow::Result<()> {
        for part in ["links", "devices", "paced", "views", "maps", ""] {
            let directory = self.root.join(part);
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.with_context(|| format!("remove {}", directory.display()))?,
            }
        }
        Ok(())
    }
}

fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", directory.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", directory.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn make(directory: &Path, mode: u32) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            refuse_others_directory(directory, mode)
        }
        // Whatever the caller's umask is.
        made => made
            .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(mode)))
            .with_context(|| format!("make {}", directory.display())),
    }
}

/// bpffs may be mounted so that anybody can make directories in it.
fn refuse_others_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    let metadata =
        fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?;
    if !metadata.is_dir() || metadata.uid() != 0 || metadata.mode() & 0o777 & !mode != 0 {
        bail!(
            "use {}: it is not a directory of root with mode {mode:o} (owner {}, mode {:o}); remove it, then `slice up`",
            path.display(),
            metadata.uid(),
            metadata.mode() & 0o7777
        );
    }
    Ok(())
}
