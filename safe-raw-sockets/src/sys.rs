//! The only unsafe code of this crate: seccomp's listener, and what a packet
//! socket is dressed with.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19): once the broker has
/// the call, only a deadly signal interrupts it, so that none is made twice.
const WAIT_KILLABLE: libc::c_ulong = 1 << 5;

/// From now on this process, and all that it starts, has the calls that the
/// filter picks answered by whoever has the descriptor that is returned.
///
/// # Errors
/// The kernel finds a mistake in the filter; this process has neither
/// CAP_SYS_ADMIN in its user namespace nor `no_new_privs`; or calls of it are
/// answered by somebody already (EBUSY).
pub fn listen(filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to as many instructions as it says, which live
    // through the call; the kernel copies and checks them, and writes nothing.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE,
            &raw const program,
        )
    };
    match RawFd::try_from(descriptor) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(descriptor @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The next call that waits for an answer.
///
/// # Errors
/// ENOENT: who made it is gone meanwhile.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<libc::seccomp_notif> {
    // SAFETY: the kernel wants zeros, which are a value of this structure.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such structure.
    result(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut call,
        )
    })?;
    Ok(call)
}

/// Whether who made the call still waits: what was found out under its process
/// id is then about it.
#[must_use]
pub fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads one number.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            &raw const id,
        ) == 0
    }
}

/// How a call ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With this error number.
    Error(i32),
    /// As the kernel would have it without the filter.
    AsItWould,
}

/// Ends a call.
///
/// # Errors
/// ENOENT: nobody waits for it any more.
pub fn answer(listener: BorrowedFd<'_>, id: u64, end: End) -> io::Result<()> {
    let (error, flags) = match end {
        End::Error(errno) => (-errno, 0),
        End::AsItWould => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE),
    };
    let answer = libc::seccomp_notif_resp {
        id,
        val: 0,
        error,
        // The constant's type differs from the field's.
        flags: u32::try_from(flags).map_err(io::Error::other)?,
    };
    // SAFETY: the kernel reads one such structure.
    result(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw const answer,
        )
    })
}

/// Ends a call with a descriptor, which is put into the caller: at once, so that
/// it never has it without the call having returned it.
///
/// # Errors
/// ENOENT: nobody waits for it any more; EMFILE: the caller has as many as it
/// may. Then the call still waits.
pub fn hand_over(
    listener: BorrowedFd<'_>,
    id: u64,
    socket: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<()> {
    let addition = libc::seccomp_notif_addfd {
        id,
        flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SEND).map_err(io::Error::other)?,
        srcfd: socket.as_raw_fd().cast_unsigned(),
        newfd: 0,
        newfd_flags: if close_on_exec {
            libc::O_CLOEXEC.cast_unsigned()
        } else {
            0
        },
    };
    // SAFETY: the kernel reads one such structure.
    result(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ADDFD,
            &raw const addition,
        )
    })
}

/// Puts a filter of eBPF on a socket that nobody can take off or replace.
///
/// # Errors
/// The kernel refuses.
pub fn lock_filter(socket: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    for (name, value) in [
        (libc::SO_ATTACH_BPF, program.as_raw_fd()),
        (libc::SO_LOCK_FILTER, 1),
    ] {
        // SAFETY: the value is an int, as both options want.
        result(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                (&raw const value).cast(),
                4,
            )
        })?;
    }
    Ok(())
}

/// Sets an option of a socket.
///
/// # Errors
/// As setsockopt(2).
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the value is as long as is said.
    result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    })
}

/// Whether calls on a descriptor wait.
///
/// # Errors
/// The kernel refuses.
pub fn set_nonblocking(of: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let flags = if on { libc::O_NONBLOCK } else { 0 };
    // SAFETY: takes numbers.
    result(unsafe { libc::fcntl(of.as_raw_fd(), libc::F_SETFL, flags) })
}

/// A socket by its plain numbers, closed by exec.
///
/// # Errors
/// As socket(2).
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers.
    let descriptor = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    result(descriptor)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Binds a packet socket to a protocol (network order) on all devices.
///
/// # Errors
/// As bind(2).
pub fn bind_to_protocol(socket: BorrowedFd<'_>, protocol: u16) -> io::Result<()> {
    // SAFETY: zeros are a value of this structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = protocol;
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the address is as long as is said.
    result(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

fn result(code: libc::c_int) -> io::Result<()> {
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
