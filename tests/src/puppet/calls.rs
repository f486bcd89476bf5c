//! The system calls behind each [`Call`].

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{MsgHdr, SockAddr, SockRef};

use super::unsafe_calls;
use super::{Call, Control, Naming, Opening, Value};

/// How long accept and send may take; a peer that answers does so at once.
const DEADLINE: Duration = Duration::from_secs(5);

/// The sockets that a puppet holds.
#[derive(Default)]
pub struct Hands {
    sockets: BTreeMap<u32, OwnedFd>,
    next: u32,
}

type Made = Result<Value, Errno>;

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

impl Hands {
    /// Makes the call; the second value is a socket to give away beside the
    /// answer.
    pub fn make(&mut self, call: Call, beside: Option<OwnedFd>) -> (Made, Option<OwnedFd>) {
        if let Call::Give { socket } = call {
            let copy = self
                .socket(socket)
                .and_then(|s| s.try_clone().map_err(errno));
            return match copy {
                Ok(copy) => (Ok(Value::Nothing), Some(copy)),
                Err(error) => (Err(error), None),
            };
        }
        (self.answer(call, beside), None)
    }

    fn answer(&mut self, call: Call, beside: Option<OwnedFd>) -> Made {
        match call {
            Call::Socket {
                family,
                kind,
                protocol,
            } => {
                let socket = unsafe_calls::socket(family, kind, protocol)?;
                Ok(self.keep(socket))
            }
            Call::RingSocket {
                family,
                kind,
                protocol,
            } => {
                let socket = unsafe_calls::ring_socket(family, kind, protocol)?;
                Ok(self.keep(socket))
            }
            Call::Bind { socket, to } => self.on(socket, |s| s.bind(&to.into())),
            Call::RingBind { socket, to } => {
                let socket = self.socket(socket)?;
                unsafe_calls::ring_bind(socket.as_fd(), &to.into())?;
                Ok(Value::Nothing)
            }
            Call::Listen { socket } => self.on(socket, |s| s.listen(16)),
            Call::Accept { socket } => {
                let listener = self.socket(socket)?;
                wait(listener, DEADLINE)?;
                let (accepted, _) = SockRef::from(listener).accept().map_err(errno)?;
                Ok(self.keep(accepted.into()))
            }
            Call::Connect {
                socket,
                to,
                deadline_ms,
            } => self.on(socket, |s| {
                s.set_write_timeout(Some(Duration::from_millis(deadline_ms.into())))?;
                // A ring that was just closed interrupts its task, and a connect with a
                // deadline is not restarted by the kernel; asked again, it waits on.
                loop {
                    match s.connect(&to.into()) {
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        result => return result,
                    }
                }
            }),
            Call::Disconnect { socket } => {
                unsafe_calls::disconnect(self.socket(socket)?.as_fd())?;
                Ok(Value::Nothing)
            }
            Call::Send {
                socket,
                payload,
                to,
                control,
            } => self.send(socket, &payload, to, &control),
            Call::Spray { socket, to, ports } => {
                for port in (to.port()..).take(ports.into()) {
                    self.send(socket, b"x", Some(SocketAddr::new(to.ip(), port)), &[])?;
                }
                Ok(Value::Nothing)
            }
            Call::Receive {
                socket,
                deadline_ms,
            } => self.receive(socket, deadline_ms),
            Call::SetOption {
                socket,
                level,
                name,
                value,
            } => {
                unsafe_calls::set_option(self.socket(socket)?.as_fd(), level, name, &value)?;
                Ok(Value::Nothing)
            }
            Call::GetOption {
                socket,
                level,
                name,
            } => {
                let value = unsafe_calls::get_option(self.socket(socket)?.as_fd(), level, name)?;
                Ok(Value::Number(value.into()))
            }
            Call::Name { socket } => {
                let name = SockRef::from(self.socket(socket)?)
                    .local_addr()
                    .map_err(errno)?;
                name.as_socket()
                    .map(Value::Address)
                    .ok_or(Errno::EAFNOSUPPORT)
            }
            Call::Peer { socket } => {
                let peer = SockRef::from(self.socket(socket)?)
                    .peer_addr()
                    .map_err(errno)?;
                peer.as_socket()
                    .map(Value::Address)
                    .ok_or(Errno::EAFNOSUPPORT)
            }
            Call::Shutdown { socket } => self.on(socket, |s| s.shutdown(Shutdown::Write)),
            Call::Close { socket } => {
                self.sockets.remove(&socket).ok_or(Errno::EBADF)?;
                Ok(Value::Nothing)
            }
            Call::Named {
                socket,
                how,
                address,
            } => {
                let socket = self.socket(socket)?.as_fd();
                match how {
                    Naming::Bind => unsafe_calls::bind(socket, &address)?,
                    Naming::Connect => unsafe_calls::connect(socket, &address)?,
                    Naming::SendTo => unsafe_calls::send_to(socket, &address, 0)?,
                    Naming::FastOpen => {
                        unsafe_calls::send_to(socket, &address, libc::MSG_FASTOPEN)?;
                    }
                    Naming::RingConnect => unsafe_calls::ring_connect(socket, &address)?,
                }
                Ok(Value::Nothing)
            }
            Call::Read { path, how } => read(&path, how).map(Value::Text),
            Call::Take => Ok(self.keep(beside.ok_or(Errno::EBADF)?)),
            Call::Inherited => {
                let inherited = io::stdout().as_fd().try_clone_to_owned().map_err(errno)?;
                Ok(self.keep(inherited))
            }
            Call::OwnNetwork => {
                use nix::sched::{CloneFlags, unshare};
                unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
                Ok(Value::Nothing)
            }
            Call::Pid => Ok(Value::Number(std::process::id().into())),
            Call::Give { .. } => Err(Errno::EINVAL),
        }
    }

    fn keep(&mut self, socket: OwnedFd) -> Value {
        self.next += 1;
        self.sockets.insert(self.next, socket);
        Value::Socket(self.next)
    }

    fn socket(&self, number: u32) -> Result<&OwnedFd, Errno> {
        self.sockets.get(&number).ok_or(Errno::EBADF)
    }

    fn on(&self, number: u32, call: impl FnOnce(&SockRef<'_>) -> io::Result<()>) -> Made {
        call(&SockRef::from(self.socket(number)?)).map_err(errno)?;
        Ok(Value::Nothing)
    }

    fn send(
        &self,
        socket: u32,
        payload: &[u8],
        to: Option<SocketAddr>,
        control: &[Control],
    ) -> Made {
        let parts = [IoSlice::new(payload)];
        let to = to.map(SockAddr::from);
        let control = packed(control);
        let mut message = MsgHdr::new().with_buffers(&parts);
        if let Some(to) = &to {
            message = message.with_addr(to);
        }
        if !control.is_empty() {
            message = message.with_control(&control);
        }
        let socket = self.socket(socket)?;
        SockRef::from(socket)
            .set_write_timeout(Some(DEADLINE))
            .map_err(errno)?;
        let sent = SockRef::from(socket)
            .sendmsg(&message, libc::MSG_NOSIGNAL)
            .map_err(errno)?;
        Ok(Value::Received {
            bytes: sent,
            from: None,
        })
    }

    fn receive(&self, socket: u32, deadline_ms: u32) -> Made {
        let socket = self.socket(socket)?;
        wait(socket, Duration::from_millis(deadline_ms.into()))?;
        let mut buffer = vec![std::mem::MaybeUninit::uninit(); 64 * 1024];
        let (bytes, from) = SockRef::from(socket)
            .recv_from(&mut buffer)
            .map_err(errno)?;
        Ok(Value::Received {
            bytes,
            from: from.as_socket(),
        })
    }
}

fn read(path: &str, how: Opening) -> Result<String, Errno> {
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;
    let plain = |path: &str, flags| open(path, flags | OFlag::O_CLOEXEC, Mode::empty());
    let file = match how {
        Opening::Plain => plain(path, OFlag::O_RDONLY)?,
        Opening::Twice => {
            let place = plain(path, OFlag::O_PATH)?;
            plain(
                &format!("/proc/self/fd/{}", place.as_raw_fd()),
                OFlag::O_RDONLY,
            )?
        }
        Opening::Ring => unsafe_calls::ring_open(path)?,
    };
    let mut file = std::fs::File::from(file);
    let mut all = Vec::new();
    // In large pieces, as cat(1) does: see `slice_loader::kernel::views`.
    let mut piece = vec![0; 128 * 1024];
    loop {
        match file.read(&mut piece).map_err(errno)? {
            0 => return Ok(String::from_utf8_lossy(&all).into_owned()),
            read => all.extend_from_slice(&piece[..read]),
        }
    }
}

/// Waits until there is something to read; ETIMEDOUT where there is nothing.
fn wait(socket: &OwnedFd, deadline: Duration) -> Result<(), Errno> {
    let until = Instant::now() + deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).map_err(|_| Errno::EINVAL)?;
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Control messages as `cmsg(3)` lays them out: length, level, name, bytes,
/// padded to a word.
fn packed(control: &[Control]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in control {
        bytes.extend((16 + message.value.len()).to_ne_bytes());
        bytes.extend(message.level.to_ne_bytes());
        bytes.extend(message.name.to_ne_bytes());
        bytes.extend(&message.value);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}
