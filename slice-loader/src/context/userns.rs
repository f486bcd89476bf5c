//! The user namespace of a slice: its ids 0 to 65535 are ids on the node that
//! nobody else has, so its root is nobody there.

use std::fs::{self, File};
use std::io::{Read, Write};

use anyhow::{Context, ensure};
use caps::{CapSet, Capability};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Uid, pipe2, seteuid};

use crate::sys::clone::{self, Side};

/// A new user namespace in which `first` and the `count - 1` ids above are 0
/// and up, of users and of groups. It lives as long as the file.
///
/// It is made as the user `first`: what the kernel counts per user (inotify
/// instances, pending signals, locked memory) is then counted for that user,
/// and a slice that uses up its part leaves the others and the node theirs.
///
/// # Errors
/// The kernel has no more of them, or this process may not map those ids.
pub fn make(first: u32, count: u32) -> anyhow::Result<File> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
    let side = clone::fork(CloneFlags::empty(), None).context("make a process")?;
    let child = match side {
        Side::Parent(child) => child,
        Side::Child => {
            drop(read);
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            let answer = match enter(first) {
                Ok(()) => String::new(),
                Err(error) => format!("{error:#}"),
            };
            // It only is, until the namespace has been opened.
            let _ = File::from(write).write_all(answer.as_bytes());
            loop {
                nix::unistd::pause();
            }
        }
    };
    drop(write);
    let open = || -> anyhow::Result<File> {
        let mut failed = String::new();
        File::from(read)
            .read_to_string(&mut failed)
            .context("read a pipe")?;
        ensure!(failed.is_empty(), "{failed}");
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

fn enter(owner: u32) -> anyhow::Result<()> {
    seteuid(Uid::from_raw(owner)).context("become the owner of a user namespace")?;
    // The change took it; a node may let nobody without it make namespaces.
    caps::raise(None, CapSet::Effective, Capability::CAP_SYS_ADMIN)
        .context("keep the right to make a user namespace")?;
    unshare(CloneFlags::CLONE_NEWUSER).context("make a user namespace")
}
