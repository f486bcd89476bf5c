//! The context of a slice as the node sees it: `/run/slice/contexts/NAME`,
//! with the socket at which the slice's first process listens. It is alive if
//! somebody does: no process id is remembered that another process may have.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt,
    socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};

use super::shown::{self, Shown};
use crate::sys::short_file;

/// Where all contexts are.
const DIRECTORY: &str = "/run/slice/contexts";

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A slice's context, alive or not.
#[derive(Clone, Debug)]
pub struct Running {
    directory: PathBuf,
    shown: Shown,
}

/// What a context was started with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The image.
    pub image: String,
    /// Its version.
    pub version: u32,
    /// When, seconds since 1970.
    pub since: u64,
}

/// Whether a context runs, as its files and its cgroup tell: nothing is asked of
/// the slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Life {
    /// Never started, stopped, or its first process ended.
    Stopped,
    /// Its processes run.
    Running,
    /// They stand still until `slice thaw`.
    Frozen,
}

/// The first process of a slice is there and takes no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the slice's first process takes no more connections")
    }
}

impl std::error::Error for NoAnswer {}

impl Running {
    /// Of the slice of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self {
            directory: Path::new(DIRECTORY).join(name),
            shown: Shown::of(name),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("init.sock")
    }

    fn started_file(&self) -> PathBuf {
        self.directory.join("context.json")
    }

    /// Makes its directory and the socket that the first process will inherit,
    /// which this user of the node may connect to beside root. What a context
    /// that has ended left is replaced.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn listen(&self, uid: u32) -> anyhow::Result<OwnedFd> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.directory)
            .with_context(|| format!("make {}", self.directory.display()))?;
        let path = self.socket();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
        let listener = packets()?;
        // Never open to others, not even between bind and chmod.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixAddr::new(&path).and_then(|at| bind(listener.as_raw_fd(), &at));
        umask(before);
        bound.with_context(|| format!("bind {}", path.display()))?;
        chown(&path, Some(uid), None)
            .with_context(|| format!("give {} to uid {uid}", path.display()))?;
        listen(&listener, Backlog::new(BACKLOG)?)
            .with_context(|| format!("listen on {}", path.display()))?;
        Ok(listener)
    }

    /// A connection to the first process; none where the slice does not run.
    ///
    /// # Errors
    /// It runs and does not answer: a slice can let its first process stand
    /// still, or take its socket; or whether it runs cannot be found out.
    pub fn connect(&self) -> anyhow::Result<Option<OwnedFd>> {
        let path = self.socket();
        let connection = packets()?;
        // A slice that lets others wait at the socket must not keep the node.
        let flags = OFlag::from_bits_retain(fcntl(&connection, FcntlArg::F_GETFL)?);
        fcntl(&connection, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        match UnixAddr::new(&path).and_then(|at| connect(connection.as_raw_fd(), &at)) {
            Ok(()) => {}
            Err(Errno::ECONNREFUSED | Errno::ENOENT) => return Ok(None),
            Err(Errno::EAGAIN) => return Err(NoAnswer.into()),
            Err(errno) => {
                return Err(errno).with_context(|| format!("connect to {}", path.display()));
            }
        }
        fcntl(&connection, FcntlArg::F_SETFL(flags))?;
        Ok(Some(connection))
    }

    /// Whether it runs, answering or not.
    ///
    /// # Errors
    /// That cannot be found out.
    pub fn is_alive(&self) -> anyhow::Result<bool> {
        match self.connect() {
            Ok(connection) => Ok(connection.is_some()),
            Err(error) if error.is::<NoAnswer>() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether it runs in this cgroup, told without a connection: the status of
    /// ten thousand slices wakes none of them. A cgroup that cannot be read has
    /// no processes.
    #[must_use]
    pub fn life(&self, cgroup: &Path) -> Life {
        let says = |file: &str, word: &str| {
            short_file::read(&cgroup.join(file))
                .is_ok_and(|text| text.lines().any(|line| line == word))
        };
        if !self.started_file().exists() || !says("payload/cgroup.events", "populated 1") {
            return Life::Stopped;
        }
        match says("cgroup.freeze", "1") {
            true => Life::Frozen,
            false => Life::Running,
        }
    }

    /// Remembers what it was started with.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remember(&self, started: &Started) -> anyhow::Result<()> {
        let path = self.started_file();
        let text = serde_json::to_string(started)?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// What it was started with; none where it never was, or that was lost.
    #[must_use]
    pub fn started(&self) -> Option<Started> {
        let text = fs::read(self.started_file()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes what is left of a context that has ended.
    ///
    /// # Errors
    /// Something cannot be removed; that nothing is there is no error.
    pub fn remove(&self) -> anyhow::Result<()> {
        // Both of them, whatever becomes of one.
        let removed = remove(&self.directory);
        self.shown.remove().context("remove its /run/slice")?;
        removed
    }
}

/// Removes what is left of all contexts; none runs.
///
/// # Errors
/// As [`Running::remove`].
pub fn remove_all() -> anyhow::Result<()> {
    let removed = remove(Path::new(DIRECTORY));
    shown::remove_all().context("remove /run/slice of all slices")?;
    removed
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// A socket for packets, with room for the longest request.
fn packets() -> anyhow::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("make a socket")?;
    // As much as the kernel lets everybody have.
    setsockopt(&socket, sockopt::SndBuf, &super::request::LONGEST).context("widen a socket")?;
    Ok(socket)
}
