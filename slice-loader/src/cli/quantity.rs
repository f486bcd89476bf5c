//! Numbers as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Bytes with a binary unit, three digits that count: `0 B`, `1.50 KiB`, `999 GiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let scaled = scale(count, 1024, &UNITS);
    scaled.map_or_else(
        || format!("{count} B"),
        |(number, unit)| format!("{number} {unit}"),
    )
}

/// A count, from ten thousand on with a decimal unit: `9999`, `10.0k`, `1.20M`.
#[must_use]
pub fn count(count: u64) -> String {
    const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if count < 10_000 {
        return count.to_string();
    }
    let scaled = scale(count, 1000, &UNITS);
    scaled.map_or_else(
        || count.to_string(),
        |(number, unit)| format!("{number}{unit}"),
    )
}

/// A rate in bit/s with a decimal unit, three digits that count: `0 bit/s`,
/// `1.50 Mbit/s`.
#[must_use]
pub fn bit_rate(rate: u64) -> String {
    const UNITS: [&str; 6] = ["kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s", "Ebit/s"];
    let scaled = scale(rate, 1000, &UNITS);
    scaled.map_or_else(
        || format!("{rate} bit/s"),
        |(number, unit)| format!("{number} {unit}"),
    )
}

/// CPU time: `12 ms`, `3.21 s`, `4 min 5 s`, `2 h 3 min`.
#[must_use]
pub fn cpu_time(microseconds: u64) -> String {
    let seconds = microseconds / 1_000_000;
    match seconds {
        0 => format!("{} ms", microseconds / 1000),
        1..60 => format!("{seconds}.{:02} s", microseconds / 10_000 % 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// `used/limit`, or only what is used where nothing bounds it.
#[must_use]
pub fn of_limit(used: crate::report::Used, show: fn(u64) -> String) -> String {
    match used.limit {
        Some(limit) => format!("{}/{}", show(used.usage), show(limit)),
        None => show(used.usage),
    }
}

/// A time of the calendar, to the second, in this machine's time zone.
#[must_use]
pub fn time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// A time of the calendar, to the millisecond, in this machine's time zone.
#[must_use]
pub fn time_exact(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S%.3f")
        .to_string()
}

/// Three digits that count, and the unit; `None` below one unit.
fn scale(count: u64, step: u64, units: &[&'static str]) -> Option<(String, &'static str)> {
    let mut unit = 0;
    let mut size = step;
    if count < step {
        return None;
    }
    while unit + 1 < units.len() && count / size >= step {
        size *= step;
        unit += 1;
    }
    // Cut, not rounded: 1023.9 KiB must not read 1.00 MiB.
    let (whole, rest) = (count / size, u128::from(count % size));
    let part = |digits: u128| rest * digits / u128::from(size);
    let number = match whole {
        0..10 => format!("{whole}.{:02}", part(100)),
        10..100 => format!("{whole}.{}", part(10)),
        _ => whole.to_string(),
    };
    Some((number, units[unit]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_that_count() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 * 1024 * 1024, "10.0 MiB"),
            (1024 * 1024 - 1, "1023 KiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn counts_are_exact_up_to_ten_thousand() {
        for (number, text) in [
            (0, "0"),
            (9999, "9999"),
            (10_000, "10.0k"),
            (1_200_000, "1.20M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn cpu_time_is_told_in_the_two_units_that_matter() {
        for (us, text) in [
            (999, "0 ms"),
            (12_000, "12 ms"),
            (3_210_000, "3.21 s"),
            (245_000_000, "4 min 5 s"),
            (7_380_000_000, "2 h 3 min"),
        ] {
            assert_eq!(cpu_time(us), text);
        }
    }
}
