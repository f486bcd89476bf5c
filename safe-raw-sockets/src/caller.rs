//! Who asks: whether it has the right in its own namespace, and whether that is
//! the slice's.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The bit of CAP_NET_RAW.
const NET_RAW: u32 = 13;

/// The thread that made a call, by its id. What is found out is about it only
/// as long as it waits for the answer.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    directory: PathBuf,
}

impl Caller {
    pub(crate) fn of(thread: u32) -> Self {
        Self {
            directory: PathBuf::from(format!("/proc/{thread}")),
        }
    }

    /// Whether it has CAP_NET_RAW, as a program needs on any Unix: in a slice
    /// its root does, and programs with that file capability.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn has_the_right(&self) -> io::Result<bool> {
        let status = fs::read_to_string(self.directory.join("status"))?;
        Ok(effective(&status).is_some_and(|set| set >> NET_RAW & 1 == 1))
    }

    /// Whether a namespace of it (`net`, `user`) has this number.
    ///
    /// # Errors
    /// It is gone, or may not be asked.
    pub(crate) fn is_in(&self, kind: &str, number: u64) -> io::Result<bool> {
        Ok(fs::metadata(self.directory.join("ns").join(kind))?.ino() == number)
    }
}

/// The set of effective capabilities in the text of /proc/PID/status.
fn effective(status: &str) -> Option<u64> {
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read() {
        let status = "Name:\tping\nCapPrm:\t0000000000000000\nCapEff:\t0000000000002000\n";
        assert_eq!(effective(status), Some(1 << NET_RAW));
        // A name of several lines is written in one.
        assert_eq!(effective("Name:\ta\\nCapEff:\tffffffffffffffff\n"), None);
        assert_eq!(effective("CapEff:\tnonsense\n"), None);
    }
}
