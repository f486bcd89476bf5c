//! What a slice may receive by a link.
//!
//! Nothing that arrives can be made to wait: a bucket that empties at the rate that the
//! owner gives, and what finds it full is dropped before the socket sees it. TCP takes
//! that for congestion and has its peer send less. The bucket is one time: when all that
//! came would have come at that rate (the generic cell rate algorithm of ITU-T I.371).

/// How much comes at once, nanoseconds of the rate. A connection whose last packets were
/// dropped says nothing for TCP's shortest timeout, 200 ms and the way to the peer and
/// back: with less saved for what comes then, it would have half of the rate.
pub const BURST_NS: u64 = 300_000_000;

/// Most that one packet fills, nanoseconds: the largest that the kernel joins of what
/// comes, at the lowest rate, are longer than anybody waits.
pub const PACKET_NS: u64 = 2_000_000_000;

/// Whether a packet may still come, where all that came before would have come by
/// `next_ns`. It may be larger than what is left: what is too much is paid for by those
/// behind it.
#[inline(always)]
#[must_use]
pub const fn may_come(next_ns: u64, now_ns: u64) -> bool {
    next_ns.saturating_sub(now_ns) < BURST_NS
}

/// How long a packet of so many bytes takes at this rate, nanoseconds, at most
/// [`PACKET_NS`].
#[inline(always)]
#[must_use]
pub const fn takes_ns(bytes: u64, rate: u64) -> u64 {
    if rate == 0 {
        return PACKET_NS;
    }
    // The longest packet has 2^32 bytes, so that the product fits.
    let bytes = if bytes < 1 << 32 { bytes } else { 1 << 32 };
    let takes = bytes * 1_000_000_000 / rate;
    if takes < PACKET_NS { takes } else { PACKET_NS }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bucket as the program in the kernel fills it, one packet after the other.
    fn comes(next: &mut u64, now: u64, bytes: u64, rate: u64) -> bool {
        if !may_come(*next, now) {
            return false;
        }
        *next = now.max(*next) + takes_ns(bytes, rate);
        true
    }

    #[test]
    fn who_receives_nothing_saves_no_more_than_a_burst() {
        // 1 MB a second, a packet each microsecond, after a year of silence.
        let (rate, year) = (1_000_000, 366 * 86_400 * 1_000_000_000);
        let mut next = 0;
        let came = (0..10_000).filter(|n| comes(&mut next, year + n * 1_000, 1_000, rate));
        // 300 KB at once, and 10 ms of the rate.
        assert_eq!(came.count(), 310);
    }

    #[test]
    fn a_packet_larger_than_the_bucket_comes_and_is_paid_for() {
        let (mut next, rate) = (0, 125_000);
        let now = 5_000_000_000;
        assert!(comes(&mut next, now, 65_000, rate));
        // 520 ms, less the burst.
        assert!(!comes(&mut next, now + 219_999_999, 1, rate));
        assert!(comes(&mut next, now + 220_000_001, 1, rate));
    }

    #[test]
    fn nothing_is_shut_out_for_longer_than_two_seconds() {
        assert_eq!(takes_ns(65_536, 1), PACKET_NS);
        assert_eq!(takes_ns(u64::MAX, 1_250), PACKET_NS);
        assert_eq!(takes_ns(1, 0), PACKET_NS);
        assert_eq!(takes_ns(1_500, 12_500_000_000), 120);
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_the_rate_a_burst_and_a_packet(
            rate in 62_500..12_500_000_000u64,
            begins in 0..1u64 << 60,
            packets in prop::collection::vec((0..5_000_000u64, 1..65_536u64), 1..300),
        ) {
            let (mut now, mut next) = (begins, 0);
            let mut came: Vec<(u64, u64)> = Vec::new();
            for (after, bytes) in packets {
                now += after;
                if comes(&mut next, now, bytes, rate) {
                    came.push((now, bytes));
                }
            }
            for (at, (first, _)) in came.iter().enumerate() {
                let mut sum = 0u128;
                for (time, bytes) in &came[at..] {
                    let ns = u128::from(time - first + BURST_NS);
                    // Each may be rounded down by a nanosecond of the rate.
                    let slack = u128::from(rate) * 300 / 1_000_000_000 + 1;
                    let most = u128::from(rate) * ns / 1_000_000_000 + u128::from(*bytes) + slack;
                    sum += u128::from(*bytes);
                    prop_assert!(sum <= most, "{sum} of {most}");
                }
            }
        }

        #[test]
        fn who_asks_for_less_than_the_rate_loses_nothing(
            rate in 62_500..12_500_000_000u64,
            sizes in prop::collection::vec(40..1_501u64, 1..300),
        ) {
            let (mut now, mut next) = (1 << 40, 0);
            for bytes in sizes {
                prop_assert!(comes(&mut next, now, bytes, rate));
                now += takes_ns(bytes, rate) + 1;
            }
        }
    }
}
