//! The keys of `node.toml`.

use super::{TableDef, Takes, key};
use crate::decide::pace::{RATE_MAX, SHARE_MAX};
use crate::ids::{FIRST_SLICE_ROW, MAX_ROWS};

/// Most slices that the per-slice maps have rows for.
pub const MAX_SLICES: u32 = MAX_ROWS - FIRST_SLICE_ROW;
/// The kernel's own bound of process ids (`PID_MAX_LIMIT` of 64-bit kernels).
pub(super) const PID_MAX: u32 = 4 << 20;
/// User ids above are negative in old interfaces, and systemd keeps them.
const UID_MAX: u32 = i32::MAX as u32;
/// First user id of the stretch that systemd's table of user ids calls unused (to 2^31 - 1).
const UID_UNUSED: u32 = 1_879_048_192;
/// Account databases and packages hand out ids below.
const UID_LOWEST: u32 = 65_536;
pub(super) const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;
pub(in crate::config) const MIB: u64 = 1 << 20;
/// The kernel takes no CPU bandwidth quota below 1 ms; our period is 100 ms.
pub(in crate::config) const CPU_LOWEST_CAP: u64 = 10;
/// More cores than any kernel has (`NR_CPUS` is 8192 at most).
pub(in crate::config) const CPU_MOST: u64 = 8192 * 1000;

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
        key(
            "links",
            Takes::Devices {
                one: &LINK,
                every: None,
            },
            "nothing is shaped",
            "",
            "Links: devices whose rate is divided.",
        ),
        key(
            "flows",
            Takes::Table(&FLOWS),
            "",
            "",
            "What is kept of who sent what to whom.",
        ),
        key("status", Takes::Table(&STATUS), "", "", "Status hooks."),
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
        key(
            "disk",
            Takes::SizeOrPart { low: MIB },
            "all of the file system's",
            "\"500 GiB\"",
            "Disk: the sum of the caps must fit. Where it is written, every slice must have a cap.",
        ),
        key(
            "disk_overcommit",
            Takes::Flag { default: false },
            "",
            "true",
            "Whether the caps of slices on the disk may be more together than there is.",
        ),
    ],
};

/// `[flows]`.
static FLOWS: TableDef = TableDef {
    path: "flows",
    keys: &[
        key(
            "keep",
            Takes::Time {
                low: 0,
                high: 3660 * DAY,
                default: 14 * DAY,
            },
            "",
            "\"30 days\"",
            "For how long, to the hour. `\"0 s\"`: flows are not looked at.",
        ),
        key(
            "cap",
            Takes::Size {
                low: MIB,
                default: Some(256 * MIB),
            },
            "",
            "\"1 GiB\"",
            "Size of the database; its log lies beside it. Where it is reached, the oldest rows of whoever has most are added up.",
        ),
    ],
};

/// `[status]`.
static STATUS: TableDef = TableDef {
    path: "status",
    keys: &[key(
        "page",
        Takes::Count {
            low: 1024,
            high: 65_535,
            default: 0,
        },
        "no page",
        "8090",
        "TCP port of the node's own localhost on which the daemon shows the [status page](page.md), of all slices, to every user of the node. The node keeps it.",
    )],
};

/// At less, a packet takes longer than rates are divided anew for.
const LINK_LOWEST: u64 = 100_000;
/// The largest rate that is computed with, in bits per second.
pub(in crate::config) const RATE_MOST: u64 = RATE_MAX * 8;
/// At less, a packet takes longer than anything may wait.
pub(in crate::config) const RATE_LOWEST_CAP: u64 = 10_000;

/// `[links.NAME]`.
static LINK: TableDef = TableDef {
    path: "links.NAME",
    keys: &[
        key(
            "rate",
            Takes::Rate {
                low: LINK_LOWEST,
                high: RATE_MOST,
                default: None,
                required: true,
            },
            "must be there",
            "\"100 Mbit/s\"",
            "What leaves by the device together. A little less than what the way behind it carries, so that packets wait here and not there.",
        ),
        key(
            "node_share",
            Takes::Count {
                low: 1,
                high: SHARE_MAX,
                default: 5,
            },
            "",
            "5",
            "Weight of the node's own traffic, beside those of the slices.",
        ),
        key(
            "node_floor",
            Takes::Rate {
                low: 0,
                high: RATE_MOST,
                default: Some(0),
                required: false,
            },
            "",
            "\"1 Mbit/s\"",
            "Rate that the node's own traffic gets whenever it wants it.",
        ),
        key(
            "node_cap",
            Takes::Rate {
                low: RATE_LOWEST_CAP,
                high: RATE_MOST,
                default: None,
                required: false,
            },
            "the rate of the link",
            "\"50 Mbit/s\"",
            "Never more of the node's own than this.",
        ),
        key(
            "exempt",
            Takes::Prefixes { required: false },
            "none",
            "[\"198.51.100.0/24\", \"2001:db8:5::/48\"]",
            "Networks that do not count: what slices send there by this link is bound by none of their caps and quotas, and counted apart.",
        ),
    ],
};

/// `[[refuse]]` in both kinds of file.
pub(super) static REFUSE: TableDef = TableDef {
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
