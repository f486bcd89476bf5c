//! The service manager's side of the daemon: readiness, watchdog, signals.

use std::path::Path;

use anyhow::Context;
use policy::config::{Errors, Report};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time;

use crate::cli::exit;
use crate::node::{self, Node};

/// Tells that the node is watched from here on. Without systemd this is nothing.
pub(super) fn ready(node: &Node) {
    let status = format!("{} slices in force", node.slices().count());
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    tracing::info!("ready: {status}");
}

/// Feeds the watchdog, where the service manager set one: that this runs
/// proves that the event loop turns.
pub(super) async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut ticks = time::interval(limit / 3);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// SIGHUP reloads; SIGTERM and SIGINT end the daemon, and every rule stays.
pub(super) async fn signals(policy: &Path) -> anyhow::Result<()> {
    let on = |kind| signal(kind).context("catch signals");
    let mut hangup = on(SignalKind::hangup())?;
    let mut terminate = on(SignalKind::terminate())?;
    let mut interrupt = on(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => reload(policy).await,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tell(&[NotifyState::Stopping]);
    tracing::info!("leaving; the slices' rules stay in force");
    Ok(())
}

async fn reload(policy: &Path) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
    let policy = policy.to_path_buf();
    match spawn_blocking(move || node::reload(&policy)).await {
        Ok(Ok(reloaded)) => {
            tracing::info!("reloaded the policy");
            for warning in reloaded.warnings {
                tracing::warn!("{warning}");
            }
        }
        Ok(Err(error)) => refused(&error),
        Err(error) => tracing::error!("the policy was not reloaded: {error}"),
    }
    tell(&[NotifyState::Ready]);
}

/// A line per error: the journal keeps lines.
fn refused(error: &anyhow::Error) {
    let Some(errors) = error.downcast_ref::<Errors>() else {
        tracing::error!("the policy was not reloaded, the old one stays: {error:#}");
        return;
    };
    tracing::error!(
        "the policy was not reloaded, the old one stays: {}",
        exit::summary(errors)
    );
    for Report {
        file,
        line,
        column,
        message,
        help,
        ..
    } in errors.reports()
    {
        let place = [line, column]
            .into_iter()
            .flatten()
            .map(|number| format!(":{number}"));
        let place: String = place.collect();
        tracing::error!("{}{place}: {message}; {help}", file.display());
    }
}

/// Silence where nobody asked to be told.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("could not notify the service manager: {error}");
    }
}
