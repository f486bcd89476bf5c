//! `slice sniff`: the packets of all slices with their owners, for the node's
//! owner; works with the daemon dead.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use policy::SliceId;

use super::SniffArgs;
use super::exit::{Exit, Failure, unknown_slice};
use crate::audit::Pump;
use crate::kernel::audit::Right;
use crate::kernel::store::Store;
use crate::node::Node;

/// Writes packets until it is interrupted, or nobody reads any more.
///
/// # Errors
/// The node is not up, there is no such slice, or the file cannot be written.
pub(super) fn run(args: &SniffArgs) -> anyhow::Result<ExitCode> {
    let node = Node::open()?;
    let only = match &args.slice {
        Some(name) => Some(
            node.id(name)
                .filter(|id| id.is_slice())
                .ok_or_else(|| unknown_slice(name))?,
        ),
        None => None,
    };
    // What may fail does so before a file of that name is emptied.
    let right = Right::new(&Store::of_node())?;
    let mut reading = right
        .begin(SliceId::NODE)
        .context("read the packets of all slices")?;
    let to: OwnedFd = if args.write == Path::new("-") {
        let out = std::io::stdout();
        if out.is_terminal() {
            let failure = Failure::new(Exit::Usage, "write packets to a terminal");
            return Err(failure
                .remedy("slice sniff -w FILE, or slice sniff | tcpdump -r -")
                .into());
        }
        out.as_fd().try_clone_to_owned()?
    } else {
        File::create(&args.write)
            .with_context(|| format!("write {}", args.write.display()))?
            .into()
    };
    let ends = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ends), None).context("block signals")?;
    let ends = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC).context("wait for signals")?;
    Pump::new()?.run(&mut reading, only, to.as_fd(), Some(ends.as_fd()))?;
    Ok(Exit::Ok.into())
}
