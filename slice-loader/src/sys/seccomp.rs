//! Filters of system calls.

use std::io;

/// From now on this process, and all that it starts, makes system calls only as
/// the filter lets it.
///
/// # Errors
/// The kernel has no such filters, finds a mistake in this one, or this process
/// could give programs with more rights than its own fewer than they expect: it
/// has neither CAP_SYS_ADMIN in its user namespace nor `no_new_privs`.
pub fn confine(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to as many instructions as it says, which live
    // through the call; the kernel copies and checks them, and writes nothing.
    let code = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
