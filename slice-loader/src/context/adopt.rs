//! The connection that a login came by. sshd accepted it before anybody knew
//! whose it would be, so its socket is the node's; from the moment that the
//! session is opened what it carries is counted for the slice. Its port and the
//! socket itself stay with the node.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, bail};
use nix::sys::socket::{SockType, SockaddrLike, SockaddrStorage, getpeername, getsockopt, sockopt};
use nix::unistd::Pid;
use policy::abi::{TAG_ADOPTED, TAG_CONNECTING, TAG_ELSEWHERE};
use policy::ids::SliceId;
use rustix::process::{self, PidfdFlags, PidfdGetfdFlags};

use crate::node::Node;

/// Counts the connections that this process was given by a listener for a slice
/// from now on; how many there were.
///
/// # Errors
/// This process may not look into that one, or the kernel refuses.
pub fn connections(node: &Node, slice: &str, sshd: Pid) -> anyhow::Result<u32> {
    let Some(id) = node.id(slice) else {
        bail!("there is no slice {slice}");
    };
    let pid = process::Pid::from_raw(sshd.as_raw()).context("find out who called")?;
    let pidfd = process::pidfd_open(pid, PidfdFlags::empty()).context("open the caller")?;
    let mut adopted = 0;
    for entry in fs::read_dir(format!("/proc/{sshd}/fd"))? {
        let entry = entry?;
        // One that was closed meanwhile, or is a file.
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        let Some(number) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if !is_socket {
            continue;
        }
        let number: RawFd = number;
        let socket = process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())
            .with_context(|| format!("look at descriptor {number} of process {sshd}"))?;
        adopted += u32::from(adopt(node, &socket, id)?);
    }
    Ok(adopted)
}

/// Counts one for the slice, where it is a connection that came to the node.
fn adopt(node: &Node, socket: &OwnedFd, slice: SliceId) -> anyhow::Result<bool> {
    if !is_tcp(socket) {
        return Ok(false);
    }
    let key = socket.as_raw_fd();
    let Some(mut tag) = node.tags().get(&key)? else {
        return Ok(false);
    };
    // One that sshd made itself, to a directory of users for one, is its own.
    if tag.id != SliceId::NODE || tag.flags & (TAG_CONNECTING | TAG_ELSEWHERE) != 0 {
        return Ok(false);
    }
    tag.id = slice;
    tag.flags |= TAG_ADOPTED;
    // What was remembered of packets may have been read in the middle of a
    // change. The kernel puts the new tag in the place of the old in one step.
    tag.sequence = 0;
    tag.version = 0;
    node.tags().set(&key, &tag)?;
    Ok(true)
}

/// Whether the socket is a TCP connection.
fn is_tcp(socket: &OwnedFd) -> bool {
    let stream = getsockopt(&socket.as_fd(), sockopt::SockType) == Ok(SockType::Stream);
    let peer = getpeername::<SockaddrStorage>(socket.as_raw_fd()).ok();
    let inet = |address: SockaddrStorage| {
        use nix::sys::socket::AddressFamily::{Inet, Inet6};
        matches!(address.family(), Some(Inet | Inet6))
    };
    stream && peer.is_some_and(inet)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_connection_is_told_from_other_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.connect("127.0.0.1:9").unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        assert!(is_tcp(&stream.into()));
        assert!(!is_tcp(&listener.into()));
        assert!(!is_tcp(&datagrams.into()));
        assert!(!is_tcp(&unix.into()));
    }
}
