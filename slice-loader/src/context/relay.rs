//! The caller's terminal joined to one of the slice's, so that neither is the
//! other.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::visit::Ready;

/// The caller's terminal joined to one of the slice's.
pub(super) struct Relay {
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
    pub(super) fn new(master: OwnedFd) -> anyhow::Result<Self> {
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

    pub(super) fn resize(&self) {
        if let Ok(size) = tcgetwinsize(io::stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    pub(super) fn wait(
        &mut self,
        connection: &OwnedFd,
        signals: &SignalFd,
    ) -> anyhow::Result<Ready> {
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
    pub(super) fn drain(&mut self) {
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
