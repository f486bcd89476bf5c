//! The tree below /sys/fs/bpf that keeps programs in force while no process of
//! ours runs: `maps/NAME` and `links/PROGRAM`.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
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
        self.root.join("links").join(program)
    }

    /// The names of all pinned links.
    ///
    /// # Errors
    /// The directory cannot be read; that it is not there is no error.
    pub fn links(&self) -> anyhow::Result<Vec<String>> {
        names(&self.root.join("links"))
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
    /// whoever opens it. Mounts bpffs where systemd has not.
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
        for directory in [
            self.root.clone(),
            self.root.join("maps"),
            self.root.join("links"),
        ] {
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    refuse_others_directory(&directory)?;
                }
                made => made.with_context(|| format!("make {}", directory.display()))?,
            }
        }
        Ok(())
    }

    /// Removes the links, which detaches the programs, then the maps and the
    /// directories. bpffs itself stays mounted.
    ///
    /// # Errors
    /// Something cannot be unlinked; that it is not there is no error.
    pub fn remove(&self) -> anyhow::Result<()> {
        for part in ["links", "maps", ""] {
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

/// bpffs may be mounted so that anybody can make directories in it.
fn refuse_others_directory(path: &Path) -> anyhow::Result<()> {
    let metadata =
        fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?;
    if !metadata.is_dir() || metadata.uid() != 0 || metadata.mode() & 0o077 != 0 {
        bail!(
            "use {}: it is not a directory of root alone (owner {}, mode {:o}); remove it, then `slice up`",
            path.display(),
            metadata.uid(),
            metadata.mode() & 0o7777
        );
    }
    Ok(())
}
