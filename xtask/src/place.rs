//! Where things lie: every path that more than one file needs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// The root of this checkout.
pub fn project() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target directory; everything that is cached lies below it.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || project().join("target"),
        |dir| project().join(PathBuf::from(dir)),
    )
}

/// Tools that are not packaged, built from source.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// Roots, kernels, logs and scratch space of the VM.
pub fn vm() -> PathBuf {
    target().join("vm")
}

/// The log of `name`, for what is too long for the terminal.
pub fn log(name: &str) -> Result<PathBuf> {
    let dir = target().join("logs");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir.join(format!("{name}.log")))
}

/// A scratch directory of this process below `parent`, removed when dropped.
/// Those of processes that are no more (killed, or the power went) are removed
/// on the way.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes `parent/tmp-PID-NUMBER`.
    pub fn new(parent: &Path) -> Result<Scratch> {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        for entry in std::fs::read_dir(parent)?.filter_map(Result::ok) {
            let name = entry.file_name();
            let owner = name
                .to_str()
                .and_then(|name| name.strip_prefix("tmp-")?.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Another process may remove it at the same moment.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("tmp-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Scratch(dir))
    }

    /// The path of `name` inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Holds the lock `name` until dropped; waits, and says so, while another
/// process has it. The kernel releases it however the holder ends.
pub fn lock(name: &str) -> Result<std::fs::File> {
    let dir = target();
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let path = dir.join(format!(".{name}.lock"));
    let file = std::fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
    if file.try_lock().is_err() {
        crate::step::say(&format!("another xtask is making {name}; waiting for it"));
        file.lock()
            .with_context(|| format!("lock {}", path.display()))?;
    }
    Ok(file)
}
