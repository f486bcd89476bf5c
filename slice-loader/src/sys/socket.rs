//! Socket options that no safe crate has.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The cookie of the network namespace a socket lives in (`SO_NETNS_COOKIE`),
/// as the programs see it.
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`,
    // for which every bit pattern is valid.
    let code = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_sockets_of_one_namespace_have_one_cookie() {
        let socket = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = super::netns_cookie(socket()).unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(cookie, super::netns_cookie(socket()).unwrap());
    }
}
