//! Every key of the policy language, declared once.
//!
//! The reader checks files against these tables, "did you mean" looks here, and the tables in
//! `docs/policy.md` are printed from here (a test compares them).

use std::fmt::Write as _;

use super::units::{Bytes, MilliCores, Nanoseconds, SIZE, TIME};
use crate::ids::{FIRST_SLICE_ROW, MAX_ROWS};

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
    /// The name of a slice.
    Name,
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
    /// A knob of a later build: refused by name, because what is not enforced is not promised.
    Later {
        /// What enforcement needs.
        needs: &'static str,
        /// What holds without it.
        without: &'static str,
    },
}

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

const fn later(name: &'static str, needs: &'static str, without: &'static str) -> Key {
    Key {
        name,
        takes: Takes::Later { needs, without },
        absent: "",
        example: "",
        says: "",
    }
}

/// Most slices that the per-slice maps have rows for.
pub const MAX_SLICES: u32 = MAX_ROWS - FIRST_SLICE_ROW;
/// The kernel's own bound of process ids (`PID_MAX_LIMIT` of 64-bit kernels).
const PID_MAX: u32 = 4 << 20;
/// User ids above are negative in old interfaces, and systemd keeps them.
const UID_MAX: u32 = i32::MAX as u32;
/// First user id of the stretch that systemd's table of user ids calls unused (to 2^31 - 1).
const UID_UNUSED: u32 = 1_879_048_192;
/// Account databases and packages hand out ids below.
const UID_LOWEST: u32 = 65_536;
const SECOND: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;
/// The kernel takes no CPU bandwidth quota below 1 ms; our period is 100 ms.
const CPU_LOWEST_CAP: u64 = 10;
/// More cores than any kernel has (`NR_CPUS` is 8192 at most).
const CPU_MOST: u64 = 8192 * 1000;

/// `node.toml`.
pub static NODE_FILE: TableDef = TableDef {
    path: "",
    keys: &[
        key("node", Takes::Table(&NODE), "", "", "The node as a whole."),
        key(
            "refuse",
            Takes::Tables(&REFUSE),
            "nothing is refused",
            "",
            "Destinations refused to all slices.",
        ),
        later(
            "link",
            "the link scheduler",
            "slices share every link unshaped",
        ),
        later(
            "login",
            "logins into slices",
            "processes enter a slice through `slice run`",
        ),
        later(
            "image",
            "contexts",
            "processes of slices see the node's files",
        ),
        later(
            "status",
            "the status hooks",
            "`slice status` shows the same to the node's owner",
        ),
        later("audit", "the flow audit", "`slice events` shows denials"),
    ],
};

/// `[node]`.
static NODE: TableDef = TableDef {
    path: "node",
    keys: &[
        key(
            "max_slices",
            Takes::Count {
                low: 1,
                high: MAX_SLICES,
                default: 1024,
            },
            "",
            "1024",
            "Most slices the node can hold. It sizes the tables in the kernel, so a change needs `slice down` and `slice up`.",
        ),
        key(
            "uid_base",
            Takes::Count {
                low: UID_LOWEST,
                high: UID_MAX,
                default: UID_UNUSED,
            },
            "",
            "1879048192",
            "First user id that belongs to slices. The default begins the stretch that systemd leaves unused.",
        ),
        key(
            "uids_per_slice",
            Takes::Count {
                low: 1,
                high: 1 << 24,
                default: 65_536,
            },
            "",
            "65536",
            "How many consecutive user ids each slice gets.",
        ),
        key(
            "linger",
            Takes::Time {
                low: 0,
                high: 3600 * SECOND,
                default: 120 * SECOND,
            },
            "",
            "\"120 s\"",
            "How long a port stays its owner's after its last socket is gone while TCP may still answer for it (TIME_WAIT, orphans).",
        ),
        key(
            "events_per_second",
            Takes::Count {
                low: 0,
                high: 100_000,
                default: 100,
            },
            "",
            "100",
            "Most events per second that processes outside the slices may cause; the rest is counted only.",
        ),
        key(
            "reserved",
            Takes::Table(&RESERVED),
            "",
            "",
            "Ports the node keeps.",
        ),
        key(
            "addresses",
            Takes::Table(&ADDRESSES),
            "",
            "",
            "Addresses of the node.",
        ),
        key(
            "give",
            Takes::Table(&GIVE),
            "",
            "",
            "What all slices together may have.",
        ),
    ],
};

/// `[node.reserved]`.
static RESERVED: TableDef = TableDef {
    path: "node.reserved",
    keys: &[
        key(
            "tcp",
            Takes::Ports,
            "none",
            "[22, \"9000-9010\"]",
            "TCP ports of the shared addresses that only the node binds; a slice gets EACCES.",
        ),
        key("udp", Takes::Ports, "none", "[123]", "The same for UDP."),
    ],
};

/// `[node.addresses]`.
static ADDRESSES: TableDef = TableDef {
    path: "node.addresses",
    keys: &[key(
        "exclude",
        Takes::Prefixes { required: false },
        "every address of the node is shared",
        "[\"10.0.0.0/8\", \"fd00::/8\"]",
        "Addresses of the node in these prefixes are not shared with slices; one of them may still be a slice's own.",
    )],
};

/// `[node.give]`.
static GIVE: TableDef = TableDef {
    path: "node.give",
    keys: &[
        key(
            "cpu",
            Takes::Cpu {
                low: CPU_LOWEST_CAP,
                high: CPU_MOST,
                default: None,
            },
            "all of the node's",
            "\"3.5\"",
            "CPU time: no more in total, and the sum of the floors must fit.",
        ),
        key(
            "memory",
            Takes::SizeOrPart { low: MIB },
            "80 % of the node's",
            "\"80 %\"",
            "Memory: no more in total, and the sum of the floors must fit.",
        ),
        key(
            "processes",
            Takes::Count {
                low: 1,
                high: PID_MAX,
                default: 0,
            },
            "half of what the kernel has ids for",
            "20000",
            "Processes and threads in total.",
        ),
        later("disk", "project quotas", "the disk is not divided"),
    ],
};

/// `[[refuse]]` in both kinds of file.
static REFUSE: TableDef = TableDef {
    path: "refuse",
    keys: &[
        key(
            "to",
            Takes::Prefixes { required: true },
            "must be there",
            "[\"10.0.0.0/8\"]",
            "The destinations.",
        ),
        key(
            "except",
            Takes::Prefixes { required: false },
            "no exception",
            "[\"10.1.0.0/16\"]",
            "Parts of them that this rule leaves alone; each lies in one of `to`.",
        ),
        key(
            "protocol",
            Takes::Word {
                words: &["any", "tcp", "udp"],
                later: &[],
            },
            "",
            "\"tcp\"",
            "Which protocol. With `ports`, `any` means TCP and UDP.",
        ),
        key(
            "ports",
            Takes::Ports,
            "all",
            "[25, 465, 587]",
            "Ports of the destination.",
        ),
    ],
};

/// `slices/NAME.toml`.
pub static SLICE_FILE: TableDef = TableDef {
    path: "",
    keys: &[
        key(
            "name",
            Takes::Name,
            "the file's name",
            "\"alpha\"",
            "The slice's name. Where it is written it must be the file's name without `.toml`.",
        ),
        key(
            "description",
            Takes::Text { longest: 200 },
            "none",
            "\"Measures paths\"",
            "A line for people.",
        ),
        key(
            "role",
            Takes::Word {
                words: &["slice"],
                later: &[("management", "the status hooks")],
            },
            "",
            "\"slice\"",
            "What the slice is for.",
        ),
        key(
            "sockets",
            Takes::Count {
                low: 1,
                high: 16 << 20,
                default: 65_536,
            },
            "",
            "4096",
            "Most sockets open at once; the next `socket()` gets ENOBUFS.",
        ),
        key(
            "events_per_second",
            Takes::Count {
                low: 0,
                high: 100_000,
                default: 100,
            },
            "",
            "20",
            "Most events per second that the slice may cause; the rest is counted only.",
        ),
        key(
            "processes",
            Takes::Count {
                low: 1,
                high: PID_MAX,
                default: 4096,
            },
            "",
            "512",
            "Most processes and threads at once; the next `fork()` gets EAGAIN.",
        ),
        key(
            "ports",
            Takes::Table(&PORTS),
            "",
            "",
            "Ports on the shared addresses.",
        ),
        key(
            "address",
            Takes::Table(&ADDRESS),
            "",
            "",
            "Addresses of its own.",
        ),
        key("cpu", Takes::Table(&CPU_KEYS), "", "", "CPU."),
        key("memory", Takes::Table(&MEMORY), "", "", "Memory."),
        key(
            "refuse",
            Takes::Tables(&REFUSE),
            "nothing more is refused",
            "",
            "Destinations refused to this slice, beside those refused to all.",
        ),
        later(
            "link",
            "the link scheduler",
            "the slice shares every link unshaped",
        ),
        later(
            "raw",
            "safe raw sockets",
            "the slice has no raw or packet sockets",
        ),
        later(
            "disk",
            "project quotas",
            "the slice's files are bounded by the file system alone",
        ),
        later("io", "the block I/O controller", "block I/O is not divided"),
        later(
            "context",
            "contexts",
            "the slice's processes see the node's files and processes",
        ),
        later("nested", "contexts", "namespaces are the node's affair"),
        later(
            "login",
            "logins into slices",
            "processes enter the slice through `slice run`",
        ),
        later(
            "grants",
            "the status hooks",
            "the slice cannot read the node's status",
        ),
        later(
            "connections_per_second",
            "the connection rate limit",
            "new connections are bounded by `sockets` alone",
        ),
    ],
};

/// `[ports]`.
static PORTS: TableDef = TableDef {
    path: "ports",
    keys: &[
        key(
            "tcp",
            Takes::Ports,
            "none",
            "[80, \"8000-8010\"]",
            "TCP ports reserved for the slice: it alone binds them, also below 1024 and without privilege. 61000-65499 are not reservable.",
        ),
        key("udp", Takes::Ports, "none", "[53]", "The same for UDP."),
        key(
            "claim",
            Takes::Flag { default: true },
            "",
            "false",
            "Whether the slice may bind free ports from 1024 up that nobody reserved; without, it gets EACCES.",
        ),
        key(
            "claims",
            Takes::Count {
                low: 1,
                high: 65_535 * 2,
                default: 4096,
            },
            "",
            "100",
            "Most ports claimed at once.",
        ),
    ],
};

/// `[address]`.
static ADDRESS: TableDef = TableDef {
    path: "address",
    keys: &[
        key(
            "ipv4",
            Takes::Ipv4,
            "the shared addresses",
            "\"203.0.113.9\"",
            "An IPv4 address that is this slice's alone: every port there is the slice's, and it uses no other IPv4 address.",
        ),
        key(
            "ipv6",
            Takes::Ipv6,
            "the shared addresses",
            "\"2001:db8::9\"",
            "The same for IPv6.",
        ),
    ],
};

/// `[cpu]`.
static CPU_KEYS: TableDef = TableDef {
    path: "cpu",
    keys: &[
        key(
            "floor",
            Takes::Cpu {
                low: 0,
                high: CPU_MOST,
                default: Some(0),
            },
            "",
            "\"0.5\"",
            "CPU time the slice gets whenever it wants it, whatever other slices do.",
        ),
        key(
            "share",
            Takes::Count {
                low: 1,
                high: 1000,
                default: 1,
            },
            "",
            "3",
            "Weight by which CPU time beyond the floors is split.",
        ),
        key(
            "cap",
            Takes::Cpu {
                low: CPU_LOWEST_CAP,
                high: CPU_MOST,
                default: None,
            },
            "what the node gives",
            "\"150 %\"",
            "Never more than this.",
        ),
    ],
};

/// `[memory]`.
static MEMORY: TableDef = TableDef {
    path: "memory",
    keys: &[
        key(
            "floor",
            Takes::Size {
                low: 0,
                default: Some(0),
            },
            "",
            "\"128 MiB\"",
            "Memory that is not reclaimed from the slice for the sake of others.",
        ),
        key(
            "cap",
            Takes::Size {
                low: MIB,
                default: None,
            },
            "what the node gives",
            "\"512 MiB\"",
            "Never more than this; beyond it the kernel kills a process of this slice.",
        ),
    ],
};

/// The whole language as markdown, by the heading it stands under in `docs/policy.md`.
#[must_use]
pub fn reference() -> [(&'static str, String); 4] {
    [
        ("node", NODE_FILE.markdown()),
        ("slice", SLICE_FILE.markdown()),
        ("node-later", NODE_FILE.markdown_later()),
        ("slice-later", SLICE_FILE.markdown_later()),
    ]
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

    /// Where a key of the table stands.
    #[must_use]
    pub fn place(&self) -> String {
        let preposition = if self.path.is_empty() { "at" } else { "in" };
        format!("{preposition} {}", self.title())
    }

    /// Every table of the file, this one first.
    #[must_use]
    pub fn tables(&'static self) -> Vec<&'static Self> {
        let mut tables = vec![self];
        for key in self.keys {
            if let Takes::Table(table) | Takes::Tables(table) = &key.takes {
                tables.extend(table.tables());
            }
        }
        tables
    }

    /// The tables of the file as markdown, for `docs/policy.md`.
    #[must_use]
    pub fn markdown(&'static self) -> String {
        let mut text = String::new();
        for table in self.tables() {
            let rows: Vec<&Key> = table
                .keys
                .iter()
                .filter(|key| key.takes.is_value())
                .collect();
            if rows.is_empty() {
                continue;
            }
            // Writing to a String does not fail.
            let _ = writeln!(text, "#### {}\n", capital(&table.title()));
            let _ = writeln!(
                text,
                "| key | takes | default | example | meaning |\n|---|---|---|---|---|"
            );
            for key in rows {
                let _ = writeln!(
                    text,
                    "| `{}` | {} | {} | `{}` | {} |",
                    key.name,
                    key.takes.describe(),
                    key.default(),
                    key.example,
                    key.says,
                );
            }
            text.push('\n');
        }
        text
    }

    /// The knobs of later builds as markdown, for `docs/policy.md`.
    #[must_use]
    pub fn markdown_later(&'static self) -> String {
        let mut text = String::from("| key | needs | until then |\n|---|---|---|\n");
        for table in self.tables() {
            for key in table.keys {
                if let Takes::Later { needs, without } = &key.takes {
                    let dot = if table.path.is_empty() { "" } else { "." };
                    let _ = writeln!(
                        text,
                        "| `{}{dot}{}` | {needs} | {without} |",
                        table.path, key.name
                    );
                }
            }
        }
        text
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
        !matches!(self, Self::Table(_) | Self::Tables(_) | Self::Later { .. })
    }

    /// What may stand there, with unit and range.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Count { low, high, .. } => format!("a whole number from {low} to {high}"),
            Self::Size { low: 0, .. } => String::from("a size"),
            Self::Size { low, .. } => format!("a size from {}", SIZE.print(*low)),
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
            Self::Name => String::from("the name of a slice"),
            Self::Ports => String::from("a list of ports and ranges"),
            Self::Prefixes { .. } => String::from("a list of addresses and prefixes"),
            Self::Ipv4 => String::from("an IPv4 address"),
            Self::Ipv6 => String::from("an IPv6 address"),
            Self::Table(table) => format!("the table [{}]", table.path),
            Self::Tables(table) => format!("tables [[{}]]", table.path),
            Self::Later { needs, .. } => format!("needs {needs}"),
        }
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
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
