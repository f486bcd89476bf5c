//! System calls that no crate offers safely: options as bytes, and io_uring.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use io_uring::{IoUring, opcode, squeue, types};
use nix::errno::Errno;
use socket2::SockAddr;

type Result<T> = std::result::Result<T, Errno>;

/// The error of a call that returned -1.
fn checked(code: libc::c_int) -> Result<()> {
    if code < 0 { Err(Errno::last()) } else { Ok(()) }
}

fn length_of(value: &[u8]) -> Result<libc::socklen_t> {
    libc::socklen_t::try_from(value.len()).map_err(|_| Errno::EINVAL)
}

/// `setsockopt(2)` with any bytes.
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<()> {
    let length = length_of(value)?;
    // SAFETY: the value is readable for its length; the kernel copies it.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    })
}

/// `getsockopt(2)` of an int.
pub fn get_option(socket: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32> {
    let mut value = [0u8; 4];
    let mut length = length_of(&value)?;
    // SAFETY: value and length are writable, and length says how long value is.
    checked(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(i32::from_ne_bytes(value))
}

/// `socket(2)` with any numbers.
pub fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: numbers only.
    let descriptor = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    checked(descriptor)?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `connect(2)` with AF_UNSPEC.
pub fn disconnect(socket: BorrowedFd<'_>) -> Result<()> {
    let address = [0u8; 16];
    // SAFETY: the bytes are readable for the length given.
    checked(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), 16) })
}

/// `bind(2)` with any bytes for an address.
pub fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    let length = length_of(address)?;
    // SAFETY: the address is readable for its length.
    checked(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), length) })
}

/// `connect(2)` with any bytes for an address.
pub fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    let length = length_of(address)?;
    // SAFETY: the address is readable for its length.
    checked(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), length) })
}

/// `sendto(2)` of one byte with any bytes for an address.
pub fn send_to(socket: BorrowedFd<'_>, address: &[u8], flags: i32) -> Result<()> {
    let length = length_of(address)?;
    // SAFETY: payload and address are readable for their lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            b"x".as_ptr().cast(),
            1,
            libc::MSG_NOSIGNAL | flags,
            address.as_ptr().cast(),
            length,
        )
    };
    if sent < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// `connect(2)` by io_uring with any bytes for an address.
pub fn ring_connect(socket: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    let length = length_of(address)?;
    let socket = types::Fd(socket.as_raw_fd());
    ring(&opcode::Connect::new(socket, address.as_ptr().cast(), length).build()).map(drop)
}

/// `open(2)` for reading by io_uring.
pub fn ring_open(path: &str) -> Result<OwnedFd> {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
        .flags(libc::O_RDONLY | libc::O_CLOEXEC)
        .build();
    let descriptor = ring(&entry)?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `socket(2)` by io_uring.
pub fn ring_socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    let descriptor = ring(&opcode::Socket::new(family, kind, protocol).build())?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `bind(2)` by io_uring.
pub fn ring_bind(socket: BorrowedFd<'_>, to: &SockAddr) -> Result<()> {
    let socket = types::Fd(socket.as_raw_fd());
    ring(&opcode::Bind::new(socket, to.as_ptr().cast(), to.len()).build()).map(drop)
}

/// Gives a ring of its own one entry and waits for its result.
fn ring(entry: &squeue::Entry) -> Result<i32> {
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let mut ring = IoUring::new(2).map_err(errno)?;
    // SAFETY: what the entry points to lives until `submit_and_wait` returns
    // with its completion, since the callers hold it.
    let pushed = unsafe { ring.submission().push(entry) };
    pushed.map_err(|_| Errno::EAGAIN)?;
    ring.submit_and_wait(1).map_err(errno)?;
    let completion = ring.completion().next().ok_or(Errno::EAGAIN)?;
    match completion.result() {
        error if error < 0 => Err(Errno::from_raw(-error)),
        result => Ok(result),
    }
}
