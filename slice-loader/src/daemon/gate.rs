//! The way in: the lock that lets one daemon run, and the socket of the API.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use tokio::net::UnixListener;

use super::SOCKET;
use crate::cli::exit::{Exit, Failure};

/// Held for the life of the daemon.
pub(super) struct Gate {
    _lock: Flock<File>,
    listening: bool,
}

const LOCK: &str = "/run/slice/daemon.lock";

impl Gate {
    /// Takes the place of the daemon, or says who has it.
    pub(super) fn take() -> anyhow::Result<Self> {
        if let Some(directory) = Path::new(LOCK).parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("make the directory {}", directory.display()))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(LOCK)
            .with_context(|| format!("open {LOCK}"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0)?;
                writeln!(lock, "{}", std::process::id())
                    .with_context(|| format!("write {LOCK}"))?;
                Ok(Self {
                    _lock: lock,
                    listening: false,
                })
            }
            Err((file, Errno::EWOULDBLOCK)) => Err(taken(file).into()),
            Err((_, errno)) => Err(errno).with_context(|| format!("lock {LOCK}")),
        }
    }

    /// The socket of the API. One left by a dead daemon is replaced: the lock
    /// says that nobody listens there.
    pub(super) fn listen(&mut self) -> anyhow::Result<UnixListener> {
        match fs::remove_file(SOCKET) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove the old socket {SOCKET}"));
            }
            _ => {}
        }
        // The socket is never open to others, not even between bind and chmod.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(SOCKET);
        umask(before);
        self.listening = true;
        listener.with_context(|| format!("listen on {SOCKET}"))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if self.listening {
            // A socket that stays is replaced by the next daemon.
            let _ = fs::remove_file(SOCKET);
        }
    }
}

fn taken(mut file: File) -> Failure {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let who = match read {
        Ok(_) if !text.trim().is_empty() => format!(" (process {})", text.trim()),
        _ => String::new(),
    };
    Failure::new(
        Exit::Busy,
        format!("start the daemon: another one runs{who}"),
    )
    .remedy("stop it first, or let it be: `slice events` and `slice status` reach it")
}
