//! `slice daemon`: runs the daemon in the foreground.

use std::path::Path;
use std::process::ExitCode;

use super::DaemonArgs;
use super::exit::Exit;
use super::screen::Screen;
use crate::daemon;
use crate::status::front;

pub(super) fn run(args: &DaemonArgs, policy: &Path, screen: &Screen) -> anyhow::Result<ExitCode> {
    daemon::start_log(screen);
    daemon::run(daemon::Options {
        policy: policy.to_path_buf(),
        keep: usize::try_from(args.keep)?,
    })?;
    Ok(Exit::Ok.into())
}

/// Parses what slices ask; started by the daemon.
pub(super) fn status_front() -> anyhow::Result<ExitCode> {
    front::run()?;
    Ok(Exit::Ok.into())
}
