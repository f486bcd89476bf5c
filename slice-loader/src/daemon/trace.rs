//! Telling what is decided for one owner, as it is decided, as long as somebody reads.
//!
//! A row of the map `TRACED` says until when an owner is traced. The daemon pushes that
//! time on while there is a reader who reads, and takes it back when there is none; when
//! it is killed the time runs out by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use policy::SliceId;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::timeout;

use super::Hub;
use crate::cli::exit::{self, Exit, Failure};
use crate::node::Node;
use crate::report::Event;
use crate::report::event::Item;
use crate::sys::clock::monotonic_ns;

/// How long an owner is traced after the time was pushed on last.
const LEASE: Duration = Duration::from_secs(3);
/// Between two pushes; a stream has a sign of life as often.
const EVERY: Duration = Duration::from_secs(1);
/// Traces at once: with `policy::abi::TRACED_PER_SECOND` events each the daemon
/// keeps up with the ring.
const MOST: usize = 8;

/// Who is traced, and by how many.
#[derive(Clone, Default)]
pub(super) struct Traces(Arc<Mutex<BTreeMap<SliceId, usize>>>);

/// One reader's trace of an owner.
pub(super) struct Trace {
    node: Node,
    id: SliceId,
    traces: Traces,
    events: broadcast::Receiver<Arc<Event>>,
    /// Events of the owner that were not told, as far as the reader knows.
    left_out: u64,
    pushed: Instant,
}

impl Traces {
    /// Begins to trace an owner.
    ///
    /// # Errors
    /// There is none of that name, or there are too many traces.
    pub(super) fn begin(&self, hub: &Hub, name: &str) -> anyhow::Result<Trace> {
        let node = Node::open()?;
        let id = node.id(name).ok_or_else(|| exit::unknown_slice(name))?;
        let mut traced = self.lock();
        if traced.values().sum::<usize>() >= MOST {
            bail!(
                Failure::new(
                    Exit::Busy,
                    format!("trace {name}: {MOST} traces run already")
                )
                .remedy("end one of them")
            );
        }
        *traced.entry(id).or_default() += 1;
        drop(traced);
        // From here on its end takes all back.
        let mut trace = Trace {
            left_out: 0,
            node,
            id,
            traces: self.clone(),
            events: hub.trace(),
            pushed: Instant::now(),
        };
        trace.left_out = trace.node.state(id)?.events_suppressed;
        trace.push_on()?;
        Ok(trace)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SliceId, usize>> {
        // No code under the lock leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trace {
    /// What comes next, waited for: nothing is a sign of life. `None` at the end: the
    /// node or the slice is gone.
    pub(super) async fn next(&mut self) -> Option<Vec<Item>> {
        loop {
            let since = self.pushed.elapsed();
            if since >= EVERY {
                self.push_on().ok()?;
                let left_out = self.node.state(self.id).ok()?.events_suppressed;
                return Some(self.missing(left_out).into_iter().collect());
            }
            match timeout(EVERY - since, self.events.recv()).await {
                Ok(Ok(event)) if event.slice.id == self.id.0 => {
                    let missing = self.missing(event.suppressed);
                    let event = Item::Event(Box::new(Event::clone(&event)));
                    return Some(missing.into_iter().chain([event]).collect());
                }
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(RecvError::Lagged(count))) => return Some(vec![Item::Lost(count)]),
                Ok(Err(RecvError::Closed)) => return None,
            }
        }
    }

    /// How many more were left out, if there are more.
    fn missing(&mut self, left_out: u64) -> Option<Item> {
        let more = left_out.saturating_sub(self.left_out);
        self.left_out += more;
        (more > 0).then_some(Item::LeftOut(more))
    }

    fn push_on(&mut self) -> anyhow::Result<()> {
        self.node
            .entry(self.id)?
            .context("trace the slice: it is gone")?;
        let lease = u64::try_from(LEASE.as_nanos())?;
        self.node.trace(self.id, monotonic_ns()? + lease)?;
        self.pushed = Instant::now();
        Ok(())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let mut traced = self.traces.lock();
        let left = traced.get(&self.id).map_or(0, |count| count - 1);
        if left > 0 {
            traced.insert(self.id, left);
            return;
        }
        traced.remove(&self.id);
        // Else it runs out by itself.
        let _ = self.node.trace(self.id, 0);
    }
}
