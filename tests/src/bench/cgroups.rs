//! Cgroups for as many slices as a bench wants, and the way into one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where the cgroups are mounted.
pub const ROOT: &str = "/sys/fs/cgroup";
/// The cgroups' parent, in [`ROOT`].
pub const PARENT: &str = "slice-bench";
/// Depth of the cgroups.
pub const LEVEL: u32 = 2;

/// Cgroups `s1`, `s2` and so on; gone when dropped.
pub struct Cgroups {
    slices: u32,
    /// Where this process was before.
    home: PathBuf,
}

fn path(slice: u32) -> PathBuf {
    Path::new(ROOT).join(PARENT).join(format!("s{slice}"))
}

impl Cgroups {
    /// Makes them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(slices: u32) -> Result<Cgroups> {
        let cgroups = Cgroups {
            slices,
            home: own()?,
        };
        for slice in 1..=slices {
            let path = path(slice);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        Ok(cgroups)
    }

    /// The kernel's ids, in the slices' order: inode numbers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ids(&self) -> Result<Vec<u64>> {
        (1..=self.slices)
            .map(|slice| Ok(fs::metadata(path(slice))?.ino()))
            .collect()
    }

    /// Puts this process into one of them until all are dropped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&self, slice: u32) -> Result<()> {
        join(&path(slice))
    }
}

/// The cgroup that this process is in.
///
/// # Errors
/// The kernel's.
pub fn own() -> Result<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(Path::new(ROOT).join(own.context("find our own cgroup")?))
}

/// Puts this process into a cgroup.
///
/// # Errors
/// The kernel's.
pub fn join(cgroup: &Path) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    fs::write(&file, "0").with_context(|| format!("write {}", file.display()))
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let _ = join(&self.home);
        for slice in 1..=self.slices {
            let _ = fs::remove_dir(path(slice));
        }
        let _ = fs::remove_dir(Path::new(ROOT).join(PARENT));
    }
}
