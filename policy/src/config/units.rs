//! Quantities with their units: what the owner may write, and what it means.
//!
//! A quantity is a decimal number and a unit, `"1.5 GiB"`; the space may be left out. Numbers are
//! computed exactly: what is not a whole number of the base unit is refused, not rounded.

use std::fmt;
use std::ops::Range;

/// One kind of quantity: its units, and the smallest step it is kept in.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// What it is called in errors.
    pub name: &'static str,
    /// Name of the step that values count.
    pub step: &'static str,
    /// Units with their size in steps; the first of a size is the one that is printed.
    pub units: &'static [(&'static str, u64)],
    /// Units that are read as well, and never printed.
    pub also: &'static [(&'static str, u64)],
    /// What a number without unit means, in steps.
    pub bare: Option<u64>,
    /// A good example.
    pub example: &'static str,
}

/// Sizes, in bytes.
pub static SIZE: Kind = Kind {
    name: "size",
    step: "byte",
    units: &[
        ("B", 1),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ],
    also: &[],
    bare: None,
    example: "512 MiB",
};

/// Rates, in bits per second.
pub static RATE: Kind = Kind {
    name: "rate",
    step: "bit/s",
    units: &[
        ("bit/s", 1),
        ("kbit/s", 1_000),
        ("Mbit/s", 1_000_000),
        ("Gbit/s", 1_000_000_000),
        ("Tbit/s", 1_000_000_000_000),
    ],
    // Who writes 16 Mbit/s is not to be answered with 2 MB/s.
    also: &[
        ("B/s", 8),
        ("kB/s", 8_000),
        ("MB/s", 8_000_000),
        ("GB/s", 8_000_000_000),
    ],
    bare: None,
    example: "10 Mbit/s",
};

/// Throughput of a disk, in bytes per second.
pub static THROUGHPUT: Kind = Kind {
    name: "throughput",
    step: "byte per second",
    units: &[
        ("B/s", 1),
        ("kB/s", 1_000),
        ("MB/s", 1_000_000),
        ("GB/s", 1_000_000_000),
        ("KiB/s", 1 << 10),
        ("MiB/s", 1 << 20),
        ("GiB/s", 1 << 30),
    ],
    also: &[],
    bare: None,
    example: "20 MB/s",
};

/// Times, in nanoseconds.
pub static TIME: Kind = Kind {
    name: "time",
    step: "nanosecond",
    units: &[
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("min", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("days", 86_400_000_000_000),
        ("day", 86_400_000_000_000),
        ("weeks", 604_800_000_000_000),
        ("week", 604_800_000_000_000),
    ],
    also: &[],
    bare: None,
    example: "120 s",
};

/// CPU time, in thousandths of one core.
pub static CPU: Kind = Kind {
    name: "number of cores",
    step: "thousandth of a core",
    units: &[("cores", 1_000), ("core", 1_000), ("%", 10)],
    also: &[],
    bare: Some(1_000),
    example: "1.5",
};

/// Parts of a whole, in thousandths of a percent.
pub static PART: Kind = Kind {
    name: "percentage",
    step: "thousandth of a percent",
    units: &[("%", 1_000)],
    also: &[],
    bare: None,
    example: "80 %",
};

/// Kinds that an owner may mix up, for the remedy.
static KINDS: [&Kind; 6] = [&SIZE, &RATE, &THROUGHPUT, &TIME, &CPU, &PART];

/// Why a text is no quantity of a kind, and which bytes of the text are to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadQuantity {
    /// Why.
    pub why: Why,
    /// Which part of the text.
    pub span: Range<usize>,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It does not begin with a decimal number.
    Number,
    /// The unit is missing.
    NoUnit,
    /// The unit is unknown; this one is near.
    Unit(Option<&'static str>),
    /// The unit belongs to this other kind.
    OtherKind(&'static str),
    /// Not a whole number of steps.
    Fraction,
    /// More than 2^64 - 1 steps.
    TooLarge,
}

impl Kind {
    /// Reads a quantity, in steps.
    ///
    /// # Errors
    /// What is wrong, and where in the text.
    pub fn parse(&self, text: &str) -> Result<u64, BadQuantity> {
        let bad = |why, span| Err(BadQuantity { why, span });
        let number_end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let Some((mantissa, scale)) = decimal(&text[..number_end]) else {
            let first = text.chars().next().map_or(0, char::len_utf8);
            return bad(Why::Number, 0..number_end.max(first));
        };
        let unit_start =
            number_end + (text.len() - number_end - text[number_end..].trim_start().len());
        let unit = text[unit_start..].trim_end();
        let unit_span = unit_start..unit_start + unit.len();
        let size = match (unit, self.bare) {
            ("", Some(bare)) => bare,
            ("", None) => return bad(Why::NoUnit, 0..text.len()),
            _ => match self.read().find(|(name, _)| *name == unit) {
                Some((_, size)) => *size,
                None => return bad(self.blame(unit), unit_span),
            },
        };
        // 39 digits at most come out of `decimal`, so the product may not fit: checked.
        let Some(product) = mantissa.checked_mul(u128::from(size)) else {
            return bad(Why::TooLarge, 0..number_end);
        };
        let Some(divisor) = 10u128.checked_pow(scale) else {
            return bad(Why::Fraction, 0..number_end);
        };
        if product % divisor != 0 {
            return bad(Why::Fraction, 0..number_end);
        }
        match u64::try_from(product / divisor) {
            Ok(steps) => Ok(steps),
            Err(_) => bad(Why::TooLarge, 0..number_end),
        }
    }

    /// Writes a quantity so that [`Kind::parse`] reads the same: in the largest unit that needs no
    /// fraction, else in the smallest.
    #[must_use]
    pub fn print(&self, steps: u64) -> String {
        let smallest = self.units.iter().min_by_key(|(_, size)| *size);
        let whole = self
            .units
            .iter()
            .filter(|(_, size)| steps != 0 && steps.is_multiple_of(*size));
        // Of two names for one size the first in the table.
        let largest = whole.reduce(|best, unit| if unit.1 > best.1 { unit } else { best });
        let (name, size) = largest.or(smallest).copied().unwrap_or(("", 1));
        format!("{} {name}", with_fraction(steps, size))
    }

    /// Every unit that is read.
    fn read(&self) -> impl Iterator<Item = &'static (&'static str, u64)> + use<> {
        self.units.iter().chain(self.also)
    }

    fn blame(&self, unit: &str) -> Why {
        let names = |kind: &'static Kind| kind.read().map(|(name, _)| *name);
        if let Some(kind) = KINDS
            .iter()
            .find(|kind| names(kind).any(|name| name == unit))
        {
            return Why::OtherKind(kind.name);
        }
        // From the surest guess to the boldest: another case, an abbreviation, a slip, a long form.
        let lower = unit.to_lowercase();
        let guesses: [&dyn Fn(&str) -> bool; 4] = [
            &|name| name.to_lowercase() == lower,
            &|name| name.to_lowercase().starts_with(&lower),
            &|name| name.chars().count() > 1 && strsim::damerau_levenshtein(name, unit) == 1,
            &|name| lower.starts_with(&name.to_lowercase()),
        ];
        let own = || self.read().map(|(name, _)| *name);
        Why::Unit(
            guesses
                .iter()
                .find_map(|guess| own().find(|name| guess(name))),
        )
    }

    /// What to do about a bad quantity.
    #[must_use]
    pub fn help(&self, bad: &BadQuantity) -> String {
        let names: Vec<&str> = self.read().map(|(name, _)| *name).collect();
        match bad.why {
            Why::Unit(Some(near)) => {
                format!("did you mean `{near}`? Units are {}", names.join(", "))
            }
            Why::Fraction => format!(
                "choose a smaller unit: the smallest step is one {}",
                self.step
            ),
            Why::TooLarge => format!("write a smaller {}", self.name),
            Why::Number | Why::NoUnit | Why::Unit(None) | Why::OtherKind(_) => {
                format!(
                    "write for example \"{}\"; units are {}",
                    self.example,
                    names.join(", ")
                )
            }
        }
    }
}

impl BadQuantity {
    /// What is wrong, as the end of a sentence that begins with the text.
    #[must_use]
    pub fn says(&self, text: &str, kind: &Kind) -> String {
        let part = text.get(self.span.clone()).unwrap_or(text);
        match self.why {
            Why::Number => format!("\"{text}\" does not begin with a decimal number"),
            Why::NoUnit => format!("\"{text}\" has no unit"),
            Why::Unit(_) => format!("`{part}` is not a unit of a {}", kind.name),
            Why::OtherKind(other) => {
                format!("`{part}` is the unit of a {other}, not of a {}", kind.name)
            }
            Why::Fraction => format!("\"{text}\" is not a whole number of {}s", kind.step),
            Why::TooLarge => format!("\"{text}\" is too large"),
        }
    }
}

/// A decimal number as `mantissa / 10^scale`; `None` if it is none. Numbers so long that they
/// overflow 128 bits saturate: they are too large for every kind.
fn decimal(text: &str) -> Option<(u128, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let digits = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|digit| u128::from(digit - b'0'));
    let mantissa = digits.fold(0u128, |sum, digit| {
        sum.saturating_mul(10).saturating_add(digit)
    });
    Some((mantissa, u32::try_from(fraction.len()).ok()?))
}

/// `steps / size` as a decimal number; exact where `size` divides a power of ten up to 1000.
fn with_fraction(steps: u64, size: u64) -> String {
    let thousandths = u128::from(steps % size) * 1000 / u128::from(size);
    let fraction = format!(".{thousandths:03}");
    format!(
        "{}{}",
        steps / size,
        fraction.trim_end_matches('0').trim_end_matches('.')
    )
}

macro_rules! quantities {
    ($($(#[$doc:meta])* $name:ident($steps:ty) = $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $steps);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&$kind.print(u64::from(self.0)))
            }
        }
    )*};
}

quantities! {
    /// A size in bytes. Written `"512 MiB"`, `"1 GB"`; a bare number is refused.
    Bytes(u64) = SIZE;
    /// A rate in bits per second. Written `"10 Mbit/s"`, `"100 kB/s"`.
    BitsPerSecond(u64) = RATE;
    /// A span of time in nanoseconds. Written `"10 ms"`, `"30 days"`.
    Nanoseconds(u64) = TIME;
    /// A part of a whole in thousandths of a percent (100 % = 100,000). Written `"12.5 %"`.
    MilliPercent(u32) = PART;
}

impl BitsPerSecond {
    /// The same as the maps have it: whole bytes per second, rounded down.
    #[must_use]
    pub const fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

/// CPU time in thousandths of one core. Written `"1.5"`, `"1.5 cores"` or `"150 %"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCores(pub u64);

/// `1.5 cores`: people think in cores, also where a percentage would need no fraction.
impl fmt::Display for MilliCores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.0 == 1000 { "core" } else { "cores" };
        f.pad(&format!("{} {unit}", with_fraction(self.0, 1000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_what_they_say() {
        for (kind, text, steps) in [
            (&SIZE, "512 MiB", 512 << 20),
            (&SIZE, "1.5GiB", 3 << 29),
            (&SIZE, "1 GB", 1_000_000_000),
            (&SIZE, "0 B", 0),
            (&RATE, "10 Mbit/s", 10_000_000),
            (&RATE, "1.5 Gbit/s", 1_500_000_000),
            (&RATE, "100 kB/s", 800_000),
            (&TIME, "10 ms", 10_000_000),
            (&TIME, "30 days", 2_592_000_000_000_000),
            (&TIME, "1 day", 86_400_000_000_000),
            (&CPU, "1.5", 1500),
            (&CPU, "2 cores", 2000),
            (&CPU, "150 %", 1500),
            (&CPU, "0.001", 1),
            (&PART, "12.5%", 12_500),
        ] {
            assert_eq!(kind.parse(text), Ok(steps), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_blamed_exactly() {
        for (kind, text, why, part) in [
            (&SIZE, "", Why::Number, ""),
            (&SIZE, "MiB", Why::Number, "M"),
            (&SIZE, "-1 MiB", Why::Number, "-"),
            (&SIZE, "½ MiB", Why::Number, "½"),
            (&SIZE, ".5 MiB", Why::Number, ".5"),
            (&SIZE, "1..5 MiB", Why::Number, "1..5"),
            (&SIZE, "512", Why::NoUnit, "512"),
            (&SIZE, "512 Mib", Why::Unit(Some("MiB")), "Mib"),
            (&SIZE, "512 M", Why::Unit(Some("MB")), "M"),
            (&TIME, "5 minutes", Why::Unit(Some("min")), "minutes"),
            (&TIME, "5 sec", Why::Unit(Some("s")), "sec"),
            (&RATE, "5 Mbits/s", Why::Unit(Some("Mbit/s")), "Mbits/s"),
            (&SIZE, "512 zettabytes", Why::Unit(None), "zettabytes"),
            (&SIZE, "512 Mbit/s", Why::OtherKind("rate"), "Mbit/s"),
            (&TIME, "5 %", Why::OtherKind("number of cores"), "%"),
            (&SIZE, "0.5 B", Why::Fraction, "0.5"),
            (&CPU, "0.0001", Why::Fraction, "0.0001"),
            (&SIZE, "99999999999 TiB", Why::TooLarge, "99999999999"),
            (
                &SIZE,
                &format!("{} B", "9".repeat(90)),
                Why::TooLarge,
                &"9".repeat(90),
            ),
        ] {
            let bad = kind.parse(text).unwrap_err();
            assert_eq!((bad.why, &text[bad.span]), (why, part), "{text}");
        }
    }

    #[test]
    fn quantities_are_printed_in_the_largest_whole_unit() {
        assert_eq!(Bytes(512 << 20).to_string(), "512 MiB");
        assert_eq!(Bytes(1_000_000_000).to_string(), "1 GB");
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(BitsPerSecond(10_000_000).to_string(), "10 Mbit/s");
        assert_eq!(BitsPerSecond(16_000_000).to_string(), "16 Mbit/s");
        assert_eq!(Nanoseconds(86_400_000_000_000).to_string(), "1 days");
        assert_eq!(Nanoseconds(120_000_000_000).to_string(), "2 min");
        assert_eq!(MilliCores(1500).to_string(), "1.5 cores");
        assert_eq!(MilliCores(1000).to_string(), "1 core");
        assert_eq!(MilliCores(0).to_string(), "0 cores");
        assert_eq!(MilliPercent(80_000).to_string(), "80 %");
        assert_eq!(MilliPercent(12_500).to_string(), "12.5 %");
        assert_eq!(MilliPercent(1).to_string(), "0.001 %");
    }
}
