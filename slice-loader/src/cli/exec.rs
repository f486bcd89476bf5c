//! `slice exec` and `slice enter`: commands in a slice's context; the slice's
//! first process, which runs them; and the session that PAM opens for one.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use anyhow::Context;

use super::exit::{Exit, Failure};
use super::run::OWN_FAILURE;
use crate::context::request::Run;
use crate::context::visit::{self, Visited};
use crate::context::{broker, init, login};
use crate::node::Node;
use crate::sys::process::inherited;

/// Runs a command in a slice; its status becomes ours.
pub(super) fn exec(
    slice: &str,
    command: &[OsString],
    user: &str,
    terminal: bool,
) -> anyhow::Result<ExitCode> {
    let words = command.iter().map(|word| word.as_bytes().to_vec());
    let name = command
        .first()
        .map(|name| name.to_string_lossy().into_owned());
    let run = Run::Command(words.collect());
    visit("exec", slice, run, name, user, terminal)
}

/// Runs a user's shell in a slice, as a login does.
pub(super) fn enter(slice: &str, user: &str) -> anyhow::Result<ExitCode> {
    visit("enter", slice, Run::Login, None, user, visit::at_terminal())
}

fn visit(
    verb: &str,
    name: &str,
    run: Run,
    command: Option<String>,
    user: &str,
    terminal: bool,
) -> anyhow::Result<ExitCode> {
    let node = Node::open()?;
    let slice = node.slice(name)?;
    let connection = slice.running.connect()?.ok_or_else(|| {
        Failure::new(Exit::Failed, format!("enter slice {name}: it does not run"))
            .remedy(format!("slice start {name}"))
    })?;
    let visited = visit::visit(&connection, run, user, terminal)
        .with_context(|| format!("enter slice {name}"))?;
    let command = command.unwrap_or_else(|| "the shell".to_owned());
    let mut err = std::io::stderr().lock();
    match visited {
        Visited::NotStarted(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            writeln!(err, "slice {verb}: {command}: {error}")?;
        }
        Visited::NoUser => writeln!(err, "slice {verb}: {name} has no user {user}")?,
        Visited::SliceEnded => writeln!(err, "slice {verb}: {name} ended")?,
        Visited::Exited(_) | Visited::Signaled(_) => {}
    }
    Ok(ExitCode::from(visited.code()))
}

/// The first process of a slice; started by `slice start`.
pub(super) fn init() -> anyhow::Result<ExitCode> {
    let [listener] = inherited().context("find the socket to listen at")?;
    init::run(&listener)?;
    Ok(ExitCode::from(OWN_FAILURE))
}

/// Makes raw sockets for a slice; started by `slice start`.
pub(super) fn broker(userns: Option<u64>, audit: Option<u32>) -> anyhow::Result<ExitCode> {
    broker::run(userns, audit)?;
    Ok(Exit::Ok.into())
}

/// Puts a session of sshd into its slice. What goes wrong is told on standard
/// output, which PAM shows to who logs in.
pub(super) fn login_open() -> anyhow::Result<ExitCode> {
    match login::open_session() {
        Ok(()) => Ok(Exit::Ok.into()),
        Err(error) => {
            writeln!(std::io::stdout().lock(), "{error:#}")?;
            Ok(Exit::Failed.into())
        }
    }
}
