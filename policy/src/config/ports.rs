//! Ranges and sets of port numbers.

use std::fmt;

/// Ports kept on every node for the translation of loopback ports: nobody can reserve them.
pub const LOOPBACK_PORTS: PortRange = PortRange {
    low: 61000,
    high: 65499,
};

/// Ports from `low` to `high`, both included; `1 <= low <= high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    low: u16,
    high: u16,
}

/// Why a text is no port or range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPorts {
    /// Neither `"80"` nor `"8000-8010"`.
    Form,
    /// Port 0, or above 65535.
    Number,
    /// The first port is above the last.
    Order,
}

/// A set of ports: sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet {
    ranges: Vec<PortRange>,
}

impl PortRange {
    /// All ports but 0.
    pub const ALL: Self = Self {
        low: 1,
        high: u16::MAX,
    };

    /// From `low` to `high`.
    ///
    /// # Errors
    /// [`BadPorts::Number`] for port 0, [`BadPorts::Order`] if `low > high`.
    pub const fn new(low: u16, high: u16) -> Result<Self, BadPorts> {
        if low == 0 || high == 0 {
            return Err(BadPorts::Number);
        }
        if low > high {
            return Err(BadPorts::Order);
        }
        Ok(Self { low, high })
    }

    /// Reads `"80"` or `"8000-8010"`; spaces around the dash are allowed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadPorts> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        Self::new(number(low.trim())?, number(high.trim())?)
    }

    /// First port.
    #[must_use]
    pub const fn low(self) -> u16 {
        self.low
    }

    /// Last port.
    #[must_use]
    pub const fn high(self) -> u16 {
        self.high
    }

    /// How many ports.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.high as u32 - self.low as u32 + 1
    }

    /// Never: a range has at least one port.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Whether the port is in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.low <= port && port <= self.high
    }

    /// The ports in both ranges.
    #[must_use]
    pub fn overlap(self, other: Self) -> Option<Self> {
        let (low, high) = (self.low.max(other.low), self.high.min(other.high));
        (low <= high).then_some(Self { low, high })
    }

    /// The ports in order.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.low..=self.high
    }
}

fn number(text: &str) -> Result<u16, BadPorts> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadPorts::Form);
    }
    // Only digits: what does not fit is too large.
    text.parse().map_err(|_| BadPorts::Number)
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}-{}", self.low, self.high)
        }
    }
}

impl fmt::Display for BadPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "is neither a port nor a range of ports",
            Self::Number => "is out of range: ports are 1 to 65535",
            Self::Order => "begins above its end",
        })
    }
}

impl std::error::Error for BadPorts {}

impl PortSet {
    /// The ranges, sorted; between two of them lies at least one port that is not in the set.
    #[must_use]
    pub fn ranges(&self) -> &[PortRange] {
        &self.ranges
    }

    /// Whether the port is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let after = self.ranges.partition_point(|range| range.low <= port);
        after > 0 && self.ranges[after - 1].contains(port)
    }

    /// How many ports.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    /// Whether there is no port in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Ports in this set, the other, or both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.ranges.iter().chain(&other.ranges).copied().collect()
    }

    /// Ports in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let pairs = self
            .ranges
            .iter()
            .flat_map(|a| other.ranges.iter().map(move |b| a.overlap(*b)));
        pairs.flatten().collect()
    }

    /// Ports in this set that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for range in &self.ranges {
            let mut next = u32::from(range.low);
            for gone in other.ranges.iter().filter_map(|gone| range.overlap(*gone)) {
                push(&mut left, next, u32::from(gone.low) - 1);
                next = u32::from(gone.high) + 1;
            }
            push(&mut left, next, u32::from(range.high));
        }
        left.into_iter().collect()
    }

    /// The ports in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().flat_map(|range| range.iter())
    }

    /// Reads the kernel's way to write a set of ports (`ip_local_reserved_ports`): `8080,9000-9010`.
    ///
    /// # Errors
    /// What is wrong with the first bad entry.
    pub fn parse_kernel(text: &str) -> Result<Self, BadPorts> {
        text.trim()
            .split(',')
            .filter(|entry| !entry.is_empty())
            .map(PortRange::parse)
            .collect()
    }
}

/// Adds `low..=high` unless it is empty.
fn push(ranges: &mut Vec<PortRange>, low: u32, high: u32) {
    if let (Ok(low), Ok(high)) = (u16::try_from(low), u16::try_from(high)) {
        ranges.extend(PortRange::new(low, high));
    }
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut sorted: Vec<PortRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(range.low) <= u32::from(last.high) + 1 => {
                    last.high = last.high.max(range.high);
                }
                _ => merged.push(range),
            }
        }
        Self { ranges: merged }
    }
}

/// The kernel's way to write a set of ports: `8080,9000-9010`.
impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            write!(f, "{}{range}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}
