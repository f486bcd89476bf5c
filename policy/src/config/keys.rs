//! Every key of the policy language, declared once.
//!
//! The reader checks files against these tables, "did you mean" looks here, and the tables in
//! `docs/policy.md` are printed from here (a test compares them).

use super::units::{BitsPerSecond, Bytes, MilliCores, Nanoseconds, RATE, SIZE, THROUGHPUT, TIME};

mod node_file;
mod reference;
mod slice_file;

pub(super) use node_file::{CPU_LOWEST_CAP, CPU_MOST, MIB, RATE_LOWEST_CAP, RATE_MOST};
pub use node_file::{MAX_SLICES, NODE_FILE};
pub use reference::reference;
pub use slice_file::SLICE_FILE;
pub(super) use slice_file::{PACKETS_MOST, RECEIVE_LOWEST};

/// A table of a file, with its keys.
#[derive(Debug)]
pub struct TableDef {
    /// The name as it stands between the brackets; empty for the top of a file.
    pub path: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub name: &'static str,
    /// What may stand after the `=`.
    pub takes: Takes,
    /// What is the case without it, where [`Takes`] has no default.
    pub absent: &'static str,
    /// An example of a value, as TOML.
    pub example: &'static str,
    /// What it does.
    pub says: &'static str,
}

/// What a key takes, its range and its default.
#[derive(Debug)]
pub enum Takes {
    /// A whole number.
    Count { low: u32, high: u32, default: u32 },
    /// A size, at least `low`.
    Size { low: u64, default: Option<u64> },
    /// Bytes in a second, at least `low`.
    Throughput { low: u64 },
    /// A rate in bits per second.
    Rate {
        low: u64,
        high: u64,
        default: Option<u64>,
        required: bool,
    },
    /// A size, or a percentage of the node's.
    SizeOrPart { low: u64 },
    /// A time.
    Time { low: u64, high: u64, default: u64 },
    /// CPU time in thousandths of a core.
    Cpu {
        low: u64,
        high: u64,
        default: Option<u64>,
    },
    /// `true` or `false`.
    Flag { default: bool },
    /// One line of text.
    Text { longest: usize },
    /// One of some words, the first by default; `later` are words of later builds with what they need.
    Word {
        words: &'static [&'static str],
        later: &'static [(&'static str, &'static str)],
    },
    /// A list of some of these words; `later` as above.
    Words {
        words: &'static [&'static str],
        later: &'static [(&'static str, &'static str)],
    },
    /// A list of public keys of OpenSSH.
    PublicKeys,
    /// The name of a slice, or one of the same form.
    Name,
    /// A list of such names.
    Names,
    /// A list of ports and ranges.
    Ports,
    /// A list of prefixes; one is enough where it must be there.
    Prefixes { required: bool },
    /// A unicast IPv4 address.
    Ipv4,
    /// A unicast IPv6 address.
    Ipv6,
    /// A table.
    Table(&'static TableDef),
    /// A list of tables.
    Tables(&'static TableDef),
    /// Tables by the names of devices; [`DEVICE`] stands for the name in the path.
    Devices {
        one: &'static TableDef,
        /// The table about all of them.
        every: Option<&'static TableDef>,
    },
}

/// Stands in the path of a table for the name of a device.
pub const DEVICE: &str = "NAME";

const fn key(
    name: &'static str,
    takes: Takes,
    absent: &'static str,
    example: &'static str,
    says: &'static str,
) -> Key {
    Key {
        name,
        takes,
        absent,
        example,
        says,
    }
}

/// A name as TOML has it in a header: what is more than letters, digits, `_` and `-` is quoted.
#[must_use]
pub fn quoted(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}

impl TableDef {
    /// The declaration of a key.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// How people call the table.
    #[must_use]
    pub fn title(&self) -> String {
        match self.path {
            "" => String::from("the top of the file"),
            "refuse" => String::from("[[refuse]]"),
            path => format!("[{path}]"),
        }
    }

    /// The same of the table about this device.
    #[must_use]
    pub fn title_of(&self, device: Option<&str>) -> String {
        let title = self.title();
        device.map_or_else(
            || title.clone(),
            |name| title.replace(DEVICE, &quoted(name)),
        )
    }

    /// Every table of the file, this one first.
    #[must_use]
    pub fn tables(&'static self) -> Vec<&'static Self> {
        let mut tables = vec![self];
        for key in self.keys {
            if let Some(table) = key.takes.table() {
                tables.extend(table.tables());
            }
        }
        tables
    }
}

impl Key {
    /// The default as people read it.
    #[must_use]
    pub fn default(&self) -> String {
        if !self.absent.is_empty() {
            return self.absent.to_owned();
        }
        match &self.takes {
            Takes::Count { default, .. } => format!("{default}"),
            Takes::Size {
                default: Some(bytes),
                ..
            } => format!("{}", Bytes(*bytes)),
            Takes::Rate {
                default: Some(bits),
                ..
            } => format!("{}", BitsPerSecond(*bits)),
            Takes::Time { default, .. } => format!("{}", Nanoseconds(*default)),
            Takes::Cpu {
                default: Some(milli),
                ..
            } => format!("{}", MilliCores(*milli)),
            Takes::Flag { default } => format!("{default}"),
            Takes::Word { words, .. } => format!("\"{}\"", words.first().unwrap_or(&"")),
            _ => String::from("none"),
        }
    }
}

impl Takes {
    /// Whether the key holds a value that can be written in this build.
    fn is_value(&self) -> bool {
        self.table().is_none()
    }

    /// The table, or each of the tables, that stands there.
    #[must_use]
    pub fn table(&self) -> Option<&'static TableDef> {
        match self {
            Self::Table(table) | Self::Tables(table) | Self::Devices { one: table, .. } => {
                Some(table)
            }
            _ => None,
        }
    }

    /// Whether the table is wrong without it.
    #[must_use]
    pub fn required(&self) -> bool {
        matches!(
            self,
            Self::Prefixes { required: true } | Self::Rate { required: true, .. }
        )
    }

    /// What may stand there, with unit and range.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Count { low, high, .. } => format!("a whole number from {low} to {high}"),
            Self::Size { low: 0, .. } => String::from("a size"),
            Self::Size { low, .. } => format!("a size from {}", SIZE.print(*low)),
            Self::Throughput { low } => {
                format!("bytes in a second, from {}", THROUGHPUT.print(*low))
            }
            Self::Rate { low: 0, high, .. } => format!("a rate up to {}", RATE.print(*high)),
            Self::Rate { low, high, .. } => {
                format!("a rate from {} to {}", RATE.print(*low), RATE.print(*high))
            }
            Self::SizeOrPart { low } => {
                format!(
                    "a size from {}, or a percentage up to 100 %",
                    SIZE.print(*low)
                )
            }
            Self::Time { low, high, .. } => {
                format!("a time from {} to {}", TIME.print(*low), TIME.print(*high))
            }
            Self::Cpu { low, high, .. } => format!(
                "CPU time from {} to {}",
                MilliCores(*low),
                MilliCores(*high)
            ),
            Self::Flag { .. } => String::from("`true` or `false`"),
            Self::Text { longest } => format!("one line of text, up to {longest} characters"),
            Self::Word { words, .. } => {
                let quoted: Vec<String> =
                    words.iter().map(|word| format!("`\"{word}\"`")).collect();
                quoted.join(", ")
            }
            Self::Words { words, .. } => {
                let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
                format!("a list of {}", quoted.join(", "))
            }
            Self::PublicKeys => String::from("a list of public keys"),
            Self::Name => String::from("a name of `a-z`, `0-9` and `_`"),
            Self::Names => String::from("a list of names of `a-z`, `0-9` and `_`"),
            Self::Ports => String::from("a list of ports and ranges"),
            Self::Prefixes { .. } => String::from("a list of addresses and prefixes"),
            Self::Ipv4 => String::from("an IPv4 address"),
            Self::Ipv6 => String::from("an IPv6 address"),
            Self::Table(table) => format!("the table [{}]", table.path),
            Self::Tables(table) => format!("tables [[{}]]", table.path),
            Self::Devices { one, .. } => format!("tables [{}]", one.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_declared_twice_in_a_table() {
        for file in [&NODE_FILE, &SLICE_FILE] {
            for table in file.tables() {
                for (index, key) in table.keys.iter().enumerate() {
                    let again = table.keys[index + 1..]
                        .iter()
                        .find(|other| other.name == key.name);
                    assert!(again.is_none(), "{} in {}", key.name, table.title());
                }
            }
        }
    }

    #[test]
    fn every_default_lies_in_its_range() {
        for file in [&NODE_FILE, &SLICE_FILE] {
            for key in file.tables().iter().flat_map(|table| table.keys) {
                match key.takes {
                    Takes::Count { low, high, default } if key.absent.is_empty() => {
                        assert!((low..=high).contains(&default), "{}", key.name);
                    }
                    Takes::Rate {
                        low,
                        high,
                        default: Some(default),
                        ..
                    } => {
                        assert!((low..=high).contains(&default), "{}", key.name);
                    }
                    Takes::Time { low, high, default } => assert!((low..=high).contains(&default)),
                    Takes::Cpu {
                        low,
                        high,
                        default: Some(default),
                    } => {
                        assert!((low..=high).contains(&default), "{}", key.name);
                    }
                    _ => {}
                }
            }
        }
    }
}
