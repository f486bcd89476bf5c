//! What a slice may send on a link in a period, and how fast when that comes to an
//! end.
//!
//! Until nine tenths are used a quota changes nothing. From there on a slice sends no
//! faster than lets the rest last to the end of the period, or than its floor, which
//! is a promise: the rule of PlanetLab's nodes, by which nobody is cut off.

/// What is left to who has used up all, bytes per second: a packet that was stamped
/// "never" could not be recalled when the next period begins.
pub const LEAST: u64 = 100;

const SECOND_NS: u64 = 1_000_000_000;

/// A period, at some moment of a clock that nobody sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// Bytes sent in it.
    pub used: u64,
    /// When it ends, nanoseconds; 0: it has not begun.
    pub ends_ns: u64,
}

impl Period {
    /// The period at this moment: another one, where this one is over. Where the
    /// owner makes periods shorter than what is left of this one, it is cut, and what
    /// was sent counts.
    #[inline(always)]
    #[must_use]
    pub fn at(self, now_ns: u64, period_ns: u64) -> Period {
        let whole = now_ns.wrapping_add(period_ns);
        if self.ends_ns == 0 || period_ns == 0 {
            return Period {
                used: self.used,
                ends_ns: whole,
            };
        }
        if now_ns < self.ends_ns {
            return Period {
                used: self.used,
                ends_ns: self.ends_ns.min(whole),
            };
        }
        let over = (now_ns - self.ends_ns) % period_ns;
        Period {
            used: 0,
            ends_ns: whole - over,
        }
    }

    /// What is left of a quota.
    #[inline(always)]
    #[must_use]
    pub fn left(self, quota: u64) -> u64 {
        quota.saturating_sub(self.used)
    }

    /// The cap that a quota makes, bytes per second; none while there is enough left.
    #[inline(always)]
    #[must_use]
    pub fn cap(self, quota: u64, floor: u64, now_ns: u64) -> Option<u64> {
        if self.used < quota - quota / 10 {
            return None;
        }
        // Rounded up, so that the last second is one.
        let seconds = self
            .ends_ns
            .saturating_sub(now_ns)
            .wrapping_add(SECOND_NS - 1)
            / SECOND_NS;
        Some((self.left(quota) / seconds.max(1)).max(floor).max(LEAST))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400 * SECOND_NS;

    fn period(used: u64, ends_ns: u64) -> Period {
        Period { used, ends_ns }
    }

    #[test]
    fn from_nine_tenths_on_the_rest_lasts_to_the_end() {
        let (now, end) = (5 * DAY, 15 * DAY);
        let gb = 1_000_000_000;
        let cap = |used, floor| period(used, end).cap(100 * gb, floor, now);
        assert_eq!(cap(90 * gb - 1, 0), None);
        // 10 GB in 864,000 s, and half of that.
        assert_eq!(cap(90 * gb, 0), Some(11_574));
        assert_eq!(cap(95 * gb, 0), Some(5_787));
        // A floor is a promise, whatever was sent.
        assert_eq!(cap(95 * gb, 125_000), Some(125_000));
        assert_eq!(cap(200 * gb, 125_000), Some(125_000));
        assert_eq!(cap(200 * gb, 0), Some(LEAST));
        // In the last second, and where the end is past, what is left.
        assert_eq!(period(95, 10).cap(100_000, 0, 10), None);
        assert_eq!(period(95_000, 10).cap(100_000, 0, 10), Some(5_000));
    }

    #[test]
    fn a_period_follows_the_other_without_a_gap() {
        let before = period(7, 10 * DAY);
        assert_eq!(before.at(10 * DAY - 1, 5 * DAY), before);
        assert_eq!(before.at(10 * DAY, 5 * DAY), period(0, 15 * DAY));
        // Nobody sent for some periods.
        assert_eq!(before.at(27 * DAY, 5 * DAY), period(0, 30 * DAY));
        assert_eq!(Period::default().at(3 * DAY, 5 * DAY), period(0, 8 * DAY));
    }

    #[test]
    fn another_length_of_periods_gives_nothing_back() {
        let before = period(7, 10 * DAY);
        assert_eq!(before.at(DAY, 2 * DAY), period(7, 3 * DAY));
        assert_eq!(before.at(DAY, 30 * DAY), before);
    }

    proptest! {
        #[test]
        fn who_sends_as_fast_as_it_may_does_not_exceed_its_quota(
            quota in 1_000_000..1u64 << 50,
            seconds in 60..366 * 86_400u64,
            begins in 0..1u64 << 60,
            // What is sent before the next look, of 1000 parts of the link's rate.
            parts in prop::collection::vec(0..=1000u64, 1..200),
            rate in 12_500..=12_500_000_000u64,
        ) {
            let length = seconds * SECOND_NS;
            let step = (length / parts.len() as u64).max(1);
            let mut now = begins + 1;
            let mut period = Period::default().at(now, length);
            let end = period.ends_ns;
            for part in parts {
                let cap = period.cap(quota, 0, now);
                let may = cap.unwrap_or(rate).min(rate);
                let sends = u128::from(may) * u128::from(part) * u128::from(step)
                    / (1000 * u128::from(SECOND_NS));
                // Before nine tenths a look comes long before the quota is exceeded.
                let sends = u64::try_from(sends).unwrap().min(match cap {
                    Some(_) => u64::MAX,
                    None => quota - quota / 20 - period.used.min(quota - quota / 20),
                });
                period.used += sends;
                now += step;
                if now < end {
                    prop_assert_eq!(period.at(now, length), period);
                }
            }
            let least = LEAST * (seconds + 1);
            prop_assert!(period.used <= quota + least, "{} of {quota}", period.used);
        }

        #[test]
        fn a_period_at_any_moment_ends_later_and_in_no_more_than_its_length(
            used in any::<u64>(),
            ends in 0..1u64 << 61,
            now in 0..1u64 << 61,
            length in 60 * SECOND_NS..=366 * DAY,
        ) {
            let at = period(used, ends).at(now, length);
            prop_assert!(at.ends_ns > now && at.ends_ns <= now + length);
            prop_assert!(at.used == 0 || at.used == used);
            prop_assert_eq!(at.at(now, length), at);
            prop_assert!(at.used == used || now >= ends);
        }
    }
}
