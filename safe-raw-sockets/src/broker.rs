//! The broker of one slice: answers its calls for raw and packet sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::audit;
use crate::caller::Caller;
use crate::filter::TYPE_MASK;
use crate::packets::Packets;
use crate::sys::{self, End};

/// Namespaces by their numbers, where a slice can make its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Namespaces {
    /// The node's network namespace.
    pub net: u64,
    /// The slice's user namespace.
    pub user: u64,
}

/// Opens a stream of the packets of all slices.
pub type OpenAudit = Box<dyn FnMut() -> io::Result<OwnedFd>>;

/// What a broker is given.
pub struct Broker {
    /// Where the calls come in.
    pub listener: OwnedFd,
    /// The filter of packet sockets: shows them what is the slice's.
    pub filter: OwnedFd,
    /// /proc/net/packet of the node.
    pub packets: OwnedFd,
    /// To compare with, where the slice can be elsewhere.
    pub namespaces: Option<Namespaces>,
    /// For a slice that has the grant.
    pub audit: Option<OpenAudit>,
}

/// Answers calls until no process of the slice is left.
///
/// # Errors
/// The listener is none.
pub fn serve(broker: Broker) -> io::Result<()> {
    let Broker {
        listener,
        filter,
        packets,
        namespaces,
        audit,
    } = broker;
    let mut maker = Maker {
        filter,
        packets: Packets::new(packets),
        audit,
    };
    loop {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => polled?,
        };
        let events = ready[0].revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            match sys::receive(listener.as_fd()) {
                Ok(call) => {
                    // Who no longer waits needs no answer.
                    let _ = answer(&listener, &call, &mut maker, namespaces);
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        } else if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            return Ok(());
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR))
}

/// Answers one call.
fn answer(
    listener: &OwnedFd,
    call: &libc::seccomp_notif,
    maker: &mut Maker,
    namespaces: Option<Namespaces>,
) -> io::Result<()> {
    let listener = listener.as_fd();
    let end = |end| sys::answer(listener, call.id, end);
    // The kernel takes no more of the arguments either.
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    let [family, kind, protocol] = [0, 1, 2].map(|at| (call.data.args[at] as u32).cast_signed());
    let wanted = Wanted {
        family,
        kind: kind & TYPE_MASK.cast_signed(),
        flags: kind & !TYPE_MASK.cast_signed(),
        protocol,
    };
    let allowed = match allowed(&Caller::of(call.pid), namespaces) {
        Ok(allowed) => allowed,
        // What cannot be found out is not allowed.
        Err(_) => Allowed::No,
    };
    if !sys::is_waiting(listener, call.id) {
        return Ok(());
    }
    match allowed {
        Allowed::Yes => {}
        Allowed::No => return end(End::Error(libc::EPERM)),
        Allowed::Elsewhere => return end(End::AsItWould),
    }
    // The kernel refuses what is asked of nobody, and counts it.
    if wanted.is_audit() && maker.audit.is_none() {
        return end(End::AsItWould);
    }
    let socket = match maker.make(&wanted) {
        Ok(socket) => socket,
        Err(error) => return end(End::Error(error.raw_os_error().unwrap_or(libc::EPERM))),
    };
    let close_on_exec = wanted.flags & libc::SOCK_CLOEXEC != 0;
    match sys::hand_over(listener, call.id, socket.as_fd(), close_on_exec) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            end(End::Error(error.raw_os_error().unwrap_or(libc::EMFILE)))
        }
        handed => handed,
    }
}

/// Whether a caller gets a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Allowed {
    Yes,
    No,
    /// It is in a network namespace of its own, which is its own affair.
    Elsewhere,
}

fn allowed(caller: &Caller, namespaces: Option<Namespaces>) -> io::Result<Allowed> {
    if let Some(Namespaces { net, user }) = namespaces {
        if !caller.is_in("net", net)? {
            return Ok(Allowed::Elsewhere);
        }
        // Whoever makes a user namespace has every right in there.
        if !caller.is_in("user", user)? {
            return Ok(Allowed::No);
        }
    }
    Ok(if caller.has_the_right()? {
        Allowed::Yes
    } else {
        Allowed::No
    })
}

/// The arguments of socket(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wanted {
    family: i32,
    kind: i32,
    flags: i32,
    protocol: i32,
}

impl Wanted {
    /// Whether it is the stream of the packets of all slices.
    fn is_audit(&self) -> bool {
        let asked = (self.family, self.kind, self.protocol);
        asked == (libc::AF_PACKET, libc::SOCK_STREAM, audit::PROTOCOL)
    }
}

/// Makes sockets.
struct Maker {
    filter: OwnedFd,
    packets: Packets,
    audit: Option<OpenAudit>,
}

impl Maker {
    /// A socket as the kernel would have made it, with its errors.
    fn make(&mut self, wanted: &Wanted) -> io::Result<OwnedFd> {
        let error = |errno| Err(io::Error::from_raw_os_error(errno));
        if wanted.flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
            return error(libc::EINVAL);
        }
        let kind = wanted.kind | wanted.flags & libc::SOCK_NONBLOCK;
        if wanted.is_audit()
            && let Some(open) = &mut self.audit
        {
            let stream = open()?;
            sys::set_nonblocking(stream.as_fd(), wanted.flags & libc::SOCK_NONBLOCK != 0)?;
            return Ok(stream);
        }
        if wanted.family != libc::AF_PACKET {
            let socket = sys::socket(wanted.family, kind, wanted.protocol)?;
            if wanted.family == libc::AF_INET {
                // The copy for the node's own members of a group has no socket, and the
                // rules for what raw sockets send do not see it. The slice cannot set it.
                let off = 0i32.to_ne_bytes();
                sys::set_option(
                    socket.as_fd(),
                    libc::IPPROTO_IP,
                    libc::IP_MULTICAST_LOOP,
                    &off,
                )?;
            }
            return Ok(socket);
        }
        if !matches!(wanted.kind, libc::SOCK_RAW | libc::SOCK_DGRAM) {
            return error(libc::ESOCKTNOSUPPORT);
        }
        if !self.packets.have_room()? {
            return error(libc::ENOBUFS);
        }
        // Without a protocol nothing comes in before the filter is there.
        let socket = sys::socket(wanted.family, kind, 0)?;
        sys::lock_filter(socket.as_fd(), self.filter.as_fd())?;
        // The kernel takes 16 bits of it too.
        #[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let protocol = wanted.protocol.cast_unsigned() as u16;
        if protocol != 0 {
            sys::bind_to_protocol(socket.as_fd(), protocol)?;
        }
        self.packets.add(&socket)?;
        Ok(socket)
    }
}
