//! Quantities with their units: what the owner may write, and what it means.

use std::fmt;

/// A size in bytes. Written `"512 MiB"`, `"1 GB"`; a bare number is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A rate in bits per second. Written `"10 Mbit/s"`, `"100 kB/s"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitsPerSecond(pub u64);

/// A span of time in nanoseconds. Written `"10 ms"`, `"30 days"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanoseconds(pub u64);

/// CPU time in thousandths of one core. Written `"1.5"`, `"1.5 cores"` or `"150 %"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCores(pub u64);

/// A part of a whole in thousandths of a percent (100 % = 100,000). Written `"12.5 %"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliPercent(pub u32);
