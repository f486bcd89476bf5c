//! How many connections may a slice start, at once and in a second?
//!
//! A connection is a TCP connection that a socket of the slice starts towards
//! anything but its own loopback. It counts from `connect()` on until TCP is
//! done with it, whether it was answered or not.
//!
//! The rate is a token bucket, kept as one word: the time until which
//! connections have been paid for (the virtual scheduling of ITU-T I.371, annex
//! A). Each pays its part of a second on top of what was paid, or of now where
//! that is over, and none may pay further ahead than a second. So a slice that
//! was quiet starts a second's worth at once, and in any time `t` never more than
//! `rate * t` beyond that.

use crate::verdict::{Reason, Verdict};

const SECOND: u64 = 1_000_000_000;

/// Decides whether a slice with `open` connections may start one more.
#[inline(always)]
pub fn one_more(open: u64, most: u32) -> Verdict {
    Verdict::allow_if(open < most as u64, Reason::ConnectionLimit)
}

/// Pays for one more connection at `now_ns`: until when has been paid then.
///
/// # Errors
/// The rate is used up; nothing is paid.
#[inline(always)]
pub fn pay(paid_ns: u64, rate: u32, now_ns: u64) -> Result<u64, Reason> {
    if rate == 0 {
        return Err(Reason::ConnectionRate);
    }
    let price = price(rate);
    let from = if paid_ns > now_ns { paid_ns } else { now_ns };
    let paid = from.saturating_add(price);
    if paid > now_ns.saturating_add(price * rate as u64) {
        return Err(Reason::ConnectionRate);
    }
    Ok(paid)
}

/// How many of a second's worth of connections are used up, for people.
#[must_use]
pub fn used(paid_ns: u64, rate: u32, now_ns: u64) -> u64 {
    match rate {
        0 => 0,
        rate => paid_ns.saturating_sub(now_ns).div_ceil(price(rate)),
    }
}

/// A connection's part of a second, rounded up: never more than the rate. A
/// `rate` that is not zero times this is below two seconds up to 10^9.
#[inline(always)]
const fn price(rate: u32) -> u64 {
    SECOND.div_ceil(rate as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_connection_allowed_is_the_limit() {
        assert_eq!(one_more(9, 10), Verdict::Allow);
        assert_eq!(one_more(10, 10), Verdict::Deny(Reason::ConnectionLimit));
        assert_eq!(one_more(0, 0), Verdict::Deny(Reason::ConnectionLimit));
    }

    /// Starts as many at `now` as it may, at most `limit`.
    fn burst(paid: &mut u64, rate: u32, now: u64, limit: u64) -> u64 {
        let mut started = 0;
        while started < limit {
            match pay(*paid, rate, now) {
                Ok(after) => *paid = after,
                Err(reason) => {
                    assert_eq!(reason, Reason::ConnectionRate);
                    break;
                }
            }
            started += 1;
        }
        started
    }

    #[test]
    fn a_quiet_slice_starts_a_seconds_worth_at_once_and_then_its_rate() {
        for rate in [1, 3, 7, 50, 10_000, 999_999] {
            let mut paid = 0;
            let now = 5 * SECOND;
            assert_eq!(burst(&mut paid, rate, now, u64::MAX), u64::from(rate));
            assert_eq!(used(paid, rate, now), u64::from(rate));
            assert_eq!(burst(&mut paid, rate, now + price(rate) - 1, u64::MAX), 0);
            assert_eq!(burst(&mut paid, rate, now + price(rate), u64::MAX), 1);
            // However long it was quiet, it saved no more.
            assert_eq!(used(paid, rate, 1000 * SECOND), 0);
            assert_eq!(
                burst(&mut paid, rate, 1000 * SECOND, u64::MAX),
                u64::from(rate)
            );
        }
    }

    #[test]
    fn a_zeroed_row_starts_nothing() {
        assert_eq!(pay(0, 0, SECOND), Err(Reason::ConnectionRate));
        assert_eq!(used(0, 0, SECOND), 0);
    }

    #[test]
    fn a_lower_rate_waits_for_what_was_paid_and_no_longer() {
        let mut paid = 0;
        burst(&mut paid, 1000, SECOND, u64::MAX);
        assert_eq!(burst(&mut paid, 1, SECOND, u64::MAX), 0);
        assert_eq!(burst(&mut paid, 1, 2 * SECOND, u64::MAX), 1);
    }

    proptest! {
        /// In no stretch of time more than a second's worth and the rate, and
        /// who asks no faster than the rate is never refused.
        #[test]
        fn never_more_than_the_rate_and_a_burst(
            rate in 1u32..2_000,
            begin in 0u64..u64::MAX / 2,
            asks in proptest::collection::vec((0u64..SECOND / 4, 1u64..600), 1..60),
        ) {
            let (mut now, mut paid) = (begin, 0);
            let mut started: Vec<(u64, u64)> = Vec::new();
            for (gap, many) in asks {
                now += gap;
                started.push((now, burst(&mut paid, rate, now, many)));
            }
            for (at, (from, _)) in started.iter().enumerate() {
                let mut sum = 0;
                for (now, many) in &started[at..] {
                    sum += many;
                    let most = u128::from(rate)
                        + u128::from(now - from) * u128::from(rate) / u128::from(SECOND);
                    prop_assert!(u128::from(sum) <= most, "{sum} of {most}");
                }
            }
            // From here on at the rate: each is let through.
            let mut after = now + SECOND;
            for _ in 0..50 {
                after += price(rate);
                prop_assert_eq!(burst(&mut paid, rate, after, 1), 1);
            }
        }

        /// No clock, word or rate makes it overflow, pay backwards, or pay
        /// further ahead than two seconds.
        #[test]
        fn it_never_overflows(paid in any::<u64>(), rate in any::<u32>(), now in any::<u64>()) {
            if let Ok(after) = pay(paid, rate, now) {
                prop_assert!(after >= paid && after >= now);
                prop_assert!(u128::from(after - now) <= u128::from(SECOND) + u128::from(rate));
                // The clock goes on: it has room.
                prop_assert!(after > paid || now > u64::MAX - 2 * SECOND);
            }
            let _ = used(paid, rate, now);
        }
    }
}
