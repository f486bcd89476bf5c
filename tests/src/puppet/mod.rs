//! The puppet: `slice-tests puppet`, run inside a slice or outside of any,
//! makes one system call for each line it is told, so that a test can be in
//! several slices at once and read as sentences.
//!
//! Its descriptor 0 is a SOCK_SEQPACKET socket: one [`Call`] in JSON a message,
//! one answer each; descriptors travel beside them.

mod calls; // the system calls behind each call
mod strings; // the test's end: a puppet, and sockets that live in it
mod unsafe_calls; // what no crate offers safely

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use anyhow::{Context, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

pub use strings::{Called, Kind, Puppet, Sock};

/// Longest message, in bytes.
const MESSAGE_MAX: usize = 64 * 1024;

/// One system call. Sockets are named by the number that the puppet gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Call {
    /// `socket(2)`.
    Socket {
        family: i32,
        kind: i32,
        protocol: i32,
    },
    /// The same by io_uring, which asks no seccomp filter.
    RingSocket {
        family: i32,
        kind: i32,
        protocol: i32,
    },
    /// `bind(2)`.
    Bind { socket: u32, to: SocketAddr },
    /// `bind(2)` by io_uring, since 6.11.
    RingBind { socket: u32, to: SocketAddr },
    /// `listen(2)`.
    Listen { socket: u32 },
    /// `accept(2)`, within the deadline.
    Accept { socket: u32 },
    /// `connect(2)`; EINPROGRESS where nobody answers within the deadline.
    Connect {
        socket: u32,
        to: SocketAddr,
        deadline_ms: u32,
    },
    /// `connect(2)` with AF_UNSPEC: a UDP socket forgets its peer.
    Disconnect { socket: u32 },
    /// `sendmsg(2)` of a payload, to an address, with control messages.
    Send {
        socket: u32,
        payload: Vec<u8>,
        to: Option<SocketAddr>,
        control: Vec<Control>,
    },
    /// `sendto(2)` of one byte to each port from that of `to` on.
    Spray {
        socket: u32,
        to: SocketAddr,
        ports: u16,
    },
    /// `recvfrom(2)`, within the deadline: how many bytes, and from whom.
    Receive { socket: u32, deadline_ms: u32 },
    /// `setsockopt(2)`.
    SetOption {
        socket: u32,
        level: i32,
        name: i32,
        value: Vec<u8>,
    },
    /// `getsockopt(2)` of an int.
    GetOption { socket: u32, level: i32, name: i32 },
    /// `getsockname(2)`.
    Name { socket: u32 },
    /// `getpeername(2)`.
    Peer { socket: u32 },
    /// `shutdown(2)` of the sending half.
    Shutdown { socket: u32 },
    /// `close(2)`.
    Close { socket: u32 },
    /// SCM_RIGHTS: the answer carries the socket.
    Give { socket: u32 },
    /// SCM_RIGHTS: a socket comes beside the call.
    Take,
    /// A call with any address.
    Named {
        socket: u32,
        how: Naming,
        address: Vec<u8>,
    },
    /// Opens a file for reading, and reads all of it.
    Read { path: String, how: Opening },
    /// Descriptor 1, which was inherited over fork and exec.
    Inherited,
    /// `unshare(2)`: a user namespace and a network namespace of its own.
    OwnNetwork,
    /// `getpid(2)`.
    Pid,
}

/// What is done with an address of any family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Naming {
    /// `bind(2)`.
    Bind,
    /// `connect(2)`.
    Connect,
    /// `sendto(2)` of one byte.
    SendTo,
    /// The same with MSG_FASTOPEN: TCP connects and sends at once.
    FastOpen,
    /// `connect(2)` by io_uring.
    RingConnect,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Opening {
    /// `open(2)`.
    Plain,
    /// With O_PATH, and once more through /proc/self/fd.
    Twice,
    /// By io_uring.
    Ring,
}

/// A control message beside a datagram.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Control {
    /// `IPPROTO_IP` or `IPPROTO_IPV6`.
    pub level: i32,
    /// `IP_PKTINFO` and the like.
    pub name: i32,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// What a call returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    Nothing,
    Socket(u32),
    Number(i64),
    Address(SocketAddr),
    Text(String),
    Received {
        bytes: usize,
        from: Option<SocketAddr>,
    },
}

/// The value, or the error number.
type Answer = Result<Value, i32>;

/// Runs the puppet until its strings are cut.
///
/// # Errors
/// Descriptor 0 is no such socket.
pub fn run() -> Result<ExitCode> {
    let stdin = std::io::stdin();
    let mut hands = calls::Hands::default();
    while let Some((bytes, mut descriptors)) = receive(stdin.as_fd())? {
        let call: Call = serde_json::from_slice(&bytes).context("understand a call")?;
        let (answer, given) = hands.make(call, descriptors.pop());
        let answer: Answer = answer.map_err(|errno| errno as i32);
        let given: Vec<BorrowedFd<'_>> = given.iter().map(OwnedFd::as_fd).collect();
        send(stdin.as_fd(), &serde_json::to_vec(&answer)?, &given)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends one message with descriptors beside it.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let sent = sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
    sent.context("pull a string")?;
    Ok(())
}

/// Receives one message; `None` once the other end is closed.
fn receive(socket: BorrowedFd<'_>) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC);
    let length = received.context("feel a string")?.bytes;
    bytes.truncate(length);
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok((length > 0).then_some((bytes, descriptors)))
}
