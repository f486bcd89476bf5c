//! The clocks of the kernel, as counts of nanoseconds.

use std::io;

use nix::time::{ClockId, clock_gettime};

/// Time since boot without suspend: the clock of the programs.
///
/// # Errors
/// The kernel's; none is known.
pub fn monotonic_ns() -> io::Result<u64> {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Time of the calendar, since 1970.
///
/// # Errors
/// As [`monotonic_ns`]; that it is before 1970.
pub fn realtime_ns() -> io::Result<u64> {
    read(ClockId::CLOCK_REALTIME)
}

/// Time since boot, suspend included.
///
/// # Errors
/// As [`monotonic_ns`].
pub fn boottime_ns() -> io::Result<u64> {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> io::Result<u64> {
    let time = clock_gettime(clock)?;
    let part = |number: i64| u64::try_from(number).map_err(io::Error::other);
    Ok(part(time.tv_sec())? * 1_000_000_000 + part(time.tv_nsec())?)
}
