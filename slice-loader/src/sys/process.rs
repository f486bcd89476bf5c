//! What happens in a child between fork and exec.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use caps::CapSet;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};

/// What a process gives up, and gets, before it belongs to a slice.
#[derive(Debug)]
pub struct Confinement {
    /// `cgroup.procs` of the slice's payload, open for writing.
    pub cgroup_procs: File,
    /// The slice's first user id, and its group id.
    pub uid: u32,
    /// Written to when all is done, so that the parent can tell a failure of
    /// exec from a failure to confine.
    pub confined: OwnedFd,
}

/// Lets the child of `command` enter a slice before it runs the program.
pub fn confine(command: &mut Command, confinement: Confinement) {
    let Confinement {
        cgroup_procs,
        uid,
        confined,
    } = confinement;
    let confined = File::from(confined);
    let enter = move || {
        // First the cgroup, while root: everything after is accounted to the
        // slice, and no moment exists in which its uid runs outside.
        (&cgroup_procs).write_all(b"0")?;
        // A caller protected from the out-of-memory killer does not protect
        // the slice.
        std::fs::write("/proc/self/oom_score_adj", "0")?;
        // Nor does one with a real-time class or a raised priority share it.
        reset_scheduling()?;
        // No controlling terminal: TIOCSTI would type into the caller's shell.
        setsid()?;
        caps::clear(None, CapSet::Bounding).map_err(io::Error::other)?;
        setgroups(&[])?;
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
        // The change of user did this already unless securebits forbade it.
        for set in [
            CapSet::Ambient,
            CapSet::Inheritable,
            CapSet::Effective,
            CapSet::Permitted,
        ] {
            caps::clear(None, set).map_err(io::Error::other)?;
        }
        nix::sys::prctl::set_no_new_privs()?;
        leave_session_keyring()?;
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        close_on_exec_from(3)?;
        (&confined).write_all(b".")
    };
    // SAFETY: the closure runs in a child forked from this single-threaded
    // command, so that it may allocate and take locks; it touches only what it
    // owns and system calls.
    unsafe {
        command.pre_exec(enter);
    }
}

/// Back to the ordinary class and priority, of the processor and of disks.
fn reset_scheduling() -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter is a whole value that lives through the call; the
    // other two pass numbers only.
    let codes = unsafe {
        [
            libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary).into(),
            libc::setpriority(libc::PRIO_PROCESS, 0, 0).into(),
            libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0),
        ]
    };
    if codes.iter().any(|code: &libc::c_long| *code < 0) {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives the process a session keyring of its own: the inherited one is the
/// caller's, with the caller's keys.
fn leave_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    let code = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    match io::Error::last_os_error() {
        // A kernel without keyrings has nothing to leave.
        error if code < 0 && error.raw_os_error() != Some(libc::ENOSYS) => Err(error),
        _ => Ok(()),
    }
}

/// Marks every descriptor from `first` up to be closed by exec.
fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: passes numbers only; marked descriptors stay usable until exec.
    let code = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
