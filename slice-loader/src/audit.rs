//! Packets of all slices, from the programs to who reads them: as pcapng into a
//! descriptor. Whoever does not read loses packets, and nobody waits.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::fstat;
use policy::SliceId;
use policy::abi::{AUDIT_MOST, AUDITED_IN, Audited};
use safe_raw_sockets::broker::OpenAudit;
use safe_raw_sockets::pcapng::{self, Way};

use crate::kernel::audit::{Reading, Right};
use crate::sys::clock::{monotonic_ns, realtime_ns};

/// How often who reads says so.
const AGAIN: u16 = 1000;
/// About how many octets are written at once.
const PIECE: usize = 64 << 10;
/// `PIPE_BUF`: as many as a pipe that can be written to takes without waiting.
const UNWAITED: usize = 4096;

/// For a broker: a stream, one at a time.
#[must_use]
pub fn opener(right: Right, owner: SliceId) -> OpenAudit {
    let right = Arc::new(right);
    let taken = Arc::new(AtomicBool::new(false));
    Box::new(move || {
        if taken.swap(true, Ordering::SeqCst) {
            return Err(Errno::EBUSY.into());
        }
        let opened = open(&right, owner, &taken);
        if opened.is_err() {
            taken.store(false, Ordering::SeqCst);
        }
        opened.map_err(|error| error.downcast().unwrap_or_else(io::Error::other))
    })
}

fn open(right: &Right, owner: SliceId, taken: &Arc<AtomicBool>) -> anyhow::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, flags);
    let (ours, theirs) = pair.map_err(io::Error::from)?;
    let mut reading = right.begin(owner)?;
    let taken = Arc::clone(taken);
    std::thread::Builder::new().spawn(move || {
        // It ends when the other end is closed, or with the broker.
        let _ = Pump::new().and_then(|mut pump| pump.run(&mut reading, None, ours.as_fd(), None));
        drop((reading, ours));
        taken.store(false, Ordering::SeqCst);
    })?;
    Ok(theirs)
}

/// How many octets a descriptor that can be written to takes without waiting: who
/// waited there would hear no signal.
fn most_at_once(to: BorrowedFd<'_>) -> anyhow::Result<usize> {
    let flags = fcntl(to, FcntlArg::F_GETFL).context("ask about where packets go")?;
    let kind = fstat(to).context("ask about where packets go")?.st_mode & libc::S_IFMT;
    let waits = flags & libc::O_NONBLOCK == 0 && kind != libc::S_IFREG;
    Ok(if waits { UNWAITED } else { usize::MAX })
}

/// From a ring to a descriptor.
pub struct Pump {
    /// What is to be written next.
    octets: Vec<u8>,
    /// Up to where it was.
    written: usize,
    /// Devices by their numbers: their places in the stream.
    devices: BTreeMap<u32, u32>,
    /// Lost packets that the stream tells of already.
    told: u64,
    /// From the monotonic clock to the time of day.
    ahead_ns: u64,
}

impl Pump {
    /// A stream that begins.
    ///
    /// # Errors
    /// The clocks cannot be read.
    pub fn new() -> anyhow::Result<Self> {
        let mut octets = Vec::with_capacity(2 * PIECE);
        pcapng::begin(&mut octets);
        let mut pump = Self {
            octets,
            written: 0,
            devices: BTreeMap::new(),
            told: 0,
            ahead_ns: realtime_ns()
                .context("read the clock")?
                .saturating_sub(monotonic_ns().context("read the clock")?),
        };
        // The first device, for which losses count.
        pump.place(1);
        Ok(pump)
    }

    /// Writes the packets, of one slice where it is named, until nobody reads or
    /// `stop` is readable.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run(
        &mut self,
        reading: &mut Reading,
        only: Option<SliceId>,
        to: BorrowedFd<'_>,
        stop: Option<BorrowedFd<'_>>,
    ) -> anyhow::Result<()> {
        let most = most_at_once(to)?;
        loop {
            reading.go_on()?;
            self.fill(reading, only)?;
            let full = self.written < self.octets.len();
            let mut watched = vec![PollFd::new(
                to,
                if full {
                    PollFlags::POLLOUT
                } else {
                    PollFlags::empty()
                },
            )];
            watched.extend(stop.map(|stop| PollFd::new(stop, PollFlags::POLLIN)));
            if !full {
                watched.push(PollFd::new(reading.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut watched, PollTimeout::from(AGAIN)) {
                Err(Errno::EINTR) => continue,
                polled => polled.context("wait for packets")?,
            };
            let come = |at: usize| watched.get(at).and_then(PollFd::revents);
            let closed = PollFlags::POLLHUP | PollFlags::POLLERR;
            if come(0).is_some_and(|events| events.intersects(closed))
                || stop.is_some() && come(1).is_some_and(|events| !events.is_empty())
            {
                return Ok(());
            }
            if come(0).is_some_and(|events| events.contains(PollFlags::POLLOUT)) {
                let rest = &self.octets[self.written..];
                match nix::unistd::write(to, &rest[..rest.len().min(most)]) {
                    Ok(count) => self.written += count,
                    Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(()),
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(error) => return Err(error).context("write the packets"),
                }
            }
        }
    }

    /// Takes what came, where the last piece is written.
    fn fill(&mut self, reading: &mut Reading, only: Option<SliceId>) -> anyhow::Result<()> {
        if self.written < self.octets.len() {
            return Ok(());
        }
        if self.written > 0 {
            self.octets.clear();
            self.written = 0;
        }
        let lost = reading.lost()?;
        if lost > self.told {
            self.told = lost;
            let now = realtime_ns().context("read the clock")?;
            pcapng::lost(&mut self.octets, now, lost);
        }
        while self.octets.len() < PIECE
            && reading.take(|packet, octets| {
                if only.is_none_or(|only| only.0 == packet.id.0) {
                    self.put(packet, octets);
                }
            })
        {}
        Ok(())
    }

    fn put(&mut self, packet: &Audited, octets: &[u8]) {
        let device = self.place(packet.device);
        let name = String::from_utf8_lossy(&packet.name);
        let way = if packet.way == AUDITED_IN {
            Way::In
        } else {
            Way::Out
        };
        pcapng::packet(
            &mut self.octets,
            name.trim_end_matches('\0'),
            packet.id.0,
            way,
            device,
            packet.time_ns.saturating_add(self.ahead_ns),
            packet.length,
            octets,
        );
    }

    /// The place of a device in the stream, which tells of it first.
    fn place(&mut self, number: u32) -> u32 {
        let next = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        let octets = &mut self.octets;
        *self.devices.entry(number).or_insert_with(|| {
            let name = nix::net::if_::if_indextoname(number);
            let name = name.map_or_else(
                |_| format!("device{number}"),
                |name| name.to_string_lossy().into_owned(),
            );
            pcapng::device(octets, &name, AUDIT_MOST);
            next
        })
    }
}
