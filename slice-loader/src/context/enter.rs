//! Runs a program as a slice: in its cgroup, with its user id and nothing
//! more.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use anyhow::Context;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::{Pid, pipe2};

use super::session::SEARCH_PATH;
use crate::sys::process::{Confinement, confine};

/// Variables of the caller's environment that pass: what the terminal is and
/// which language people read.
const PASSED: [&str; 4] = ["TERM", "COLORTERM", "LANG", "TZ"];

/// Signals passed on to the program, which has no terminal to get them from.
pub(super) const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// How the program ended, or why it did not start.
#[derive(Debug)]
pub enum Ended {
    /// It ran.
    With(ExitStatus),
    /// exec failed.
    NotStarted(io::Error),
}

impl Ended {
    /// The status a shell or env(1) would report: the program's own, 128 and
    /// the signal that ended it, 127 where it was not found, 126 where it
    /// could not be run.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::With(status) => {
                let code = status
                    .code()
                    .or_else(|| status.signal().map(|signal| 128 + signal));
                code.and_then(|code| u8::try_from(code).ok())
                    .unwrap_or(u8::MAX)
            }
            Self::NotStarted(error) if error.kind() == io::ErrorKind::NotFound => 127,
            Self::NotStarted(_) => 126,
        }
    }
}

/// Runs a program as the slice `name` whose cgroup and first user id are
/// given, and waits for it. Signals that would end the caller go to it.
///
/// # Errors
/// The slice could not be entered.
pub fn run(
    name: &str,
    cgroup: &Path,
    uid: u32,
    program: &OsString,
    arguments: &[OsString],
) -> anyhow::Result<Ended> {
    let procs = cgroup.join("payload/cgroup.procs");
    let cgroup_procs = OpenOptions::new()
        .write(true)
        .open(&procs)
        .with_context(|| format!("open {}", procs.display()))?;
    let (report, confined) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;

    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").env_clear();
    command
        .env("PATH", SEARCH_PATH)
        .env("HOME", "/")
        .env("USER", name)
        .env("LOGNAME", name)
        .env("SHELL", "/bin/sh");
    for variable in PASSED {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    confine(
        &mut command,
        Confinement {
            cgroup_procs,
            uid,
            calls: super::calls::filter(),
            confined,
        },
    );

    // Blocked before the child exists, so that none is lost in between.
    let mut waited: SigSet = FORWARDED.into_iter().collect();
    waited.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&waited), None).context("block signals")?;
    let spawned = command.spawn();
    // The other end of the pipe is in it.
    drop(command);
    let mut reported = Vec::new();
    io::Read::by_ref(&mut std::fs::File::from(report))
        .take(1)
        .read_to_end(&mut reported)
        .context("read a pipe")?;
    match spawned {
        Ok(child) => Ok(Ended::With(wait(child, &waited)?)),
        Err(error) if reported.is_empty() => {
            Err(error).with_context(|| format!("enter slice {name}"))
        }
        Err(error) => Ok(Ended::NotStarted(error)),
    }
}

fn wait(mut child: Child, signals: &SigSet) -> anyhow::Result<ExitStatus> {
    let pid = i32::try_from(child.id())
        .map(Pid::from_raw)
        .context("read the child's process id")?;
    loop {
        if let Some(status) = child.try_wait().context("wait for the program")? {
            return Ok(status);
        }
        match signals.wait().context("wait for signals")? {
            Signal::SIGCHLD => {}
            // To its whole process group, as a terminal would.
            signal => {
                let group = Pid::from_raw(-pid.as_raw());
                if kill(group, signal).is_err() {
                    let _ = kill(pid, signal);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_reports_its_status_its_signal_or_why_it_did_not_start() {
        let with = |raw| Ended::With(ExitStatus::from_raw(raw)).code();
        assert_eq!(with(0), 0);
        assert_eq!(with(42 << 8), 42);
        assert_eq!(with(9), 137);
        let not = |errno| Ended::NotStarted(io::Error::from_raw_os_error(errno)).code();
        assert_eq!(not(libc::ENOENT), 127);
        assert_eq!(not(libc::EACCES), 126);
        assert_eq!(not(libc::ENOEXEC), 126);
    }
}
