//! Where events are kept and handed on.
//!
//! A reader never holds up the node: each has a bounded queue, and one who is
//! too slow loses the oldest events and is told how many.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use crate::report::event::{Cursor, Item};
use crate::report::{Clock, Event, Names};

/// Events that a reader may lag behind.
const QUEUE: usize = 4096;

/// The events of this run of the daemon.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    run: u64,
    keep: usize,
    live: broadcast::Sender<Arc<Event>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: VecDeque<Arc<Event>>,
    next: u64,
    tally: Tally,
}

/// Denials by owner and reason since the log last told of them.
pub(super) type Tally = BTreeMap<(String, String), u64>;

/// One reader's place in the stream.
pub struct Reader {
    backlog: VecDeque<Arc<Event>>,
    missed: u64,
    live: broadcast::Receiver<Arc<Event>>,
}

impl Hub {
    /// An empty one that keeps `keep` events. Its run is named by the time.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        let now = jiff::Timestamp::now().as_microsecond();
        Self::of_run(u64::try_from(now).unwrap_or(0), keep)
    }

    pub(super) fn of_run(run: u64, keep: usize) -> Self {
        let (live, _) = broadcast::channel(QUEUE);
        Self {
            inner: Arc::new(Inner {
                run,
                keep,
                live,
                state: Mutex::default(),
            }),
        }
    }

    /// Takes in a record of the ring.
    pub fn push(&self, record: &policy::abi::Event, clock: &Clock, names: &Names) {
        let mut state = self.state();
        let cursor = Cursor {
            run: self.inner.run,
            number: state.next,
        };
        let event = Arc::new(Event::new(record, cursor, clock, names));
        state.next += 1;
        *state
            .tally
            .entry((event.slice.label(), event.reason.clone()))
            .or_default() += 1;
        if state.kept.len() >= self.inner.keep {
            state.kept.pop_front();
        }
        state.kept.push_back(event.clone());
        // Nobody listening is no error. Sent under the lock, so that a reader
        // who subscribes sees each event once: kept or live.
        let _ = self.inner.live.send(event);
    }

    /// A reader who has seen everything up to `after`; from the oldest kept
    /// event on if that is none, or of another run.
    #[must_use]
    pub fn read(&self, after: Option<Cursor>) -> Reader {
        let state = self.state();
        let first = after
            .filter(|cursor| cursor.run == self.inner.run)
            .map_or(0, |c| c.number + 1);
        let oldest = state
            .kept
            .front()
            .map_or(state.next, |event| event.cursor.number);
        // Without a cursor nobody was promised the events before the kept ones.
        let missed = if after.is_some() {
            oldest.saturating_sub(first)
        } else {
            0
        };
        let backlog = state
            .kept
            .iter()
            .filter(|event| event.cursor.number >= first)
            .cloned()
            .collect();
        Reader {
            backlog,
            missed,
            live: self.inner.live.subscribe(),
        }
    }

    /// What happened since the last call.
    pub(super) fn take_tally(&self) -> Tally {
        std::mem::take(&mut self.state().tally)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock leaves the state half changed.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// The next of the kept events; `None` when they are through.
    pub fn kept(&mut self) -> Option<Item> {
        if self.missed > 0 {
            return Some(Item::Lost(std::mem::take(&mut self.missed)));
        }
        Some(Item::Event(owned(&self.backlog.pop_front()?)))
    }

    /// The next event, if it is there already.
    pub fn ready(&mut self) -> Option<Item> {
        if let Some(item) = self.kept() {
            return Some(item);
        }
        match self.live.try_recv() {
            Ok(event) => Some(Item::Event(owned(&event))),
            Err(TryRecvError::Lagged(count)) => Some(Item::Lost(count)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }

    /// The next event, waited for; `None` when the daemon ends.
    pub async fn next(&mut self) -> Option<Item> {
        if let Some(item) = self.kept() {
            return Some(item);
        }
        match self.live.recv().await {
            Ok(event) => Some(Item::Event(owned(&event))),
            Err(RecvError::Lagged(count)) => Some(Item::Lost(count)),
            Err(RecvError::Closed) => None,
        }
    }
}

/// A copy for one reader.
fn owned(event: &Arc<Event>) -> Box<Event> {
    Box::new(Event::clone(event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    const RUN: u64 = 5;

    fn hub(keep: usize, events: u64) -> Hub {
        let hub = Hub::of_run(RUN, keep);
        for _ in 0..events {
            push(&hub);
        }
        hub
    }

    fn push(hub: &Hub) {
        let clock = Clock {
            monotonic_ns: 0,
            realtime_ns: 0,
        };
        hub.push(&policy::abi::Event::new_zeroed(), &clock, &Names::default());
    }

    fn numbers(reader: &mut Reader) -> Vec<Result<u64, u64>> {
        std::iter::from_fn(|| reader.kept())
            .map(|item| match item {
                Item::Event(event) => Ok(event.cursor.number),
                Item::Lost(count) => Err(count),
            })
            .collect()
    }

    fn after(number: u64) -> Option<Cursor> {
        Some(Cursor { run: RUN, number })
    }

    #[test]
    fn a_reader_without_a_cursor_gets_what_is_kept() {
        assert_eq!(numbers(&mut hub(3, 5).read(None)), [Ok(2), Ok(3), Ok(4)]);
        assert_eq!(numbers(&mut hub(3, 0).read(None)), []);
    }

    #[test]
    fn a_reader_goes_on_after_its_cursor_and_is_told_what_it_missed() {
        let hub = hub(3, 6);
        assert_eq!(numbers(&mut hub.read(after(4))), [Ok(5)]);
        assert_eq!(numbers(&mut hub.read(after(5))), []);
        assert_eq!(
            numbers(&mut hub.read(after(0))),
            [Err(2), Ok(3), Ok(4), Ok(5)]
        );
        let other = Some(Cursor {
            run: RUN - 1,
            number: 4,
        });
        assert_eq!(numbers(&mut hub.read(other)), [Err(3), Ok(3), Ok(4), Ok(5)]);
    }

    #[tokio::test]
    async fn an_event_between_kept_and_live_is_seen_once() {
        let hub = hub(10, 2);
        let mut reader = hub.read(None);
        push(&hub);
        for expected in 0..3 {
            match reader.next().await.unwrap() {
                Item::Event(event) => assert_eq!(event.cursor.number, expected),
                Item::Lost(count) => panic!("lost {count}"),
            }
        }
        assert_eq!(reader.ready(), None);
    }

    #[tokio::test]
    async fn a_slow_reader_loses_events_and_is_told_how_many_and_the_hub_does_not_wait() {
        let hub = hub(1, 0);
        let mut reader = hub.read(None);
        for _ in 0..QUEUE + 7 {
            push(&hub);
        }
        assert_eq!(reader.next().await, Some(Item::Lost(7)));
        match reader.next().await.unwrap() {
            Item::Event(event) => assert_eq!(event.cursor.number, 7),
            Item::Lost(count) => panic!("lost {count}"),
        }
    }

    #[test]
    fn the_tally_starts_anew_when_taken() {
        let hub = hub(1, 3);
        assert_eq!(hub.take_tally().values().sum::<u64>(), 3);
        assert!(hub.take_tally().is_empty());
    }
}
