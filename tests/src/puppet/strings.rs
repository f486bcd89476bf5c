//! The test's end: a puppet, and the sockets that live in it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{Answer, Call, Control, Naming, Opening, Value};

/// A process that makes the calls that the test tells it.
pub struct Puppet {
    name: String,
    string: OwnedFd,
    child: Child,
}

/// A socket in a puppet; closed when this is dropped.
pub struct Sock<'p> {
    puppet: &'p Puppet,
    number: u32,
}

/// A call that the kernel refused.
#[derive(Debug)]
pub struct Refused {
    /// Who asked for what.
    pub what: String,
    /// What the kernel answered.
    pub errno: Errno,
}

/// What a call in a puppet returns.
pub type Called<T> = std::result::Result<T, Refused>;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.what, self.errno)
    }
}

impl std::error::Error for Refused {}

/// The sockets that ordinary programs make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tcp4,
    /// IPv6 alone.
    Tcp6,
    /// IPv6 and IPv4 in one socket.
    TcpDual,
    Udp4,
    Udp6,
    UdpDual,
}

impl Kind {
    /// TCP.
    pub const TCP: [Kind; 3] = [Kind::Tcp4, Kind::Tcp6, Kind::TcpDual];
    /// UDP.
    pub const UDP: [Kind; 3] = [Kind::Udp4, Kind::Udp6, Kind::UdpDual];
    /// All.
    pub const ALL: [Kind; 6] = [
        Kind::Tcp4,
        Kind::Tcp6,
        Kind::TcpDual,
        Kind::Udp4,
        Kind::Udp6,
        Kind::UdpDual,
    ];

    /// Whether it is TCP.
    pub const fn is_tcp(self) -> bool {
        matches!(self, Kind::Tcp4 | Kind::Tcp6 | Kind::TcpDual)
    }

    /// The kinds of the same protocol.
    pub const fn relatives(self) -> [Kind; 3] {
        if self.is_tcp() { Kind::TCP } else { Kind::UDP }
    }

    /// `AF_INET` or `AF_INET6`.
    pub const fn family(self) -> i32 {
        match self {
            Kind::Tcp4 | Kind::Udp4 => libc::AF_INET,
            _ => libc::AF_INET6,
        }
    }

    /// The port at the wildcard address of the family.
    pub const fn any(self, port: u16) -> SocketAddr {
        match self {
            Kind::Tcp4 | Kind::Udp4 => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            _ => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        }
    }

    /// The kind for an address of its own family.
    pub const fn tcp_for(address: IpAddr) -> Kind {
        if address.is_ipv4() {
            Kind::Tcp4
        } else {
            Kind::Tcp6
        }
    }

    /// The kind for an address of its own family.
    pub const fn udp_for(address: IpAddr) -> Kind {
        if address.is_ipv4() {
            Kind::Udp4
        } else {
            Kind::Udp6
        }
    }
}

impl Puppet {
    /// Starts `command`, which is to end as `slice-tests puppet`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, mut command: Command, inherited: Option<OwnedFd>) -> Result<Puppet> {
        let (string, hand) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .context("make a string")?;
        let child = command
            .stdin(hand)
            .stdout(inherited.map_or_else(Stdio::null, Stdio::from))
            .spawn()
            .with_context(|| format!("start the puppet of {name}"))?;
        Ok(Puppet {
            name: name.to_owned(),
            string,
            child,
        })
    }

    fn pull(
        &self,
        call: &Call,
        beside: Option<OwnedFd>,
        what: impl FnOnce() -> String,
    ) -> Called<(Value, Option<OwnedFd>)> {
        let spoken = || -> Result<(Answer, Option<OwnedFd>)> {
            let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
            super::send(self.string.as_fd(), &serde_json::to_vec(call)?, &beside)?;
            let (bytes, mut descriptors) =
                super::receive(self.string.as_fd())?.context("the puppet is gone")?;
            Ok((serde_json::from_slice(&bytes)?, descriptors.pop()))
        };
        let refused = |errno| Refused {
            what: format!("{}: {}", self.name, what()),
            errno,
        };
        match spoken() {
            Ok((Ok(value), descriptor)) => Ok((value, descriptor)),
            Ok((Err(errno), _)) => Err(refused(Errno::from_raw(errno))),
            Err(error) => {
                eprintln!("puppet {}: {error:#}", self.name);
                Err(refused(Errno::UnknownErrno))
            }
        }
    }

    fn new_socket(&self, call: &Call, what: impl FnOnce() -> String) -> Called<Sock<'_>> {
        match self.pull(call, None, what)?.0 {
            Value::Socket(number) => Ok(Sock {
                puppet: self,
                number,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// `socket(2)` with any numbers.
    pub fn raw_socket(&self, family: i32, kind: i32, protocol: i32) -> Called<Sock<'_>> {
        self.new_socket(
            &Call::Socket {
                family,
                kind,
                protocol,
            },
            || format!("socket {family} {kind} {protocol}"),
        )
    }

    /// `socket(2)` by io_uring.
    pub fn ring_socket(&self, family: i32, kind: i32, protocol: i32) -> Called<Sock<'_>> {
        self.new_socket(
            &Call::RingSocket {
                family,
                kind,
                protocol,
            },
            || format!("socket {family} {kind} {protocol} by io_uring"),
        )
    }

    /// A socket of this kind.
    pub fn socket(&self, kind: Kind) -> Called<Sock<'_>> {
        let number = if kind.is_tcp() {
            libc::SOCK_STREAM
        } else {
            libc::SOCK_DGRAM
        };
        let call = Call::Socket {
            family: kind.family(),
            kind: number,
            protocol: 0,
        };
        let socket = self.new_socket(&call, || format!("socket {kind:?}"))?;
        if matches!(kind, Kind::Tcp6 | Kind::Udp6) {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        }
        Ok(socket)
    }

    /// A socket of this kind, bound to a port of all addresses; TCP listens.
    pub fn server(&self, kind: Kind, port: u16) -> Called<Sock<'_>> {
        self.server_at(kind, kind.any(port))
    }

    /// A socket of this kind, bound there; TCP listens.
    pub fn server_at(&self, kind: Kind, at: SocketAddr) -> Called<Sock<'_>> {
        let socket = self.socket(kind)?;
        socket.bind(at)?;
        if kind.is_tcp() {
            socket.listen()?;
        }
        Ok(socket)
    }

    /// A TCP connection.
    pub fn connected(&self, to: SocketAddr) -> Called<Sock<'_>> {
        let socket = self.socket(Kind::tcp_for(to.ip()))?;
        socket.connect(to)?;
        Ok(socket)
    }

    /// Gets a socket that another puppet gives (SCM_RIGHTS). The giver keeps
    /// its own descriptor.
    pub fn take(&self, socket: &Sock<'_>) -> Called<Sock<'_>> {
        let descriptor = socket.give()?;
        match self
            .pull(&Call::Take, Some(descriptor), || "take a socket".into())?
            .0
        {
            Value::Socket(number) => Ok(Sock {
                puppet: self,
                number,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// The socket that it was started with.
    pub fn inherited(&self) -> Called<Sock<'_>> {
        self.new_socket(&Call::Inherited, || "inherit a socket".into())
    }

    /// Moves it into a network namespace of its own.
    pub fn leave_for_own_network(&self) -> Called<()> {
        self.pull(&Call::OwnNetwork, None, || "unshare".into())
            .map(drop)
    }

    /// What a file says.
    pub fn read(&self, path: &str, how: Opening) -> Called<String> {
        let call = Call::Read {
            path: path.to_owned(),
            how,
        };
        match self
            .pull(&call, None, || format!("read {path} ({how:?})"))?
            .0
        {
            Value::Text(text) => Ok(text),
            other => Err(unexpected(&other)),
        }
    }

    /// Its process id, once it runs.
    pub fn pid(&self) -> Called<i64> {
        match self.pull(&Call::Pid, None, || "getpid".into())?.0 {
            Value::Number(pid) => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        // Its end of the string closed, the puppet leaves by itself.
        let _ = rustix::net::shutdown(&self.string, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

impl<'p> Sock<'p> {
    fn pull(&self, call: &Call, what: impl FnOnce() -> String) -> Called<Value> {
        Ok(self.puppet.pull(call, None, what)?.0)
    }

    /// `bind(2)`.
    pub fn bind(&self, to: SocketAddr) -> Called<()> {
        self.pull(
            &Call::Bind {
                socket: self.number,
                to,
            },
            || format!("bind {to}"),
        )
        .map(drop)
    }

    /// `bind(2)`, `connect(2)` or `sendto(2)` with an address of any family, as
    /// the kernel takes it.
    pub fn named(&self, how: Naming, address: &[u8]) -> Called<()> {
        let call = Call::Named {
            socket: self.number,
            how,
            address: address.to_vec(),
        };
        self.pull(&call, || format!("{how:?} {}", address.escape_ascii()))
            .map(drop)
    }

    /// `bind(2)` by io_uring.
    pub fn ring_bind(&self, to: SocketAddr) -> Called<()> {
        self.pull(
            &Call::RingBind {
                socket: self.number,
                to,
            },
            || format!("bind {to} by io_uring"),
        )
        .map(drop)
    }

    /// `listen(2)`.
    pub fn listen(&self) -> Called<()> {
        self.pull(
            &Call::Listen {
                socket: self.number,
            },
            || "listen".into(),
        )
        .map(drop)
    }

    /// `accept(2)`.
    pub fn accept(&self) -> Called<Sock<'p>> {
        match self.pull(
            &Call::Accept {
                socket: self.number,
            },
            || "accept".into(),
        )? {
            Value::Socket(number) => Ok(Sock {
                puppet: self.puppet,
                number,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// `connect(2)`.
    pub fn connect(&self, to: SocketAddr) -> Called<()> {
        self.connect_within(to, 5000)
    }

    /// The same; EINPROGRESS where nobody answered.
    pub fn connect_within(&self, to: SocketAddr, deadline_ms: u32) -> Called<()> {
        let call = Call::Connect {
            socket: self.number,
            to,
            deadline_ms,
        };
        self.pull(&call, || format!("connect {to}")).map(drop)
    }

    /// `connect(2)` with AF_UNSPEC.
    pub fn disconnect(&self) -> Called<()> {
        self.pull(
            &Call::Disconnect {
                socket: self.number,
            },
            || "disconnect".into(),
        )
        .map(drop)
    }

    /// `send(2)` to the peer.
    pub fn send(&self, bytes: usize) -> Called<()> {
        self.send_with(vec![b'x'; bytes], None, Vec::new())
    }

    /// `sendto(2)`.
    pub fn send_to(&self, bytes: usize, to: SocketAddr) -> Called<()> {
        self.send_with(vec![b'x'; bytes], Some(to), Vec::new())
    }

    /// `sendmsg(2)`.
    pub fn send_with(
        &self,
        payload: Vec<u8>,
        to: Option<SocketAddr>,
        control: Vec<Control>,
    ) -> Called<()> {
        let bytes = payload.len();
        let call = Call::Send {
            socket: self.number,
            payload,
            to,
            control,
        };
        self.pull(&call, || format!("send {bytes} bytes to {to:?}"))
            .map(drop)
    }

    /// `sendto(2)` of one byte to so many ports, from that of `to` on.
    pub fn spray(&self, to: SocketAddr, ports: u16) -> Called<()> {
        let call = Call::Spray {
            socket: self.number,
            to,
            ports,
        };
        self.pull(&call, || format!("send to {ports} ports from {to}"))
            .map(drop)
    }

    /// `recvfrom(2)`: how many bytes and, for datagrams, from whom.
    pub fn receive(&self) -> Called<(usize, Option<SocketAddr>)> {
        self.receive_within(5000)
    }

    /// The same; ETIMEDOUT where nothing came.
    pub fn receive_within(&self, deadline_ms: u32) -> Called<(usize, Option<SocketAddr>)> {
        let call = Call::Receive {
            socket: self.number,
            deadline_ms,
        };
        match self.pull(&call, || "receive".into())? {
            Value::Received { bytes, from } => Ok((bytes, from)),
            other => Err(unexpected(&other)),
        }
    }

    /// `setsockopt(2)` of an int.
    pub fn set(&self, level: i32, name: i32, value: i32) -> Called<()> {
        self.set_bytes(level, name, value.to_ne_bytes().to_vec())
    }

    /// `setsockopt(2)`.
    pub fn set_bytes(&self, level: i32, name: i32, value: Vec<u8>) -> Called<()> {
        let call = Call::SetOption {
            socket: self.number,
            level,
            name,
            value,
        };
        self.pull(&call, || format!("setsockopt {level} {name}"))
            .map(drop)
    }

    /// `getsockopt(2)` of an int.
    pub fn get(&self, level: i32, name: i32) -> Called<i64> {
        let call = Call::GetOption {
            socket: self.number,
            level,
            name,
        };
        match self.pull(&call, || format!("getsockopt {level} {name}"))? {
            Value::Number(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    /// `getsockname(2)`.
    pub fn name(&self) -> Called<SocketAddr> {
        match self.pull(
            &Call::Name {
                socket: self.number,
            },
            || "getsockname".into(),
        )? {
            Value::Address(address) => Ok(address),
            other => Err(unexpected(&other)),
        }
    }

    /// `getpeername(2)`.
    pub fn peer(&self) -> Called<SocketAddr> {
        match self.pull(
            &Call::Peer {
                socket: self.number,
            },
            || "getpeername".into(),
        )? {
            Value::Address(address) => Ok(address),
            other => Err(unexpected(&other)),
        }
    }

    /// The port of its name.
    pub fn port(&self) -> Called<u16> {
        Ok(self.name()?.port())
    }

    /// `shutdown(2)` of the sending half.
    pub fn shutdown(&self) -> Called<()> {
        self.pull(
            &Call::Shutdown {
                socket: self.number,
            },
            || "shutdown".into(),
        )
        .map(drop)
    }

    /// A descriptor of it in this process.
    pub fn give(&self) -> Called<OwnedFd> {
        let what = || "give a socket".to_owned();
        let (value, descriptor) = self.puppet.pull(
            &Call::Give {
                socket: self.number,
            },
            None,
            what,
        )?;
        descriptor.ok_or_else(|| unexpected(&value))
    }

    /// `close(2)`, and waits until the call has returned.
    pub fn close(self) {}
}

impl Drop for Sock<'_> {
    fn drop(&mut self) {
        let _ = self.pull(
            &Call::Close {
                socket: self.number,
            },
            || "close".into(),
        );
    }
}

fn unexpected(value: &Value) -> Refused {
    Refused {
        what: format!("the puppet answered {value:?}"),
        errno: Errno::UnknownErrno,
    }
}
