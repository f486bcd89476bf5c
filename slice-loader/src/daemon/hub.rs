//! Where events are kept and handed on.
//!
//! A reader never holds up the node: each has a bounded queue, and one who is
//! too slow loses the oldest events and is told how many.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use policy::abi::LET_THROUGH;
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use crate::report::event::{Cursor, Item};
use crate::report::happening::{Happening, What};
use crate::report::{Clock, Event, Names, Owner};

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
    /// The same, and what was let through, for those who trace an owner.
    traced: broadcast::Sender<Arc<Event>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: VecDeque<Kept>,
    next: u64,
    /// The same for each owner.
    next_own: BTreeMap<u32, u64>,
    /// How many are kept of each owner.
    kept_of: BTreeMap<u32, usize>,
    tally: Tally,
}

impl State {
    /// Forgets the oldest event of whoever has most: who makes many pushes out its
    /// own, and not those of others.
    fn forget_one(&mut self) {
        let most = self.kept_of.values().max().copied().unwrap_or(0);
        let has_most = |kept: &Kept| self.kept_of.get(&kept.owner) == Some(&most);
        let Some(place) = self.kept.iter().position(has_most) else {
            return;
        };
        if let Some(gone) = self.kept.remove(place) {
            let left = most.saturating_sub(1);
            match left {
                0 => self.kept_of.remove(&gone.owner),
                left => self.kept_of.insert(gone.owner, left),
            };
        }
    }
}

/// What is kept, with its places: among all, and among its owner's.
struct Kept {
    number: u64,
    own: u64,
    owner: u32,
    what: KeptItem,
}

#[derive(Clone)]
enum KeptItem {
    Denial(Arc<Event>),
    Happening(Happening),
}

/// What came after a place.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// In order; first how many are not kept any more.
    pub items: Vec<Item>,
    /// The place after them; none where there is nothing yet.
    pub next: Option<Cursor>,
    /// Whether there are more.
    pub more: bool,
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

    /// One whose run is named by a number of one's own.
    #[must_use]
    pub fn of_run(run: u64, keep: usize) -> Self {
        let [(live, _), (traced, _)] = [QUEUE; 2].map(broadcast::channel);
        Self {
            inner: Arc::new(Inner {
                run,
                keep,
                live,
                traced,
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
        if self.inner.traced.receiver_count() > 0 {
            let _ = self.inner.traced.send(event.clone());
        }
        // Nobody's but theirs: it is no denial, and keeps none from being kept.
        if record.reason == LET_THROUGH {
            return;
        }
        *state
            .tally
            .entry((event.slice.label(), event.reason.clone()))
            .or_default() += 1;
        let owner = event.slice.id;
        self.keep(&mut state, owner, KeptItem::Denial(event.clone()));
        // Nobody listening is no error. Sent under the lock, so that a reader
        // who subscribes sees each event once: kept or live.
        let _ = self.inner.live.send(event);
    }

    /// All events from now on, with the calls of traced owners that were let through.
    pub(super) fn trace(&self) -> broadcast::Receiver<Arc<Event>> {
        self.inner.traced.subscribe()
    }

    /// Takes in something that happened and is no denial.
    pub fn tell(&self, slice: Owner, what: What) {
        let mut state = self.state();
        let happening = Happening {
            cursor: Cursor {
                run: self.inner.run,
                number: state.next,
            },
            time: jiff::Timestamp::now(),
            slice,
            what,
            sentence: what.sentence().to_owned(),
        };
        let owner = happening.slice.id;
        self.keep(&mut state, owner, KeptItem::Happening(happening));
    }

    fn keep(&self, state: &mut State, owner: u32, what: KeptItem) {
        let next_own = state.next_own.entry(owner).or_default();
        let own = *next_own;
        *next_own += 1;
        if state.kept.len() >= self.inner.keep {
            state.forget_one();
        }
        *state.kept_of.entry(owner).or_default() += 1;
        state.kept.push_back(Kept {
            number: state.next,
            own,
            owner,
            what,
        });
        state.next += 1;
    }

    /// What came after a place: to all, or to one owner alone, whose places are
    /// numbered apart, so that they tell nothing of others. At most so many.
    #[must_use]
    pub fn since(&self, owner: Option<u32>, after: Option<Cursor>, most: usize) -> News {
        let state = self.state();
        let run = self.inner.run;
        let end = match owner {
            None => state.next,
            Some(id) => state.next_own.get(&id).copied().unwrap_or(0),
        };
        let first = after
            .filter(|cursor| cursor.run == run)
            .map_or(0, |cursor| cursor.number.saturating_add(1).min(end));
        let mut items = Vec::new();
        let mut next = first;
        // Most ask for what is new, and there is nothing.
        if first < end {
            let place = |kept: &Kept| {
                if owner.is_some() {
                    kept.own
                } else {
                    kept.number
                }
            };
            let kept = state
                .kept
                .iter()
                .filter(|kept| owner.is_none_or(|id| kept.owner == id));
            let news = kept.filter(|kept| place(kept) >= first).take(most);
            let news: Vec<_> = news.map(|kept| (place(kept), kept.what.clone())).collect();
            let missed = |from: u64, to: u64| {
                // Without a place nobody was promised what is not kept.
                let missed = after.map_or(0, |_| to.saturating_sub(from));
                (missed > 0).then_some(Item::Lost(missed))
            };
            if news.is_empty() {
                items.extend(missed(first, end));
                next = end;
            }
            for (number, what) in news {
                items.extend(missed(next, number));
                items.push(what.item(Cursor { run, number }, owner.is_none()));
                next = number + 1;
            }
        }
        News {
            items,
            next: next.checked_sub(1).map(|number| Cursor { run, number }),
            more: next < end,
        }
    }

    /// A reader who has seen everything up to `after`; from the oldest kept
    /// event on if that is none, or of another run.
    #[must_use]
    pub fn read(&self, after: Option<Cursor>) -> Reader {
        let state = self.state();
        let first = after
            .filter(|cursor| cursor.run == self.inner.run)
            .map_or(0, |c| c.number + 1);
        let kept = state.kept.iter().filter(|kept| kept.number >= first);
        let kept = u64::try_from(kept.count()).unwrap_or(u64::MAX);
        // Without a cursor nobody was promised what is not kept.
        let missed = after.map_or(0, |_| state.next.saturating_sub(first).saturating_sub(kept));
        let backlog = state
            .kept
            .iter()
            .filter(|kept| kept.number >= first)
            .filter_map(|kept| match &kept.what {
                KeptItem::Denial(event) => Some(event.clone()),
                KeptItem::Happening(_) => None,
            })
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

impl KeptItem {
    /// With its place as the reader counts; what processes are called on the node
    /// is for who sees all.
    fn item(self, cursor: Cursor, all: bool) -> Item {
        match self {
            Self::Denial(event) => Item::Event(Box::new(Event {
                cursor,
                pid: event.pid.filter(|_| all),
                ..Event::clone(&event)
            })),
            Self::Happening(happening) => Item::Happened(Box::new(Happening {
                cursor,
                ..happening
            })),
        }
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

    #[test]
    fn what_was_let_through_is_for_those_who_trace_and_is_not_kept() {
        let hub = hub(3, 1);
        let mut traced = hub.trace();
        let clock = Clock {
            monotonic_ns: 0,
            realtime_ns: 0,
        };
        for _ in 0..5 {
            let mut record = policy::abi::Event::new_zeroed();
            record.reason = LET_THROUGH;
            hub.push(&record, &clock, &Names::default());
        }
        push(&hub);
        assert_eq!(numbers(&mut hub.read(None)), [Ok(0), Ok(1)]);
        assert_eq!(hub.take_tally().values().sum::<u64>(), 2);
        let told: Vec<_> = std::iter::from_fn(|| traced.try_recv().ok()).collect();
        let allowed = told
            .iter()
            .filter(|event| event.reason == "allowed")
            .count();
        assert_eq!((told.len(), allowed), (6, 5));
    }

    fn numbers(reader: &mut Reader) -> Vec<Result<u64, u64>> {
        std::iter::from_fn(|| reader.kept())
            .map(|item| match item {
                Item::Event(event) => Ok(event.cursor.number),
                Item::Lost(count) => Err(count),
                Item::Happened(_) | Item::LeftOut(_) => panic!("{item:?}"),
            })
            .collect()
    }

    fn other_run() -> Option<Cursor> {
        Some(Cursor {
            run: RUN - 1,
            number: 4,
        })
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
                other => panic!("{other:?}"),
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
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_tally_starts_anew_when_taken() {
        let hub = hub(1, 3);
        assert_eq!(hub.take_tally().values().sum::<u64>(), 3);
        assert!(hub.take_tally().is_empty());
    }

    /// What is told of a slice's own, or of all, after a place.
    fn news(hub: &Hub, owner: Option<u32>, after: Option<Cursor>) -> (Vec<String>, News) {
        let news = hub.since(owner, after, 3);
        let told = news.items.iter().map(|item| match item {
            Item::Happened(it) => format!("{} {}", it.cursor.number, it.slice.id),
            Item::Lost(count) => format!("lost {count}"),
            Item::LeftOut(count) => format!("left out {count}"),
            Item::Event(event) => format!("{} denied", event.cursor.number),
        });
        (told.collect(), news)
    }

    fn happened(hub: &Hub, id: u32) {
        hub.tell(Owner { id, name: None }, What::Started);
    }

    #[test]
    fn who_sees_its_own_alone_is_told_of_no_other_not_even_how_many() {
        let hub = Hub::of_run(RUN, 100);
        for id in [7, 8, 8, 7, 8, 7, 7, 8, 7] {
            happened(&hub, id);
        }
        let (told, first) = news(&hub, Some(7), None);
        assert_eq!(told, ["0 7", "1 7", "2 7"]);
        assert!(first.more);
        let (told, second) = news(&hub, Some(7), first.next);
        assert_eq!(told, ["3 7", "4 7"]);
        assert!(!second.more);
        happened(&hub, 8);
        let (told, third) = news(&hub, Some(7), second.next);
        assert_eq!((told.len(), third.next), (0, second.next));
        happened(&hub, 7);
        assert_eq!(news(&hub, Some(7), third.next).0, ["5 7"]);
        assert_eq!(news(&hub, Some(9), None).1.next, None);
        // Who sees all counts all.
        assert_eq!(news(&hub, None, after(7)).0, ["8 7", "9 8", "10 7"]);
        push(&hub);
        assert_eq!(news(&hub, None, after(10)).0, ["11 denied"]);
        // A reader of denials sees them alone.
        assert_eq!(numbers(&mut hub.read(None)), [Ok(11)]);
    }

    #[test]
    fn what_is_not_kept_is_told_as_lost_and_no_place_is_beyond_the_end() {
        let hub = Hub::of_run(RUN, 4);
        for id in [8, 7, 7, 7, 7, 7, 7] {
            happened(&hub, id);
        }
        let kept = ["3 7", "4 7", "5 7"].map(str::to_owned);
        let and_lost = |count| [vec![format!("lost {count}")], kept.to_vec()].concat();
        assert_eq!(news(&hub, Some(7), after(0)).0, and_lost(2));
        let other = Some(Cursor {
            run: RUN - 1,
            number: 9,
        });
        assert_eq!(news(&hub, Some(7), other).0, and_lost(3));
        assert_eq!(news(&hub, Some(7), None).0, kept);
        // Places that nobody was given.
        let (told, beyond) = news(&hub, Some(7), after(u64::MAX));
        assert_eq!((told.len(), beyond.next), (0, after(5)));
        happened(&hub, 7);
        assert_eq!(news(&hub, Some(7), beyond.next).0, ["6 7"]);
        // All of one's own.
        let hub = Hub::of_run(RUN, 2);
        for id in [7, 8, 9] {
            happened(&hub, id);
        }
        let (told, gone) = news(&hub, Some(7), other);
        assert_eq!((told, gone.next), (vec!["lost 1".to_owned()], after(0)));
    }

    #[test]
    fn who_makes_many_events_pushes_out_its_own() {
        let hub = Hub::of_run(RUN, 4);
        happened(&hub, 7);
        for _ in 0..100 {
            happened(&hub, 8);
        }
        assert_eq!(news(&hub, Some(7), None).0, ["0 7"]);
        let (told, _) = news(&hub, None, other_run());
        assert_eq!(told, ["0 7", "lost 97", "98 8", "99 8"]);
        assert_eq!(numbers(&mut hub.read(after(0))), [Err(97)]);
    }
}
