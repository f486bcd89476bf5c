//! The first process of a slice: takes over what lost its parent, and starts
//! what it is asked to, so that entering a slice needs no rights over it.
//!
//! It runs as the slice's root inside the slice's namespaces. Its listening
//! socket is in a directory of the node's that the slice does not see; each
//! request is served by a child, so that one that stalls keeps nobody waiting.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{SockFlag, accept4};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::os::fd::AsRawFd;

use super::session;
use crate::sys::clone::{self, Side};

/// What every distribution runs at boot, where it is there.
const BOOT: &str = "/etc/rc.local";

/// Name servers of the node, as the starter found them.
const RESOLVER: &str = "/run/slice/resolv.conf";

/// Runs until the slice is killed.
///
/// # Errors
/// The listening socket is none.
pub fn run(listener: &OwnedFd) -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    // The others are ignored by the kernel for a first process.
    signals.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None).context("block signals")?;
    let children = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("watch children")?;
    furnish();
    boot();
    loop {
        let mut ready = [
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => polled.context("wait for requests")?,
        };
        if ready[0].any() == Some(true) {
            while children.read_signal().context("watch children")?.is_some() {}
            reap();
        }
        if ready[1].any() == Some(true) {
            serve(listener.as_fd());
        }
    }
}

/// Forgets every child that has ended.
fn reap() {
    while !matches!(
        waitpid(None, Some(WaitPidFlag::WNOHANG)),
        Ok(WaitStatus::StillAlive) | Err(_)
    ) {}
}

/// Takes one connection and leaves it to a child.
fn serve(listener: BorrowedFd<'_>) {
    let Ok(connection) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else {
        return;
    };
    let connection = session::Connection::from_raw(connection);
    match clone::fork(CloneFlags::empty(), None) {
        Ok(Side::Child) => clone::exit(session::run(&connection)),
        Ok(Side::Parent(_)) => {}
        // No process is left to the slice.
        Err(error) => session::refuse(&connection, &error),
    }
}

/// What an image cannot know: the host's name and where names are resolved.
/// What the slice has there already stays.
fn furnish() {
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    let hostname = hostname.to_string_lossy();
    let _ = fs::write("/etc/hostname", format!("{hostname}\n"));
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    if !hosts.split_whitespace().any(|word| word == hostname) {
        let lines = if hosts.is_empty() {
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
        } else {
            ""
        };
        let mut options = fs::OpenOptions::new();
        let _ = options
            .append(true)
            .create(true)
            .mode(0o644)
            .open("/etc/hosts")
            .and_then(|mut file| writeln!(file, "{lines}127.0.1.1 {hostname}"));
    }
    let resolver = Path::new("/etc/resolv.conf");
    let empty = fs::metadata(resolver).map_or(true, |file| file.len() == 0);
    if empty && Path::new(RESOLVER).exists() {
        let _ = fs::remove_file(resolver);
        let _ = symlink("../run/slice/resolv.conf", resolver);
    }
    let _ = fs::create_dir("/run/lock");
    let _ = fs::set_permissions("/run/lock", fs::Permissions::from_mode(0o1777));
}

/// Starts what the slice wants to run from its start on. Its output has
/// nowhere to go but a file of the slice's own.
fn boot() {
    let executable = |file: &fs::Metadata| file.is_file() && file.permissions().mode() & 0o111 != 0;
    if !fs::metadata(BOOT).is_ok_and(|file| executable(&file)) {
        return;
    }
    let log = || -> io::Result<(Stdio, Stdio)> {
        let log = fs::File::create("/run/rc.local.log")?;
        Ok((log.try_clone()?.into(), log.into()))
    };
    let (out, err) = log().unwrap_or_else(|_| (Stdio::null(), Stdio::null()));
    let mut command = Command::new(BOOT);
    command
        .arg("start")
        .env_clear()
        .env("PATH", session::SEARCH_PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    // A slice whose script does not start is a slice all the same.
    let _ = crate::sys::process::in_new_session(&mut command, None, None).spawn();
}
