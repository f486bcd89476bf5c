//! How much a slice may ask: a bucket that fills at a steady pace.

use std::time::{Duration, Instant};

/// Connections of a slice at once.
pub const CONNECTIONS: usize = 8;
/// Connections of all slices at once, beyond one for each.
pub const MORE: usize = 2000;
/// Streams of events of a slice, and of all.
pub const STREAMS: (usize, usize) = (2, 512);
/// Connections that wait to be taken; who comes then waits in connect(2).
pub const BACKLOG: i32 = 16;

/// Connections that are taken: at once after a pause, and then in a second.
pub const ACCEPTED: (u32, u32) = (40, 20);
/// Questions that are answered, likewise.
pub const ANSWERED: (u32, u32) = (30, 10);
/// Changes of slices that are taken, likewise.
pub const CHANGED: (u32, u32) = (20, 1);

/// How long a connection may take for a request's head.
pub const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may stay, whatever it does.
pub const LIFE: Duration = Duration::from_secs(60);
/// How long the daemon may take for an answer.
pub const ANSWER: Duration = Duration::from_secs(20);

/// Most bytes of a request's head.
pub const HEAD_BYTES: usize = 8 * 1024;

/// Holds so many tokens at most, and gets one in each pause.
#[derive(Debug)]
pub struct Bucket {
    pause: Duration,
    depth: Duration,
    /// When it would be full.
    full: Option<Instant>,
}

impl Bucket {
    /// A full one, of so many tokens, that gets so many in a second.
    #[must_use]
    pub fn new((most, in_second): (u32, u32)) -> Self {
        let pause = Duration::from_secs(1) / in_second.max(1);
        Self {
            pause,
            depth: pause * most,
            full: None,
        }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// There is none; when there will be.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let full = self.full.filter(|full| *full > now).unwrap_or(now) + self.pause;
        let missing = full.duration_since(now).saturating_sub(self.depth);
        if !missing.is_zero() {
            return Err(missing);
        }
        self.full = Some(full);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_bucket_gives_what_it_holds_and_then_one_in_each_pause() {
        let start = Instant::now();
        let mut bucket = Bucket::new((3, 10));
        for _ in 0..3 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        assert_eq!(bucket.take(start), Err(100 * MS));
        // Asking in vain costs nothing.
        assert_eq!(bucket.take(start + 60 * MS), Err(40 * MS));
        assert_eq!(bucket.take(start + 100 * MS), Ok(()));
        assert_eq!(bucket.take(start + 100 * MS), Err(100 * MS));
    }

    #[test]
    fn a_bucket_holds_no_more_after_a_long_pause() {
        let mut bucket = Bucket::new((2, 10));
        let start = Instant::now();
        for later in [0, 3600] {
            let now = start + Duration::from_secs(later);
            assert_eq!(bucket.take(now), Ok(()));
            assert_eq!(bucket.take(now), Ok(()));
            assert_eq!(bucket.take(now), Err(100 * MS));
        }
    }
}
