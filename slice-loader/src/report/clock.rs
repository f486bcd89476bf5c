//! Times of the programs, which count from boot, as times of the calendar.

use jiff::Timestamp;

use crate::sys::clock;

/// Both clocks of one moment. The programs stamp with the monotonic one; the
/// difference is taken anew at each reading, since the calendar may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// Nanoseconds of `CLOCK_REALTIME` since 1970.
    pub realtime_ns: i128,
}

impl Clock {
    /// The two clocks now.
    ///
    /// # Errors
    /// The kernel's; none is known for these two clocks.
    pub fn now() -> std::io::Result<Self> {
        Ok(Self {
            monotonic_ns: clock::monotonic_ns()?,
            realtime_ns: clock::realtime_ns()?.into(),
        })
    }

    /// The calendar time of a moment of the monotonic clock.
    #[must_use]
    pub fn at(&self, monotonic_ns: u64) -> Timestamp {
        let back = i128::from(self.monotonic_ns) - i128::from(monotonic_ns);
        Timestamp::from_nanosecond(self.realtime_ns - back).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The same as nanoseconds since 1970.
    #[must_use]
    pub fn nanoseconds(&self, monotonic_ns: u64) -> i64 {
        i64::try_from(self.at(monotonic_ns).as_nanosecond()).unwrap_or(0)
    }

    /// The calendar time of the reading.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.at(self.monotonic_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_since_boot_is_the_same_distance_from_now_on_the_calendar() {
        let clock = Clock {
            monotonic_ns: 5_000_000_000,
            realtime_ns: 1_700_000_000_000_000_000,
        };
        assert_eq!(clock.time().as_second(), 1_700_000_000);
        assert_eq!(clock.at(2_000_000_000).as_second(), 1_699_999_997);
        assert_eq!(clock.at(6_000_000_000).as_second(), 1_700_000_001);
    }

    #[test]
    fn the_two_clocks_of_this_machine_differ_by_what_it_has_been_up() {
        let clock = Clock::now().unwrap();
        assert!(clock.monotonic_ns > 0);
        assert!(clock.time().as_second() > 1_700_000_000);
    }
}
