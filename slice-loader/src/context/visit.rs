//! One command in a slice, from outside: asks the slice's first process, and
//! carries what the command reads and writes.
//!
//! A descriptor of the node that enters a slice stays usable there after the
//! command: so only pipes, sockets and regular files do, which whoever called
//! meant for the command. A terminal never does (a program could type into
//! it), nor a directory (a way to the node's files): what is read or written
//! there is copied.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::pipe2;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::request::{ANSWER, Answer, LONGEST, Request, Run, Stdio};
use crate::sys::process::owned;

/// Variables of the caller's environment that pass: what the terminal is and
/// which language people read.
const PASSED: [&str; 5] = ["TERM", "COLORTERM", "LANG", "TZ", "SSH_CONNECTION"];

/// Signals passed on to the command.
const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// How a visit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visited {
    /// The command ended with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// It could not be started.
    NotStarted(i32),
    /// The slice has no such user.
    NoUser,
    /// The slice ended meanwhile.
    SliceEnded,
}

impl Visited {
    /// The status a shell or env(1) would report.
    #[must_use]
    pub fn code(self) -> u8 {
        let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        match self {
            Self::Exited(status) => byte(status),
            Self::Signaled(signal) => byte(128 + signal),
            Self::NotStarted(libc::ENOENT) => 127,
            Self::NotStarted(_) => 126,
            Self::NoUser | Self::SliceEnded => 125,
        }
    }
}

/// Runs something in the slice behind `connection` and waits for it.
///
/// # Errors
/// The connection breaks before the request is told, or a stream does.
pub fn visit(
    connection: &OwnedFd,
    run: Run,
    user: &str,
    terminal: bool,
) -> anyhow::Result<Visited> {
    // Blocked before the command exists, so that none is lost in between.
    let mut signals: SigSet = FORWARDED.into_iter().collect();
    signals.add(Signal::SIGWINCH);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).context("block signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("hear signals")?;

    let streams = if terminal {
        None
    } else {
        Some(Streams::of_this_process()?)
    };
    let size = tcgetwinsize(io::stdin()).or_else(|_| tcgetwinsize(io::stdout()));
    let request = Request {
        run,
        user: user.as_bytes().to_vec(),
        environment: environment(),
        terminal: terminal.then(|| size.map_or((0, 0), |size| (size.ws_row, size.ws_col))),
        stdio: streams
            .as_ref()
            .map_or([Stdio::Null; 3], |streams| streams.kinds),
    };
    let passed = streams.as_ref().map(Streams::passed).unwrap_or_default();
    tell(connection, &request, &passed)?;
    let mut copied = Vec::new();
    if let Some(streams) = streams {
        copied = streams.into_copying();
    }
    let visited = follow(connection, &signals, terminal)?;
    // What the command wrote is written before its status is known; input may
    // be waited for forever.
    for thread in copied {
        let _ = thread.join();
    }
    Ok(visited)
}

/// Asks the slice's processes to end within so many milliseconds, and waits for
/// the answer, but not longer than `patience`, whatever the slice does.
///
/// # Errors
/// The connection cannot be used.
pub fn stop(connection: &OwnedFd, milliseconds: u32, patience: Duration) -> anyhow::Result<()> {
    let request = Request {
        run: Run::Stop(milliseconds),
        user: b"root".to_vec(),
        environment: Vec::new(),
        terminal: None,
        stdio: [Stdio::Null; 3],
    };
    tell(connection, &request, &[])?;
    let mut ready = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    poll(&mut ready, patience).context("wait for the slice to stop")?;
    Ok(())
}

fn tell(connection: &OwnedFd, request: &Request, passed: &[RawFd]) -> anyhow::Result<()> {
    let bytes = request.to_bytes();
    ensure!(
        bytes.len() <= LONGEST,
        "run a command of {} bytes: a slice takes at most {LONGEST}",
        bytes.len()
    );
    let rights = [ControlMessage::ScmRights(passed)];
    let control = if passed.is_empty() { &[] } else { &rights[..] };
    sendmsg::<()>(
        connection.as_raw_fd(),
        &[IoSlice::new(&bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .context("ask the slice's first process")?;
    Ok(())
}

fn environment() -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    std::env::vars_os()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            PASSED.contains(&&*name) || name.starts_with("LC_")
        })
        .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
        .collect()
}

/// What the three streams of this process become.
struct Streams {
    kinds: [Stdio; 3],
    /// Ends of pipes that go to the command, where a stream is copied.
    pipes: [Option<Pipe>; 3],
}

struct Pipe {
    theirs: OwnedFd,
    ours: OwnedFd,
}

impl Streams {
    fn of_this_process() -> anyhow::Result<Self> {
        let mut streams = Self {
            kinds: [Stdio::Passed; 3],
            pipes: [None, None, None],
        };
        for stream in 0..3 {
            match Kind::of(standard(stream)) {
                Kind::Nothing => streams.kinds[stream] = Stdio::Null,
                Kind::Passable => {}
                Kind::Copied => {
                    let (read, write) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
                    let (theirs, ours) = if stream == 0 {
                        (read, write)
                    } else {
                        (write, read)
                    };
                    streams.pipes[stream] = Some(Pipe { theirs, ours });
                }
            }
        }
        Ok(streams)
    }

    fn passed(&self) -> Vec<RawFd> {
        (0..3)
            .filter(|stream| self.kinds[*stream] == Stdio::Passed)
            .map(|stream| match &self.pipes[stream] {
                Some(pipe) => pipe.theirs.as_raw_fd(),
                None => standard(stream).as_raw_fd(),
            })
            .collect()
    }

    /// Copies what has to be; the threads of output are to be waited for.
    fn into_copying(self) -> Vec<JoinHandle<()>> {
        let [input, output, error] = self.pipes;
        if let Some(Pipe { ours, .. }) = input {
            thread::spawn(move || copy(io::stdin(), File::from(ours)));
        }
        let mut waited = Vec::new();
        if let Some(Pipe { ours, .. }) = output {
            waited.push(thread::spawn(move || copy(File::from(ours), io::stdout())));
        }
        if let Some(Pipe { ours, .. }) = error {
            waited.push(thread::spawn(move || copy(File::from(ours), io::stderr())));
        }
        waited
    }
}

/// Until the one ends or the other is closed.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if to
                    .write_all(&buffer[..length])
                    .and_then(|()| to.flush())
                    .is_err()
                {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn standard(stream: usize) -> BorrowedFd<'static> {
    match stream {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}

/// What may become of a descriptor.
enum Kind {
    /// Closed, or /dev/null.
    Nothing,
    Passable,
    Copied,
}

impl Kind {
    fn of(descriptor: BorrowedFd<'_>) -> Self {
        let Ok(stat) = fstat(descriptor) else {
            return Self::Nothing;
        };
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK || kind == SFlag::S_IFREG {
            return Self::Passable;
        }
        if kind == SFlag::S_IFCHR && stat.st_rdev == libc::makedev(1, 3) {
            return Self::Nothing;
        }
        Self::Copied
    }
}

/// Carries until the command has ended.
fn follow(connection: &OwnedFd, signals: &SignalFd, terminal: bool) -> anyhow::Result<Visited> {
    let mut screen = None;
    loop {
        let relayed = match &mut screen {
            Some(screen) => Relay::wait(screen, connection, signals)?,
            None => Ready::wait(connection, signals)?,
        };
        if relayed.signal
            && let Some(signal) = signals.read_signal().context("hear signals")?
            && let Ok(signal) = i32::try_from(signal.ssi_signo)
        {
            match &screen {
                Some(screen) if signal == libc::SIGWINCH => screen.resize(),
                _ => {
                    let bytes = Answer::Signaled(signal).to_bytes();
                    let _ = nix::sys::socket::send(
                        connection.as_raw_fd(),
                        &bytes,
                        MsgFlags::MSG_NOSIGNAL,
                    );
                }
            }
        }
        if !relayed.answer {
            continue;
        }
        let (answer, descriptor) = receive(connection)?;
        let visited = match answer {
            Some(Answer::Terminal) if terminal && screen.is_none() => {
                let Some(master) = descriptor else {
                    bail!("run a command on a terminal: the slice gave none");
                };
                screen = Some(Relay::new(master)?);
                continue;
            }
            Some(Answer::Exited(status)) => Visited::Exited(status),
            Some(Answer::Signaled(signal)) => Visited::Signaled(signal),
            Some(Answer::NotStarted(errno)) => Visited::NotStarted(errno),
            Some(Answer::NoUser) => Visited::NoUser,
            Some(Answer::Terminal) | None => Visited::SliceEnded,
        };
        if let Some(screen) = &mut screen {
            screen.drain();
        }
        return Ok(visited);
    }
}

fn receive(connection: &OwnedFd) -> anyhow::Result<(Option<Answer>, Option<OwnedFd>)> {
    let mut bytes = [0; ANSWER];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<()>(
        connection.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    );
    let message = match received {
        // Whoever had the other end is gone.
        Err(Errno::ECONNRESET) => return Ok((None, None)),
        received => received.context("hear from the slice's first process")?,
    };
    let length = message.bytes;
    let mut descriptor = None;
    for control in message
        .cmsgs()
        .context("hear from the slice's first process")?
    {
        if let ControlMessageOwned::ScmRights(rights) = control {
            for right in rights {
                // The last one; others are closed.
                descriptor = Some(owned(right));
            }
        }
    }
    Ok((bytes.get(..length).and_then(Answer::from_bytes), descriptor))
}

/// What there is to do.
struct Ready {
    signal: bool,
    answer: bool,
}

impl Ready {
    fn wait(connection: &OwnedFd, signals: &SignalFd) -> anyhow::Result<Self> {
        let mut ready = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(connection.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for the command"),
        }
        Ok(Self {
            signal: ready[0].any() == Some(true),
            answer: ready[1].any() == Some(true),
        })
    }
}

/// The caller's terminal joined to one of the slice's.
struct Relay {
    /// The slice's; it may be anything, since the slice gave it.
    master: File,
    /// Typed and not taken yet.
    typed: Vec<u8>,
    /// The caller's terminal as it was.
    before: Option<Termios>,
    input: bool,
    output: bool,
}

/// Most bytes typed ahead.
const TYPED: usize = 64 * 1024;

impl Relay {
    fn new(master: OwnedFd) -> anyhow::Result<Self> {
        // A slice that does not read must not keep us from writing to the
        // screen.
        let flags = OFlag::from_bits_truncate(fcntl(&master, FcntlArg::F_GETFL)?);
        fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(io::stdin(), OptionalActions::Drain, &raw).context("set the terminal raw")?;
        }
        Ok(Self {
            master: File::from(master),
            typed: Vec::new(),
            before,
            input: true,
            output: true,
        })
    }

    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(io::stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    fn wait(&mut self, connection: &OwnedFd, signals: &SignalFd) -> anyhow::Result<Ready> {
        let stdin = io::stdin();
        let none = PollFlags::empty();
        let reading = self.input && self.typed.len() < TYPED;
        let mut wanted = if self.output { PollFlags::POLLIN } else { none };
        if !self.typed.is_empty() {
            wanted |= PollFlags::POLLOUT;
        }
        let mut ready = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(connection.as_fd(), PollFlags::POLLIN),
            PollFd::new(
                stdin.as_fd(),
                if reading { PollFlags::POLLIN } else { none },
            ),
            PollFd::new(self.master.as_fd(), wanted),
        ];
        // A descriptor that hung up is always ready: one that is done with is
        // not asked about.
        let count = match (self.output || !self.typed.is_empty(), reading) {
            (true, _) => 4,
            (false, true) => 3,
            (false, false) => 2,
        };
        match poll(&mut ready[..count], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for the terminal"),
        }
        let any = |at: usize| at < count && ready[at].any() == Some(true);
        let (signal, answer, typed, shown) = (any(0), any(1), any(2) && reading, any(3));
        if typed {
            let mut buffer = [0; 4096];
            match nix::unistd::read(&stdin, &mut buffer) {
                Ok(0) | Err(Errno::EIO) => self.input = false,
                Ok(length) => self.typed.extend_from_slice(&buffer[..length]),
                Err(_) => {}
            }
        }
        if shown {
            self.show();
            self.take();
        }
        Ok(Ready { signal, answer })
    }

    /// Hands on what was typed, as far as the slice takes it.
    fn take(&mut self) {
        if self.typed.is_empty() {
            return;
        }
        match self.master.write(&self.typed) {
            Ok(length) => drop(self.typed.drain(..length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.typed.clear(),
        }
    }

    /// Shows what there is; whether there was anything.
    fn show(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.master.read(&mut buffer) {
            Ok(0) => self.output = false,
            Ok(length) => {
                let mut out = io::stdout().lock();
                if out
                    .write_all(&buffer[..length])
                    .and_then(|()| out.flush())
                    .is_err()
                {
                    self.output = false;
                }
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // EIO: nobody has the other side open any more.
            Err(_) => self.output = false,
        }
        false
    }

    /// Shows what the command left behind, not what others write from now on.
    fn drain(&mut self) {
        const MOST: usize = 256;
        let mut left = MOST;
        while left > 0 && self.output && self.show() {
            left -= 1;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Whether the caller sits at a terminal.
#[must_use]
pub fn at_terminal() -> bool {
    isatty(io::stdin()) && isatty(io::stdout())
}
