//! Asking and telling the kernel of routes and addresses (rtnetlink(7)), many
//! at a time: a message apiece would cost a system call and a lock apiece.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

/// Most messages sent at once: the kernel holds its lock of routes that long.
const BATCH: usize = 256;
/// More than the kernel writes at once (32 KiB).
const BUFFER: usize = 1 << 16;

/// A socket to the kernel's routes and addresses.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens one, in the network namespace of this process.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn open() -> anyhow::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .context("open a socket for routes")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).context("bind a socket for routes")?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Does what the messages say, in order. Those that end with one of the
    /// errors `passed_over` have nothing to do.
    ///
    /// # Errors
    /// The kernel refuses one; the others of its batch are done.
    pub fn change(
        &mut self,
        flags: u16,
        messages: Vec<RouteNetlinkMessage>,
        passed_over: &[Errno],
    ) -> anyhow::Result<()> {
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let mut bytes = Vec::new();
            for _ in 0..BATCH {
                let Some(message) = messages.next() else {
                    break;
                };
                self.sequence = self.sequence.wrapping_add(1);
                push(&mut bytes, message, flags, self.sequence);
            }
            // Errors are told of each, success of the last alone.
            let last = last_message(&bytes);
            if let Some(low) = bytes.get_mut(last + 6..last + 8) {
                low.copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
            }
            self.send(&bytes)?;
            self.wait_for(self.sequence, passed_over)?;
        }
        Ok(())
    }

    /// Everything of the kind that the message asks for.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn list(
        &mut self,
        question: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> anyhow::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        push(&mut bytes, question, NLM_F_DUMP, self.sequence);
        self.send(&bytes)?;
        loop {
            let mut ended = false;
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => each(message),
                    NetlinkPayload::Done(_) => ended = true,
                    NetlinkPayload::Error(error) => {
                        return Err(error.to_io()).context("list routes or addresses");
                    }
                    _ => {}
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let sent = send(self.socket.as_raw_fd(), bytes, MsgFlags::empty())
            .context("tell the kernel of routes")?;
        if sent != bytes.len() {
            bail!("tell the kernel of routes: it took {sent} bytes");
        }
        Ok(())
    }

    fn receive(&self) -> anyhow::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let mut buffer = vec![0; BUFFER];
        let length = loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                received => break received.context("hear the kernel of routes")?,
            }
        };
        let mut rest = &buffer[..length];
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(io::Error::other)
                .context("understand the kernel's answer about routes")?;
            let length = usize::try_from(message.header.length)?.next_multiple_of(4);
            rest = rest.get(length.max(16)..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }

    fn wait_for(&self, sequence: u32, passed_over: &[Errno]) -> anyhow::Result<()> {
        let mut refused = None;
        loop {
            for message in self.receive()? {
                let NetlinkPayload::Error(error) = message.payload else {
                    continue;
                };
                if let Some(code) = error.code {
                    let errno = Errno::from_raw(-code.get());
                    if !passed_over.contains(&errno) {
                        refused.get_or_insert(errno);
                    }
                }
                if message.header.sequence_number == sequence {
                    return match refused {
                        Some(errno) => Err(errno).context("change routes or addresses"),
                        None => Ok(()),
                    };
                }
            }
        }
    }
}

fn push(bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

/// Where the last message begins.
fn last_message(bytes: &[u8]) -> usize {
    let (mut start, mut next) = (0, 0);
    while let Some(length) = bytes.get(next..next + 4) {
        start = next;
        let length = u32::from_ne_bytes([length[0], length[1], length[2], length[3]]);
        next += usize::try_from(length)
            .unwrap_or(16)
            .max(16)
            .next_multiple_of(4);
    }
    start
}
