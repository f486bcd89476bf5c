//! The user namespace of a slice: its ids 0 to 65535 are ids on the node that
//! nobody else has, so its root is nobody there.

use std::fs::{self, File};

use anyhow::Context;
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

use crate::sys::clone::{self, Side};

/// A new user namespace in which `first` and the `count - 1` ids above are 0
/// and up, of users and of groups. It lives as long as the file.
///
/// # Errors
/// The kernel has no more of them, or this process may not map those ids.
pub fn make(first: u32, count: u32) -> anyhow::Result<File> {
    let side = clone::fork(CloneFlags::CLONE_NEWUSER, None).context("make a user namespace")?;
    let child = match side {
        Side::Parent(child) => child,
        Side::Child => {
            // It only is, until the namespace has been opened.
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            loop {
                nix::unistd::pause();
            }
        }
    };
    let open = || -> anyhow::Result<File> {
        for map in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{map}", child.pid);
            fs::write(&path, format!("0 {first} {count}\n"))
                .with_context(|| format!("map the ids from {first} in {path}"))?;
        }
        let path = format!("/proc/{}/ns/user", child.pid);
        File::open(&path).with_context(|| format!("open {path}"))
    };
    let namespace = open();
    // It is our child and not waited for: the id is its own still.
    kill(child.pid, Signal::SIGKILL).context("end the first process of a user namespace")?;
    waitpid(child.pid, None).context("wait for the first process of a user namespace")?;
    namespace
}
