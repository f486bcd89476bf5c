//! One command in a slice, from outside: asks the slice's first process, and
//! carries what the command reads and writes.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use rustix::termios::{isatty, tcgetwinsize};

use super::enter::FORWARDED;
use super::relay::Relay;
use super::request::{ANSWER, Answer, LONGEST, Request, Run, Stdio};
use super::streams::Streams;
use crate::sys::process::owned;

/// Variables of the caller's environment that pass: what the terminal is and
/// which language people read.
const PASSED: [&str; 5] = ["TERM", "COLORTERM", "LANG", "TZ", "SSH_CONNECTION"];

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
    let copying = streams.map(Streams::into_copying).transpose()?;
    let visited = follow(connection, &signals, terminal)?;
    if let Some(copying) = copying {
        copying.finish();
    }
    Ok(visited)
}

/// A slice whose processes were asked to end.
#[derive(Debug)]
pub struct Asked {
    connection: OwnedFd,
    until: Instant,
}

impl Asked {
    /// Asks them to end within so many milliseconds; the answer is waited for
    /// not longer than `patience`, whatever the slice does.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn new(connection: OwnedFd, milliseconds: u32, patience: Duration) -> anyhow::Result<Self> {
        let request = Request {
            run: Run::Stop(milliseconds),
            user: b"root".to_vec(),
            environment: Vec::new(),
            terminal: None,
            stdio: [Stdio::Null; 3],
        };
        tell(&connection, &request, &[])?;
        let until = Instant::now() + patience;
        Ok(Self { connection, until })
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn wait(self) -> anyhow::Result<()> {
        let mut ready = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
        let left = self.until.saturating_duration_since(Instant::now());
        let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut ready, patience).context("wait for the slice to stop")?;
        Ok(())
    }
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
pub(super) struct Ready {
    /// A signal came.
    pub(super) signal: bool,
    /// The slice said something.
    pub(super) answer: bool,
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

/// Whether the caller sits at a terminal.
#[must_use]
pub fn at_terminal() -> bool {
    isatty(io::stdin()) && isatty(io::stdout())
}
