//! Drains the ring of events into the hub.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::Hub;
use crate::kernel::events::Events;
use crate::node::Node;
use crate::report::{Clock, Names, read};
use crate::sys::readable::Readable;
use anyhow::Context;
use policy::SliceId;

/// Events taken before others get a turn.
const BATCH: usize = 256;

/// Between two look-ups of names that are not known.
const PATIENCE: Duration = Duration::from_secs(1);

/// The reading end of the ring, and the names of those it tells of.
pub(super) struct Drain {
    events: Events,
    readable: Readable,
    names: Names,
    /// When names were last looked up.
    looked: Option<Instant>,
}

impl Drain {
    pub(super) fn new(node: &Node) -> anyhow::Result<Self> {
        let events = node.events()?;
        let fd = events
            .as_fd()
            .try_clone_to_owned()
            .context("duplicate the ring's descriptor")?;
        let readable = Readable::new(fd).context("wait for the ring of events")?;
        Ok(Self {
            events,
            readable,
            names: read::names(node),
            looked: None,
        })
    }

    /// Until waiting fails.
    pub(super) async fn run(&mut self, hub: &Hub) -> anyhow::Result<()> {
        loop {
            self.readable.wait().await?;
            while self.take(hub)? {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes a batch; whether there may be more.
    fn take(&mut self, hub: &Hub) -> anyhow::Result<bool> {
        let clock = Clock::now().context("read the clock")?;
        for _ in 0..BATCH {
            let Some(event) = self.events.take() else {
                return Ok(false);
            };
            self.learn(event.id);
            hub.push(&event, &clock, &self.names);
        }
        Ok(true)
    }

    /// Looks up the name of a slice that came by a reload. Not at each event:
    /// sockets of a destroyed slice can make many, and it has no name any more.
    fn learn(&mut self, id: SliceId) {
        if self.names.knows(id)
            || self
                .looked
                .is_some_and(|looked| looked.elapsed() < PATIENCE)
        {
            return;
        }
        self.looked = Some(Instant::now());
        if let Ok(node) = Node::open() {
            self.names = read::names(&node);
        }
    }
}
