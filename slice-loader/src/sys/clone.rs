//! clone3(2) and fork(2): children born where they belong.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sched::CloneFlags;
use nix::unistd::Pid;

/// `CLONE_INTO_CGROUP` of linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which of the two processes this is after a fork.
#[derive(Debug)]
pub enum Side {
    /// The one that forked.
    Parent(Child),
    /// The new one.
    Child,
}

/// A child of this process.
#[derive(Debug)]
pub struct Child {
    /// Its id, as seen from here.
    pub pid: Pid,
}

/// Forks into new namespaces and, where one is given, into a cgroup: no moment
/// exists in which the child is anywhere else.
///
/// # Errors
/// The kernel refuses; or this process has several threads, of which the child
/// would have one, with whatever locks the others held.
pub fn fork(namespaces: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("fork: this process has several threads"));
    }
    // SAFETY: all zeros is a valid clone_args: it asks for a plain fork.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(namespaces.bits().unsigned_abs());
    arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: without CLONE_VM the child has a copy of all memory and goes on
    // from here; this process has one thread, so no lock is held by another.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match libc::pid_t::try_from(pid) {
        Err(_) => Err(io::Error::other("clone3 returned no process id")),
        Ok(-1) => Err(io::Error::last_os_error()),
        Ok(0) => Ok(Side::Child),
        Ok(pid) => Ok(Side::Parent(Child {
            pid: Pid::from_raw(pid),
        })),
    }
}

/// Ends this process at once: nothing that the parent's memory has to be
/// flushed or dropped is, in the child.
pub fn exit(status: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(status) }
}
