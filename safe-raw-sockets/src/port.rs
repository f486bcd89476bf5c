//! What stock calls cannot say: that a program speaks TCP or UDP itself on a
//! port, and that the kernel is to keep quiet there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use crate::sys;

/// The level of the option; not one of the kernel's.
pub const SOL_SLICE: i32 = 0x534c;
/// The option.
pub const RAW_PORT: i32 = 1;

/// Claims a port for a raw socket of TCP or UDP. It is the slice's until the
/// socket is closed; the kernel sends neither resets nor "port unreachable" for
/// it. The address is one of the node's, or unspecified.
///
/// # Errors
/// EINVAL: the address is not the node's or of another family than the socket,
/// the port is 0, or the socket has one already. EACCES: the port is below 1024
/// and not reserved for the slice, the node's, or one that the kernel gives to
/// others. EADDRINUSE: another owner's, or another raw socket has it.
/// ENOPROTOOPT: this is no raw socket of TCP or UDP in a slice.
pub fn claim(socket: BorrowedFd<'_>, at: SocketAddr) -> io::Result<()> {
    match at {
        SocketAddr::V4(at) => {
            let mut value = [0; 16];
            value[..2].copy_from_slice(&family(libc::AF_INET));
            value[2..4].copy_from_slice(&at.port().to_be_bytes());
            value[4..8].copy_from_slice(&at.ip().octets());
            sys::set_option(socket, SOL_SLICE, RAW_PORT, &value)
        }
        SocketAddr::V6(at) => {
            let mut value = [0; 28];
            value[..2].copy_from_slice(&family(libc::AF_INET6));
            value[2..4].copy_from_slice(&at.port().to_be_bytes());
            value[8..24].copy_from_slice(&at.ip().octets());
            sys::set_option(socket, SOL_SLICE, RAW_PORT, &value)
        }
    }
}

/// `sa_family_t`: the two families are below 256.
fn family(family: i32) -> [u8; 2] {
    u16::try_from(family).unwrap_or_default().to_ne_bytes()
}
