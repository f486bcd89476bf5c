//! Watches the kernel's console for what no verdict line would tell.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What a line of the console means.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// The kernel is no longer to be trusted: end the VM.
    Fatal(String),
    /// The run goes on, and fails.
    Noted(String),
}

/// Texts of the kernel that end a run.
const FATAL: &[&str] = &[
    "Kernel panic",
    "BUG: ",
    "Oops",
    "kernel BUG at",
    // every kind of death, such as "int3: 0000 [#1] PREEMPT SMP"
    " [#1] ",
    "general protection fault",
    "soft lockup",
    "hard LOCKUP",
    "self-detected stall",
    "detected stalls on CPUs",
    "detected expedited stalls",
];

/// Texts of the kernel that fail a run.
const NOTED: &[&str] = &[
    "WARNING: ",
    "blocked for more than",
    "possible circular locking",
    "suspicious RCU usage",
];

/// The console's log, read as it grows.
pub struct Console {
    path: PathBuf,
    read: u64,
    partial: String,
    found: Vec<Finding>,
}

impl Console {
    /// Starts at the beginning of the log.
    pub fn of(path: PathBuf) -> Console {
        Console {
            path,
            read: 0,
            partial: String::new(),
            found: Vec::new(),
        }
    }

    /// The log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next finding in what was written since the last look.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn look(&mut self) -> Result<Option<Finding>> {
        let mut bytes = Vec::new();
        let mut file = File::open(&self.path)
            .with_context(|| format!("read the console's log {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.read))?;
        let count = file.read_to_end(&mut bytes)?;
        self.read += u64::try_from(count)?;
        self.partial.push_str(&String::from_utf8_lossy(&bytes));
        while let Some(end) = self.partial.find('\n') {
            let line: String = self.partial.drain(..=end).collect();
            if let Some(finding) = judge(line.trim_end()) {
                self.found.insert(0, finding);
            }
        }
        Ok(self.found.pop())
    }
}

/// Judges one line; only the kernel's own words, which follow a time in
/// brackets (others may have left half a line before it).
fn judge(line: &str) -> Option<Finding> {
    let text = line.match_indices('[').find_map(|(at, _)| {
        let (time, text) = line.get(at + 1..)?.split_once("] ")?;
        time.trim().parse::<f64>().ok().map(|_| text)
    })?;
    if FATAL.iter().any(|pattern| text.contains(pattern)) {
        return Some(Finding::Fatal(text.to_owned()));
    }
    NOTED
        .iter()
        .any(|pattern| text.contains(pattern))
        .then(|| Finding::Noted(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{Finding, judge};

    #[test]
    fn only_the_kernels_own_words_count() {
        let panic = "[   12.345678] Kernel panic - not syncing: sysrq triggered crash";
        assert!(matches!(judge(panic), Some(Finding::Fatal(_))));
        let warning = "[    1.000000] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2";
        assert!(matches!(judge(warning), Some(Finding::Noted(_))));
        let behind = "\x1b[!p\x1b[?7h[    3.870117] Oops: 0002 [#1] SMP";
        assert!(matches!(judge(behind), Some(Finding::Fatal(_))));
        assert_eq!(judge("BUG: said by a test"), None);
        assert_eq!(judge("[    1.000000] virtio_blk virtio1: fine"), None);
    }
}
