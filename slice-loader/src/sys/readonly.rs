//! A program that may write to one directory only, whoever it is.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::mount::set_attributes;

/// Lets the child of `command` see every mount read-only but `directory`, in a
/// mount namespace of its own. Pipes and devices stay writable.
///
/// # Errors
/// The path cannot be one.
pub fn but(command: &mut Command, directory: &Path) -> io::Result<()> {
    let directory = CString::new(directory.as_os_str().as_bytes())?;
    let none: Option<&str> = None;
    let set = |path: &CStr, flags, attr_set, attr_clr| {
        let attributes = libc::mount_attr {
            attr_set,
            attr_clr,
            propagation: 0,
            userns_fd: 0,
        };
        set_attributes(libc::AT_FDCWD, path, flags, &attributes)
    };
    let enter = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            none,
            c"/",
            none,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            none,
        )?;
        let itself = directory.as_c_str();
        mount(Some(itself), itself, none, MsFlags::MS_BIND, none)?;
        set(c"/", libc::AT_RECURSIVE, libc::MOUNT_ATTR_RDONLY, 0)?;
        set(itself, 0, 0, libc::MOUNT_ATTR_RDONLY)
    };
    // SAFETY: the closure runs in a forked child; it allocates nothing, takes
    // no lock and makes system calls only, with strings that it owns.
    unsafe {
        command.pre_exec(enter);
    }
    Ok(())
}
