//! The way in: the lock that lets one daemon run, and the socket of the API.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use tokio::net::UnixListener;

use super::SOCKET;
use crate::cli::exit::{Exit, Failure};
use crate::node;

/// Held for the life of the daemon.
pub(super) struct Gate {
    _lock: Flock<File>,
}

/// A daemon looks every second whether the node is still up.
const LEAVING: Duration = Duration::from_secs(3);

const LOCK: &str = "/run/slice/daemon.lock";

impl Gate {
    /// Takes the place of the daemon, or says who has it.
    pub(super) fn take() -> anyhow::Result<Self> {
        let mut lock = match lock()? {
            Ok(lock) => lock,
            Err(other) => return Err(taken(other).into()),
        };
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .with_context(|| format!("write {LOCK}"))?;
        Ok(Self { _lock: lock })
    }

    /// The socket of the API. One left by a dead daemon is replaced: the lock
    /// says that nobody listens there.
    pub(super) fn listen(&self) -> anyhow::Result<UnixListener> {
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
        listener.with_context(|| format!("listen on {SOCKET}"))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Under the lock, which goes last. What stays is replaced by the next
        // daemon.
        let _ = fs::remove_file(SOCKET);
        let _ = fs::remove_file(LOCK);
        // The last one out; while the node is up the directory is not empty.
        let _ = fs::remove_dir(node::DIRECTORY);
    }
}

/// After the node was taken down: removes what a daemon that was killed left,
/// and waits a moment for one that runs, which leaves by itself.
///
/// # Errors
/// The lock cannot be asked.
pub fn clear_away() -> anyhow::Result<()> {
    let until = Instant::now() + LEAVING;
    while Path::new(LOCK).exists() && Instant::now() < until {
        match lock()? {
            Ok(lock) => drop(Gate { _lock: lock }),
            Err(_) => thread::sleep(LEAVING / 100),
        }
    }
    Ok(())
}

/// The lock, or the file whose lock another process has.
fn lock() -> anyhow::Result<Result<Flock<File>, File>> {
    fs::create_dir_all(node::DIRECTORY)
        .with_context(|| format!("make the directory {}", node::DIRECTORY))?;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(LOCK)
            .with_context(|| format!("open {LOCK}"))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, Errno::EWOULDBLOCK)) => return Ok(Err(file)),
            Err((_, errno)) => return Err(errno).with_context(|| format!("lock {LOCK}")),
        };
        // The one before us may have removed the file between our open and our
        // lock: then we hold the lock of nothing.
        let ours = lock.metadata().with_context(|| format!("look at {LOCK}"))?;
        match fs::metadata(LOCK) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                return Ok(Ok(lock));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("look at {LOCK}")),
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
