//! Room for what is being told: answers that wait to be read take memory of this
//! process, and who reads slowly, or not at all, must not take all of it.

use std::sync::Arc;

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit in which room is counted.
const KIBIBYTE: u32 = 1024;
/// From here on an answer is large: those of slices without a grant never are.
const LARGE: u32 = 64 * KIBIBYTE;
/// Room for large answers, in KiB: five for 5,000 slices at once.
const OF_LARGE: usize = 64 * 1024;
/// Room for others, in KiB: large ones take nothing of it.
const OF_SMALL: usize = 16 * 1024;
/// What one slice may have of it, in KiB.
const OF_ONE: usize = OF_LARGE / 2;

/// The room of the process, or of one slice in it.
#[derive(Clone, Debug)]
pub struct Room {
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

/// Room that was found; it is given back when this is dropped.
#[derive(Debug)]
pub struct Found(#[expect(dead_code, reason = "held, not looked at")] [OwnedSemaphorePermit; 2]);

/// An answer's body, and the room that it takes.
struct Held {
    body: Vec<u8>,
    _room: Found,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Room {
    /// That of the process.
    #[must_use]
    pub fn of_all() -> Self {
        Self::new(OF_LARGE, OF_SMALL)
    }

    /// What one slice may have of it.
    #[must_use]
    pub fn of_one() -> Self {
        Self::new(OF_ONE, OF_SMALL / 2)
    }

    fn new(large: usize, small: usize) -> Self {
        Self {
            large: Arc::new(Semaphore::new(large)),
            small: Arc::new(Semaphore::new(small)),
        }
    }

    /// Room for so many bytes, in the process and in the slice's part of it;
    /// none is waited for.
    #[must_use]
    pub fn find(&self, of_one: &Self, bytes: u32) -> Option<Found> {
        let take = |room: &Self| {
            let room = if bytes > LARGE {
                &room.large
            } else {
                &room.small
            };
            let room = room.clone();
            room.try_acquire_many_owned(bytes.div_ceil(KIBIBYTE)).ok()
        };
        Some(Found([take(of_one)?, take(self)?]))
    }
}

impl Found {
    /// The body, which gives the room back when it was written or is dropped.
    #[must_use]
    pub fn hold(self, body: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { body, _room: self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What 5,000 slices need.
    const WHOLE: u32 = 13 << 20;

    #[test]
    fn answers_that_nobody_reads_take_no_more_than_there_is_and_give_it_back() {
        let (all, one, other) = (Room::of_all(), Room::of_one(), Room::of_one());
        let of = |room: &Room| -> Vec<Bytes> {
            std::iter::from_fn(|| all.find(room, WHOLE))
                .take(100)
                .map(|found| found.hold(vec![b'x']))
                .collect()
        };
        let held = of(&one);
        assert_eq!(held.len(), 2, "one slice has all");
        let others = of(&other);
        assert_eq!(others.len(), 2);
        // Another yet finds none for large answers, and some for its own.
        assert!(all.find(&Room::of_one(), WHOLE).is_none());
        assert!(all.find(&Room::of_one(), LARGE).is_some());
        let copy = held[0].clone();
        drop(held);
        assert!(all.find(&one, WHOLE).is_some());
        drop((copy, others));
        assert_eq!(of(&one).len(), 2);
        // More than all is none, and takes nothing.
        assert!(all.find(&one, u32::MAX).is_none());
        assert_eq!(of(&one).len(), 2);
    }

    #[test]
    fn small_answers_of_one_slice_leave_room_for_others() {
        let (all, one) = (Room::of_all(), Room::of_one());
        let held: Vec<_> = std::iter::from_fn(|| all.find(&one, LARGE)).collect();
        assert!(held.len() > 8, "{}", held.len());
        assert!(all.find(&Room::of_one(), LARGE).is_some());
    }
}
