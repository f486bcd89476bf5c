//! What changes on the machine while the node runs: its addresses, the ports
//! its own sockets hold, and whether the node is up at all.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::task::spawn_blocking;
use tokio::time::{self, MissedTickBehavior};

use super::Hub;
use crate::node::{Node, NotUp};
use crate::report::Owner;
use crate::report::happening::What;
use crate::sys::readable::Readable;

/// Between two looks for ports that sockets of the node hold.
const FOUND_EVERY: Duration = Duration::from_secs(10);

/// Between two times that what was sent of quotas is written down: what a power cut
/// takes away is no more than is sent in this time.
const QUOTAS_EVERY: Duration = Duration::from_secs(5);

/// Between two looks at the addresses when the kernel gives no notice.
const ADDRESSES_EVERY: Duration = Duration::from_secs(30);

/// Between two drains of flows.
const FLOWS_EVERY: Duration = Duration::from_secs(5);

/// Between two looks whether the node is still up.
const GONE_EVERY: Duration = Duration::from_secs(1);

/// Notices of one change come in bursts: this long after the first, all are in.
const SETTLE: Duration = Duration::from_millis(50);

/// A refresh that failed is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// The kernel's notices, and which node is watched.
pub(super) struct Watch {
    notices: Readable,
    since: u64,
}

impl Watch {
    /// Starts listening to the kernel, so that no change from here on is missed.
    pub(super) fn new(node: &Node) -> anyhow::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let kind = SockProtocol::NetlinkRoute;
        let notices = socket(AddressFamily::Netlink, SockType::Raw, flags, kind)
            .context("make a netlink socket")?;
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_TC
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR;
        bind(
            notices.as_raw_fd(),
            &NetlinkAddr::new(0, u32::try_from(groups)?),
        )
        .context("listen to the kernel's notices of addresses")?;
        let notices =
            Readable::new(notices).context("wait for the kernel's notices of addresses")?;
        Ok(Self {
            notices,
            since: identity(node),
        })
    }

    /// Writes the addresses of the machine into the maps whenever they change.
    /// Until then the programs deny an address they do not know.
    pub(super) async fn addresses(&self, hub: &Hub) -> anyhow::Result<()> {
        let mut trouble = Trouble::default();
        // At once too: they may have changed since the node was started.
        loop {
            let changed = refresh(Node::refresh_addresses).await;
            if matches!(changed, Ok(true)) {
                tracing::info!("followed a change of the node's addresses, devices or queues");
                hub.tell(Owner::node(), What::Adjusted);
            }
            if trouble.tell("refresh the addresses of the node", changed) {
                time::sleep(AGAIN).await;
                continue;
            }
            if let Ok(waited) = time::timeout(ADDRESSES_EVERY, self.notices.wait()).await {
                waited?;
                time::sleep(SETTLE).await;
            }
            self.pass_over()?;
        }
    }

    /// Writes the ports found into the maps every few seconds.
    pub(super) async fn found(&self) {
        let what = "look for ports the node's sockets hold";
        every(FOUND_EVERY, what, Node::refresh_found).await;
    }

    /// Writes down what slices have sent of their quotas.
    pub(super) async fn quotas(&self) {
        let what = "write down what slices have sent of their quotas";
        every(QUOTAS_EVERY, what, Node::save_quotas).await;
    }

    /// Takes who sent what to whom into the database every few seconds. What could
    /// not be taken stays in the kernel until it can.
    pub(super) async fn flows(&self) {
        every(FLOWS_EVERY, "keep the flows", Node::drain_flows).await;
    }

    /// Until the node is down, or another one is up.
    pub(super) async fn gone(&self) {
        let mut ticks = time::interval(GONE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = spawn_blocking(|| Node::open().map(|node| identity(&node))).await;
            match now {
                Ok(Ok(since)) if since != self.since => return,
                Ok(Err(error)) if error.is::<NotUp>() => return,
                // What cannot be told now can be told a second later.
                _ => {}
            }
        }
    }

    /// Reads the notices away. What they say is not looked at: the addresses
    /// are read whole, and an overrun (ENOBUFS) means no more than that.
    fn pass_over(&self) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match recv(
                self.notices.as_fd().as_raw_fd(),
                &mut buffer,
                MsgFlags::empty(),
            ) {
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno).context("read the kernel's notices of addresses"),
            }
        }
    }
}

/// Calls `look` again and again, and tells when it fails (`what`: what could not be
/// done) and when it works again.
async fn every(pause: Duration, what: &str, look: fn(&Node) -> anyhow::Result<bool>) {
    let mut trouble = Trouble::default();
    let mut ticks = time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        trouble.tell(what, refresh(look).await);
    }
}

/// Calls `look` where it may block, on the node as it is now.
async fn refresh(look: fn(&Node) -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    spawn_blocking(move || look(&Node::open()?))
        .await
        .context("refresh the node")?
}

/// What went wrong last: told once, not twice a second.
#[derive(Default)]
struct Trouble {
    last: Option<String>,
}

impl Trouble {
    /// Whether it went wrong.
    fn tell(&mut self, what: &str, result: anyhow::Result<bool>) -> bool {
        match result {
            Ok(_) => {
                if self.last.take().is_some() {
                    tracing::info!("could again {what}");
                }
                false
            }
            Err(error) => {
                let text = format!("{error:#}");
                // That the node is gone is the matter of `gone`.
                if !error.is::<NotUp>() && self.last.as_ref() != Some(&text) {
                    tracing::warn!(error = %text, "could not {what}; trying again");
                }
                self.last = Some(text);
                true
            }
        }
    }
}

/// What tells one start of the node from the next.
fn identity(node: &Node) -> u64 {
    node.record().since
}
