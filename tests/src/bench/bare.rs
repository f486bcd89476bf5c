//! The least that one could do: a process in a cgroup and in namespaces of its
//! own, on an overlay. What a start costs beyond this is the price of limits,
//! of the rest of a root and of being a command.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, execv, pipe, pivot_root, setgid, setuid};

use super::cgroups;
use crate::image::DISTRIBUTION;

/// On the file system that slices' layers are on.
const DIRECTORY: &str = "/var/lib/slice/bench-bare";
/// First of the ids inside.
const FIRST: u32 = 900_000_000;
/// `CLONE_INTO_CGROUP` of linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes everything, runs `true` in it, and removes everything.
///
/// # Errors
/// A step fails.
pub fn run() -> Result<()> {
    let directory = PathBuf::from(DIRECTORY);
    for name in ["upper", "work", "root"] {
        let path = directory.join(name);
        fs::create_dir_all(&path)?;
        chown(&path, Some(FIRST), Some(FIRST))?;
    }
    let cgroup = Path::new(cgroups::ROOT).join("slice-bench-bare");
    fs::create_dir_all(&cgroup)?;
    let (read, write) = pipe()?;
    let child = child_in(&File::open(&cgroup)?)?;
    let Some(child) = child else {
        drop(write);
        let failed = inside(&directory, read);
        eprintln!("bare: {failed:?}");
        // SAFETY: takes a number and does not return; nothing of the parent's
        // is flushed.
        unsafe { libc::_exit(1) }
    };
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{child}/{map}"), format!("0 {FIRST} 65536\n"))?;
    }
    File::from(write).write_all(b"x")?;
    drop(read);
    let ended = waitpid(child, None)?;
    fs::remove_dir_all(&directory)?;
    fs::remove_dir(&cgroup)?;
    ensure!(
        matches!(ended, WaitStatus::Exited(_, 0)),
        "the bare process ended with {ended:?}"
    );
    Ok(())
}

/// In the new namespaces; returns only what went wrong.
fn inside(directory: &Path, ready: OwnedFd) -> Result<std::convert::Infallible> {
    File::from(ready).read_exact(&mut [0])?;
    setgid(0.into())?;
    setuid(0.into())?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let root = directory.join("root");
    let at = directory.display();
    let layers = format!("lowerdir={DISTRIBUTION},upperdir={at}/upper,workdir={at}/work");
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(layers.as_str()),
    )
    .context("mount the overlay")?;
    chdir(&root)?;
    mount(Some("proc"), "proc", Some("proc"), MsFlags::empty(), none).context("mount proc")?;
    pivot_root(".", ".").context("change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("leave the old root")?;
    let program = CString::new("/bin/true")?;
    Ok(execv(&program, &[&program])?)
}

/// A child in new namespaces and in the cgroup; none in the child itself.
fn child_in(cgroup: &File) -> Result<Option<Pid>> {
    let namespaces = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    // SAFETY: all zeros is a valid clone_args: it asks for a plain fork.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(namespaces.bits().unsigned_abs()) | CLONE_INTO_CGROUP;
    arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    // SAFETY: without CLONE_VM the child has a copy of all memory and goes on
    // from here; the bench has one thread, so no lock is held by another.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match i32::try_from(pid)? {
        -1 => Err(std::io::Error::last_os_error()).context("clone3"),
        0 => Ok(None),
        pid => Ok(Some(Pid::from_raw(pid))),
    }
}
