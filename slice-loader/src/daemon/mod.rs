//! The daemon: keeps what the node knows fresh, and tells others.
//!
//! The rules hold without it. It adopts the node that runs, or starts it;
//! then it drains the ring of events, follows the addresses of the machine,
//! looks for ports that sockets of the node hold, and serves the API. When it
//! ends, everything stays as it is.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use tokio::runtime::Builder;

use crate::report::Owner;
use crate::report::happening::What;
use crate::status::control::process;
use crate::status::history::History;

mod api;
mod events;
mod gate;
mod hub;
mod log;
mod system;
mod trace;
mod watch;

pub use api::{EventsQuery, LinksPastQuery, PortsQuery, StatusQuery, TraceQuery};
pub use gate::clear_away;
pub use hub::{Hub, News};
pub use log::start as start_log;

/// Where the API listens: root only.
pub const SOCKET: &str = "/run/slice/node.sock";

/// What the owner may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// The policy's directory.
    pub policy: PathBuf,
    /// Events kept for readers who come later.
    pub keep: usize,
}

/// Runs until a signal ends it or the node is taken down.
///
/// # Errors
/// Another daemon runs; the node can neither be adopted nor started; the
/// socket cannot be made.
pub fn run(options: Options) -> anyhow::Result<()> {
    crate::sys::heap::give_back();
    let gate = gate::Gate::take()?;
    let node = adopt(&options)?;
    // Everything waits most of the time: one thread, and others only for
    // calls that block.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?;
    let ended = runtime.block_on(serve(gate, node, options));
    // Calls that block are not waited for: what they wait for goes on without the daemon.
    runtime.shutdown_background();
    ended
}

fn adopt(options: &Options) -> anyhow::Result<crate::node::Node> {
    match crate::node::Node::open() {
        Ok(node) => {
            tracing::info!(slices = node.slices().count(), "adopted the node that runs");
            Ok(node)
        }
        Err(error) if error.is::<crate::node::NotUp>() => {
            crate::node::up(&options.policy)?;
            tracing::info!(policy = %options.policy.display(), "started the node");
            crate::node::Node::open()
        }
        Err(error) => Err(error),
    }
}

async fn serve(gate: gate::Gate, node: crate::node::Node, options: Options) -> anyhow::Result<()> {
    let hub = Hub::new(options.keep);
    hub.tell(Owner::node(), What::DaemonStarted);
    let listener = gate.listen()?;
    let mut events = events::Drain::new(&node)?;
    let watch = watch::Watch::new(&node)?;
    let history = Arc::new(Mutex::new(History::default()));
    let state = api::State {
        hub: hub.clone(),
        history: history.clone(),
        traces: trace::Traces::default(),
        policy: options.policy.clone(),
    };
    system::ready(&node);
    // What was being done for slices when the daemon, or the machine, ended.
    drop(tokio::task::spawn_blocking(|| {
        if let Err(error) = process::have_settled() {
            tracing::warn!("could not finish what slices had done to others: {error:#}");
        }
    }));

    // Whichever ends first ends the daemon; all but signals end by an error.
    tokio::select! {
        ended = events.run(&hub) => ended.context("drain the ring of events"),
        ended = watch.addresses(&hub) => ended.context("follow the addresses of the node"),
        () = watch.found() => Ok(()),
        () = watch.quotas() => Ok(()),
        () = watch.flows() => Ok(()),
        () = watch.gone() => {
            tracing::warn!("the node was taken down: nothing left to do");
            Ok(())
        }
        ended = api::serve(listener, state) => ended.context("serve the API"),
        () = log::summaries(&hub) => Ok(()),
        () = crate::status::daemon::run(&history, &hub) => Ok(()),
        () = system::watchdog() => Ok(()),
        ended = system::signals(&options.policy) => ended,
    }
}
