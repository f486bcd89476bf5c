//! When flows that can be told so (ECN, RFC 3168) are told that too much waits.
//!
//! A datagram is marked where it waits long, before one is dropped. TCP fills whatever
//! queue there is and halves what it has on its way when it is told: told at once, it would
//! leave the link idle where its peer is far. So it is told as CoDel tells it (RFC 8289):
//! when its queue has not been short for a whole interval, and then the more often the
//! longer that lasts.
//!
//! What is kept of it is one word, so that of several CPUs one marks: the time of the next
//! mark, and in its last bits how many there were in a row.

/// How long the queue stands before the first mark, nanoseconds: the interval of RFC 8289,
/// more than most round trips.
pub const INTERVAL_NS: u64 = 100_000_000;

/// Bits of the number of marks.
const COUNT: u64 = 0xff;

/// The word where too much waits for the first time.
#[inline(always)]
#[must_use]
pub const fn first(now_ns: u64) -> u64 {
    now_ns.wrapping_add(INTERVAL_NS) & !COUNT
}

/// Whether it is time for a mark.
#[inline(always)]
#[must_use]
pub const fn is_due(word: u64, now_ns: u64) -> bool {
    now_ns >= word & !COUNT
}

/// The word after a mark: the next comes after the interval by the root of how many there
/// were, in powers of two.
#[inline(always)]
#[must_use]
pub const fn next(word: u64, now_ns: u64) -> u64 {
    let before = word & COUNT;
    let count = if before < COUNT { before + 1 } else { COUNT };
    let halvings = (count >= 4) as u32 + (count >= 16) as u32 + (count >= 64) as u32;
    now_ns.wrapping_add(INTERVAL_NS >> halvings) & !COUNT | count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of the marks while too much waits, in milliseconds.
    fn marks(milliseconds: u64) -> Vec<u64> {
        let begins = 5_000_000_000;
        let mut word = first(begins);
        let mut marks = Vec::new();
        for ms in 0..milliseconds {
            let now = begins + ms * 1_000_000;
            if is_due(word, now) {
                marks.push(ms);
                word = next(word, now);
            }
        }
        marks
    }

    #[test]
    fn a_queue_that_stands_for_less_than_an_interval_is_not_told() {
        assert_eq!(marks(100), []);
        assert_eq!(marks(150), [100]);
    }

    #[test]
    fn the_longer_it_stands_the_more_often_it_is_told() {
        let marks = marks(20_000);
        let pauses: Vec<u64> = marks.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.is_sorted_by(|a, b| a + 1 >= *b), "{pauses:?}");
        assert!(
            pauses[0] >= 99 && *pauses.last().unwrap() <= 14,
            "{pauses:?}"
        );
        // It is never told of more than one packet in a moment.
        assert!(pauses.iter().all(|pause| *pause >= 12), "{pauses:?}");
    }

    #[test]
    fn the_number_of_marks_does_not_run_into_the_time() {
        let mut word = first(0);
        for now in 0..10_000 {
            let before = word;
            word = next(word, now << 20);
            assert!(word & COUNT >= before & COUNT);
            assert!(!is_due(word, now << 20));
            assert!(is_due(word, (now << 20) + INTERVAL_NS));
        }
        assert_eq!(word & COUNT, COUNT);
    }
}
