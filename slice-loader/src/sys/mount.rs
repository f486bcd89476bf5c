//! mount_setattr(2), which no safe crate has.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Shows the files of a detached mount with the ids they have in a user
/// namespace, read-only and without devices.
///
/// # Errors
/// The file system cannot be mapped, or the mount is in use already.
pub fn map_ids(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(userns.as_raw_fd().unsigned_abs()),
    };
    set_attributes(mount.as_raw_fd(), c"", libc::AT_EMPTY_PATH, &attributes)
}

/// Lets a detached mount only show what it has: read-only, no programs with
/// rights, no programs, no devices.
///
/// # Errors
/// The kernel refuses.
pub fn only_show(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(mount.as_raw_fd(), c"", libc::AT_EMPTY_PATH, &attributes)
}

/// Changes the attributes of the mount at a path below an open directory, or of
/// the open mount itself (`AT_EMPTY_PATH`). Allocates nothing.
///
/// # Errors
/// The kernel refuses; EBADF where the number is no descriptor.
pub(super) fn set_attributes(
    directory: RawFd,
    path: &CStr,
    flags: libc::c_int,
    attributes: &libc::mount_attr,
) -> io::Result<()> {
    // SAFETY: the string is NUL-terminated and the structure whole, and its
    // size is passed; both live through the call, which only reads them.
    let code = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of_val(attributes),
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
