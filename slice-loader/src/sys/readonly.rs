//! A program that may write to one directory only, whoever it is.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Lets the child of `command` see every mount read-only but `directory`, in a
/// mount namespace of its own. Pipes and devices stay writable.
///
/// # Errors
/// The path cannot be one.
pub fn but(command: &mut Command, directory: &Path) -> io::Result<()> {
    let directory = CString::new(directory.as_os_str().as_bytes())?;
    let none: Option<&str> = None;
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
        set_attributes(c"/", libc::AT_RECURSIVE, libc::MOUNT_ATTR_RDONLY, 0)?;
        set_attributes(itself, 0, 0, libc::MOUNT_ATTR_RDONLY)
    };
    // SAFETY: the closure runs in a forked child; it allocates nothing, takes
    // no lock and makes system calls only, with strings that it owns.
    unsafe {
        command.pre_exec(enter);
    }
    Ok(())
}

/// mount_setattr(2), for which the C library has no function.
fn set_attributes(
    path: &std::ffi::CStr,
    flags: libc::c_int,
    set: u64,
    clear: u64,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the string is NUL-terminated and the structure whole, and its
    // size is passed; both live through the call, which only reads them.
    let code = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
