//! What happens in a child between fork and exec, and what it becomes then.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
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
    /// System calls that it does not make.
    pub calls: Vec<libc::sock_filter>,
    /// Written to when all is done, so that the parent can tell a failure of
    /// exec from a failure to confine.
    pub confined: OwnedFd,
}

/// Lets the child of `command` enter a slice before it runs the program.
pub fn confine(command: &mut Command, confinement: Confinement) {
    let Confinement {
        cgroup_procs,
        uid,
        calls,
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
        super::seccomp::confine(&calls)?;
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

/// Ids that a process takes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

/// Lets the child of `command` lead a session of its own, on a terminal where
/// one is given, with other credentials where they are given.
pub fn in_new_session(
    command: &mut Command,
    credentials: Option<Credentials>,
    terminal: Option<OwnedFd>,
) -> &mut Command {
    let enter = move || {
        setsid()?;
        if let Some(terminal) = &terminal {
            rustix::process::ioctl_tiocsctty(terminal)?;
            rustix::stdio::dup2_stdin(terminal)?;
            rustix::stdio::dup2_stdout(terminal)?;
            rustix::stdio::dup2_stderr(terminal)?;
        }
        if let Some(Credentials { uid, gid, groups }) = &credentials {
            let (user, group) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
            setgroups(&groups)?;
            setresgid(group, group, group)?;
            setresuid(user, user, user)?;
        }
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        close_on_exec_from(3)
    };
    // SAFETY: the closure runs in a child forked from a process with one
    // thread, so that it may allocate and take locks; it touches only what it
    // owns and system calls.
    unsafe { command.pre_exec(enter) }
}

/// Becomes another program, of which the open file is the executable; those of
/// `inherited` become its descriptors from 3 on, and all others but the first
/// three are closed.
///
/// # Errors
/// The kernel refuses; then this process is as it was, but for its descriptors.
pub fn become_program(
    file: &OwnedFd,
    inherited: &[&OwnedFd],
    words: &[&CStr],
    environment: &[&CStr],
) -> io::Result<std::convert::Infallible> {
    close_on_exec_from(3)?;
    // They may be in places that others are to have.
    let above = 3 + RawFd::try_from(inherited.len()).map_err(io::Error::other)?;
    let away = |descriptor: &OwnedFd| {
        let above = nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(above);
        nix::fcntl::fcntl(descriptor, above).map(owned)
    };
    let file = away(file)?;
    let inherited: Vec<OwnedFd> = inherited
        .iter()
        .map(|descriptor| away(descriptor))
        .collect::<Result<_, _>>()?;
    for (descriptor, place) in inherited.iter().zip(3..) {
        // SAFETY: whatever had the number belongs to this process, which is
        // about to be replaced; the new one is not owned by anything here.
        if unsafe { libc::dup2(descriptor.as_raw_fd(), place) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(nix::unistd::execveat(
        file.as_fd(),
        c"",
        words,
        environment,
        nix::fcntl::AtFlags::AT_EMPTY_PATH,
    )?)
}

/// Takes a capability, by its number, out of what this process and its children
/// can ever gain (`PR_CAPBSET_DROP`).
///
/// # Errors
/// There is none of that number, or this process lacks CAP_SETPCAP.
pub fn drop_from_bounding(capability: u8) -> io::Result<()> {
    // SAFETY: passes numbers only.
    let code = unsafe {
        libc::prctl(
            libc::PR_CAPBSET_DROP,
            libc::c_ulong::from(capability),
            0,
            0,
            0,
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The descriptor with this number, which a system call has just made for this
/// process.
pub fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the callers take it from accept4, fcntl or SCM_RIGHTS, which made
    // it, and pass it here only.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// The descriptors that the starter of this process left from number 3 on; once.
///
/// # Errors
/// They are not there, or were taken before.
pub fn inherited<const N: usize>() -> io::Result<[OwnedFd; N]> {
    static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let mut number = 3;
    let numbers = [(); N].map(|()| {
        number += 1;
        number - 1
    });
    for number in numbers {
        nix::fcntl::fcntl(
            // SAFETY: only asks about the number, which may be no descriptor.
            unsafe { std::os::fd::BorrowedFd::borrow_raw(number) },
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
        )?;
    }
    if TAKEN.swap(true, std::sync::atomic::Ordering::SeqCst) {
        return Err(io::Error::other("what was inherited was taken before"));
    }
    Ok(numbers.map(owned))
}

/// Back to the ordinary class and priority, of the processor and of disks.
///
/// # Errors
/// The kernel refuses.
pub fn reset_scheduling() -> io::Result<()> {
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
///
/// # Errors
/// The kernel refuses.
pub fn leave_session_keyring() -> io::Result<()> {
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
