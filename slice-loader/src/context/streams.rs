//! What of the caller's standard streams enters a slice.
//!
//! A descriptor of the node that enters a slice stays usable there after the
//! command: so only pipes, sockets and regular files do, which whoever called
//! meant for the command. A terminal never does (a program could type into
//! it), nor a directory (a way to the node's files): what is read or written
//! there is copied.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::Context;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::pipe2;

use super::request::Stdio;

/// Most bytes that lie in a pipe: the kernel's own bound for those who are not root
/// (`/proc/sys/fs/pipe-max-size`).
const PIPE_MOST: usize = 1 << 20;

/// What the three streams of this process become.
pub(super) struct Streams {
    /// What the request says of them.
    pub(super) kinds: [Stdio; 3],
    /// Ends of pipes that go to the command, where a stream is copied.
    pipes: [Option<Pipe>; 3],
}

struct Pipe {
    theirs: OwnedFd,
    ours: OwnedFd,
}

impl Streams {
    pub(super) fn of_this_process() -> anyhow::Result<Self> {
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

    /// The descriptors that go with the request.
    pub(super) fn passed(&self) -> Vec<RawFd> {
        (0..3)
            .filter(|stream| self.kinds[*stream] == Stdio::Passed)
            .map(|stream| match &self.pipes[stream] {
                Some(pipe) => pipe.theirs.as_raw_fd(),
                None => standard(stream).as_raw_fd(),
            })
            .collect()
    }

    /// Copies what has to be.
    pub(super) fn into_copying(self) -> anyhow::Result<Copying> {
        let (ended, command) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
        let ended = Arc::new(ended);
        let [input, output, error] = self.pipes;
        if let Some(Pipe { ours, .. }) = input {
            thread::spawn(move || copy(io::stdin(), File::from(ours)));
        }
        let mut outputs = Vec::new();
        if let Some(Pipe { ours, .. }) = output {
            let ended = Arc::clone(&ended);
            outputs.push(thread::spawn(move || {
                copy(Output::new(ours, ended), io::stdout());
            }));
        }
        if let Some(Pipe { ours, .. }) = error {
            outputs.push(thread::spawn(move || {
                copy(Output::new(ours, ended), io::stderr());
            }));
        }
        Ok(Copying { outputs, command })
    }
}

/// Output on its way.
pub(super) struct Copying {
    outputs: Vec<JoinHandle<()>>,
    /// Closed when the command has ended.
    command: OwnedFd,
}

impl Copying {
    /// The command has ended: waits until what it wrote is written, and for nothing
    /// that a process which it left behind writes later.
    pub(super) fn finish(self) {
        drop(self.command);
        for output in self.outputs {
            let _ = output.join();
        }
    }
}

/// What a command writes, up to its end: a process that it left behind may hold the
/// pipe open, and write to it, for ever.
struct Output {
    pipe: File,
    /// Closed at its other end when the command has ended.
    ended: Arc<OwnedFd>,
    /// How much is still read after that.
    rest: usize,
}

impl Output {
    fn new(pipe: OwnedFd, ended: Arc<OwnedFd>) -> Self {
        Self {
            pipe: File::from(pipe),
            ended,
            rest: PIPE_MOST,
        }
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ready = [
            PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ready, PollTimeout::NONE)?;
        let [written, ended] = ready.map(|of| of.any() == Some(true));
        if ended && (!written || self.rest == 0) {
            return Ok(0);
        }
        let length = self.pipe.read(buffer)?;
        if ended {
            self.rest = self.rest.saturating_sub(length);
        }
        Ok(length)
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
