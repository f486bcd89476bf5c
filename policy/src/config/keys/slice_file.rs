//! The keys of `slices/NAME.toml`.

use super::node_file::{
    CPU_LOWEST_CAP, CPU_MOST, MAX_SLICES, MIB, PID_MAX, RATE_LOWEST_CAP, RATE_MOST, REFUSE, SECOND,
};
use super::{TableDef, Takes, key};
use crate::config::capability;
use crate::config::link::SliceLinks;
use crate::decide::pace::{PACKETS_LEAST, SHARE_MAX};

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
                words: &["slice", "management"],
                later: &[],
            },
            "",
            "\"management\"",
            "What the slice is for: a tenant, or one that looks after the node, by `grants`.",
        ),
        key(
            "sockets",
            Takes::Count {
                low: 1,
                high: 16 << 20,
                default: 8_192,
            },
            "",
            "4096",
            "Most sockets open at once; the next `socket()` gets ENOBUFS.",
        ),
        key(
            "connections",
            Takes::Count {
                low: 0,
                high: 16 << 20,
                default: 0,
            },
            "as many as `sockets`",
            "500",
            "Most TCP connections to outside the slice at once, of those that the slice starts; the next `connect()` gets EADDRNOTAVAIL.",
        ),
        key(
            "connections_per_second",
            Takes::Count {
                low: 1,
                high: 1_000_000,
                default: 10_000,
            },
            "",
            "50",
            "Most TCP connections to outside the slice that it starts in a second, on average; after a pause as many at once. Beyond, `connect()` gets EADDRNOTAVAIL.",
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
        key("disk", Takes::Table(&DISK), "", "", "Disk."),
        key(
            "io",
            Takes::Table(&IO),
            "",
            "",
            "Reading and writing of the disk.",
        ),
        key(
            "refuse",
            Takes::Tables(&REFUSE),
            "nothing more is refused",
            "",
            "Destinations refused to this slice, beside those refused to all.",
        ),
        key(
            "link",
            Takes::Table(&LINK),
            "",
            "",
            "Its part of every link of the node.",
        ),
        key(
            "links",
            Takes::Devices {
                one: &LINKS,
                every: Some(&LINK),
            },
            "as in [link]",
            "",
            "Its part of one link.",
        ),
        key(
            "raw",
            Takes::Word {
                words: &["none", "safe"],
                later: &[],
            },
            "",
            "\"safe\"",
            "Whether the slice has raw and packet sockets, which send and see its own packets only: for ping, traceroute and tcpdump. The slice has a context.",
        ),
        key(
            "context",
            Takes::Table(&CONTEXT),
            "commands run with the node's files",
            "",
            "Root, processes and credentials of its own.",
        ),
        key(
            "login",
            Takes::Table(&LOGIN),
            "nobody logs in",
            "",
            "Who logs in by ssh, as the slice's name. The slice has a context.",
        ),
        key(
            "grants",
            Takes::Words {
                words: &["audit", "control", "status"],
                later: &[],
            },
            "none",
            "[\"audit\"]",
            "What a management slice may see of the node, and do. `audit`: every packet of every slice, with whose it is (raw.md), and who sent what to whom, of all (flows.md); `control`: make slices out of what [control] lends (control.md); `status`: rows, ports, links, drops, events and policy of all owners (status.md). The slice has a context.",
        ),
        key(
            "control",
            Takes::Table(&CONTROL),
            "it makes no slices",
            "",
            "What a management slice with the grant `control` may lend to slices that it makes. All of it is set aside for them, lent or not.",
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
            "raw_tcp",
            Takes::Ports,
            "none",
            "[7000]",
            "TCP ports reserved for the slice on which its programs speak TCP themselves, through raw sockets: the kernel does not answer there. Needs `raw = \"safe\"`.",
        ),
        key(
            "raw_udp",
            Takes::Ports,
            "none",
            "[7000]",
            "The same for UDP.",
        ),
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

/// `[disk]`.
static DISK: TableDef = TableDef {
    path: "disk",
    keys: &[
        key(
            "cap",
            Takes::Size {
                low: MIB,
                default: None,
            },
            "what the file system has",
            "\"10 GiB\"",
            "Never more than this in the slice's files; beyond it the slice gets EDQUOT. Kept for the slice: the caps of all must fit the disk.",
        ),
        key(
            "inodes",
            Takes::Count {
                low: 16,
                high: u32::MAX,
                default: 0,
            },
            "one for each 16 KiB of `cap`",
            "100000",
            "Never more files, directories and links than this.",
        ),
    ],
};

/// Fewer bytes in a second than this hold up a single large request for minutes.
const THROUGHPUT_LOWEST: u64 = 64 << 10;
/// The same for operations.
const OPERATIONS_LOWEST: u32 = 10;

/// `[io]`.
static IO: TableDef = TableDef {
    path: "io",
    keys: &[
        key(
            "weight",
            Takes::Count {
                low: 1,
                high: 10_000,
                default: 100,
            },
            "",
            "300",
            "Weight by which the disk is divided when slices wait for it, where the kernel divides it: see limits.md.",
        ),
        key(
            "read",
            Takes::Throughput {
                low: THROUGHPUT_LOWEST,
            },
            "no bound",
            "\"20 MB/s\"",
            "Never more read from the disk than this.",
        ),
        key(
            "write",
            Takes::Throughput {
                low: THROUGHPUT_LOWEST,
            },
            "no bound",
            "\"10 MiB/s\"",
            "Never more written to the disk than this.",
        ),
        key(
            "read_operations",
            Takes::Count {
                low: OPERATIONS_LOWEST,
                high: u32::MAX,
                default: 0,
            },
            "no bound",
            "500",
            "Never more reads of the disk in a second than this.",
        ),
        key(
            "write_operations",
            Takes::Count {
                low: OPERATIONS_LOWEST,
                high: u32::MAX,
                default: 0,
            },
            "no bound",
            "200",
            "The same for writes.",
        ),
    ],
};

/// Less than that is sent before a division can notice it.
const QUOTA_LOWEST: u64 = 1_000_000;
/// So that the largest packet is never paid for longer than [`crate::decide::police`] lets
/// it be.
pub(in crate::config) const RECEIVE_LOWEST: u64 = 500_000;
const DAY: u64 = 86_400 * SECOND;

const LINK_FLOOR: Takes = Takes::Rate {
    low: 0,
    high: RATE_MOST,
    default: Some(0),
    required: false,
};
const LINK_SHARE: Takes = Takes::Count {
    low: 1,
    high: SHARE_MAX,
    default: SliceLinks::SHARE,
};
const LINK_CAP: Takes = Takes::Rate {
    low: RATE_LOWEST_CAP,
    high: RATE_MOST,
    default: None,
    required: false,
};
/// More than any device sends.
pub(in crate::config) const PACKETS_MOST: u32 = 100_000_000;
const LINK_PACKETS: Takes = Takes::Count {
    low: PACKETS_LEAST,
    high: PACKETS_MOST,
    default: 0,
};
const LINK_RECEIVE: Takes = Takes::Rate {
    low: RECEIVE_LOWEST,
    high: RATE_MOST,
    default: None,
    required: false,
};
const LINK_QUOTA: Takes = Takes::Size {
    low: QUOTA_LOWEST,
    default: None,
};
const LINK_QUOTA_PERIOD: Takes = Takes::Time {
    low: 60 * SECOND,
    high: 366 * DAY,
    default: SliceLinks::QUOTA_PERIOD.0,
};

/// `[link]`.
static LINK: TableDef = TableDef {
    path: "link",
    keys: &[
        key(
            "floor",
            LINK_FLOOR,
            "",
            "\"2 Mbit/s\"",
            "Rate at which the slice sends whenever it wants to, whatever other slices do.",
        ),
        key(
            "share",
            LINK_SHARE,
            "",
            "3",
            "Weight by which what the floors leave of the link is split.",
        ),
        key(
            "cap",
            LINK_CAP,
            "the rate of the link",
            "\"5 Mbit/s\"",
            "Never more than this.",
        ),
        key(
            "packets",
            LINK_PACKETS,
            "no bound",
            "5000",
            "Never more packets in a second than this, however small they are; those to exempt networks do not count.",
        ),
        key(
            "quota",
            LINK_QUOTA,
            "no bound",
            "\"100 GB\"",
            "What the slice may send in a period: from nine tenths of it on, no faster than lets the rest last to the end, or than its floor.",
        ),
        key(
            "quota_period",
            LINK_QUOTA_PERIOD,
            "",
            "\"30 days\"",
            "How long a quota lasts. The first period begins when the slice has a quota for the first time.",
        ),
        key(
            "exempt_cap",
            LINK_CAP,
            "the rate of the link",
            "\"50 Mbit/s\"",
            "Never more than this to the networks that are `exempt` on the link.",
        ),
        key(
            "receive",
            LINK_RECEIVE,
            "no bound",
            "\"20 Mbit/s\"",
            "Of what arrives for the slice by the link no more than this reaches its sockets; the rest is dropped.",
        ),
    ],
};

/// `[links.NAME]`.
static LINKS: TableDef = TableDef {
    path: "links.NAME",
    keys: &[
        key(
            "floor",
            LINK_FLOOR,
            "as in [link]",
            "\"10 Mbit/s\"",
            "The same for the link of this name.",
        ),
        key("share", LINK_SHARE, "as in [link]", "1", "The same."),
        key(
            "cap",
            LINK_CAP,
            "as in [link]",
            "\"20 Mbit/s\"",
            "The same.",
        ),
        key(
            "packets",
            LINK_PACKETS,
            "as in [link]",
            "20000",
            "The same.",
        ),
        key(
            "quota",
            LINK_QUOTA,
            "as in [link]",
            "\"100 GB\"",
            "The same.",
        ),
        key(
            "quota_period",
            LINK_QUOTA_PERIOD,
            "as in [link]",
            "\"7 days\"",
            "The same.",
        ),
        key(
            "exempt_cap",
            LINK_CAP,
            "as in [link]",
            "\"80 Mbit/s\"",
            "The same.",
        ),
        key(
            "receive",
            LINK_RECEIVE,
            "as in [link]",
            "\"50 Mbit/s\"",
            "The same.",
        ),
    ],
};

/// `[context]`.
static CONTEXT: TableDef = TableDef {
    path: "context",
    keys: &[
        key(
            "image",
            Takes::Name,
            "must be there",
            "\"debian\"",
            "The image that the slice's root starts from (`slice image list`). What the slice changes lies in a layer of its own.",
        ),
        key(
            "hostname",
            Takes::Name,
            "the slice's name",
            "\"alpha\"",
            "The host name inside.",
        ),
        key(
            "autostart",
            Takes::Flag { default: true },
            "",
            "false",
            "Whether `slice up` (and `slice reload`, where the slice is new) starts it.",
        ),
        key(
            "nested",
            Takes::Flag { default: false },
            "",
            "true",
            "Whether the slice may make namespaces of its own (containers). They open more of the kernel to it: its own network namespace the packet filters and routing, its own user namespace mounts.",
        ),
        key(
            "stop_after",
            Takes::Time {
                low: 0,
                high: 600 * SECOND,
                default: 10 * SECOND,
            },
            "",
            "\"10 s\"",
            "How long `slice stop` lets the slice's processes end by themselves before they are killed.",
        ),
        key(
            "capabilities",
            Takes::Words {
                words: capability::ALL,
                later: &[],
            },
            "all but ipc_lock, linux_immutable, net_broadcast and sys_admin",
            "[\"chown\", \"setuid\", \"setgid\"]",
            "What root of the slice may do, inside the slice. None of it reaches the node.",
        ),
    ],
};

/// `[login]`.
static LOGIN: TableDef = TableDef {
    path: "login",
    keys: &[
        key(
            "keys",
            Takes::PublicKeys,
            "none",
            "[\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBzqWUlYvfNjmQfQBJz3yBqc0dXZNoTZZHd2CTr1VN0L alice@lab\"]",
            "Public keys that log in, as `ssh-keygen` writes them: type, key, comment.",
        ),
        key(
            "authorities",
            Takes::PublicKeys,
            "none",
            "[\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBzqWUlYvfNjmQfQBJz3yBqc0dXZNoTZZHd2CTr1VN0L ca@lab\"]",
            "Certificate authorities: whoever has a certificate of theirs for the slice's name logs in.",
        ),
    ],
};

/// `[control]`.
static CONTROL: TableDef = TableDef {
    path: "control",
    keys: &[
        key(
            "slices",
            Takes::Count {
                low: 1,
                high: MAX_SLICES,
                default: 1,
            },
            "",
            "20",
            "Most slices that it makes, at once. They count against `max_slices` of the node, made or not.",
        ),
        key(
            "prefix",
            Takes::Name,
            "must be there",
            "\"exp_\"",
            "How the names of these slices begin.",
        ),
        key(
            "images",
            Takes::Names,
            "the slice's own image",
            "[\"debian\"]",
            "Images that they may begin with.",
        ),
        key(
            "tcp",
            Takes::Ports,
            "none",
            "[\"20000-20999\"]",
            "TCP ports to lend. Those that are not lent are reserved for this slice.",
        ),
        key(
            "udp",
            Takes::Ports,
            "none",
            "[\"20000-20999\"]",
            "The same for UDP.",
        ),
        key(
            "cpu",
            Takes::Cpu {
                low: 0,
                high: CPU_MOST,
                default: Some(0),
            },
            "",
            "2",
            "Floors of CPU time to lend, in sum.",
        ),
        key(
            "cpu_cap",
            Takes::Cpu {
                low: CPU_LOWEST_CAP,
                high: CPU_MOST,
                default: None,
            },
            "what the node gives",
            "4",
            "Caps of CPU time, in sum: with it each slice has a cap.",
        ),
        key(
            "memory",
            Takes::Size {
                low: 0,
                default: Some(0),
            },
            "",
            "\"1 GiB\"",
            "Floors of memory to lend, in sum.",
        ),
        key(
            "memory_cap",
            Takes::Size {
                low: MIB,
                default: None,
            },
            "what the node gives",
            "\"4 GiB\"",
            "Caps of memory, in sum: with it each slice has a cap.",
        ),
        key(
            "disk",
            Takes::Size {
                low: MIB,
                default: None,
            },
            "no caps are lent",
            "\"20 GiB\"",
            "Caps of the disk to lend, in sum: with it each slice has a cap.",
        ),
        key(
            "link",
            Takes::Rate {
                low: 0,
                high: RATE_MOST,
                default: Some(0),
                required: false,
            },
            "",
            "\"10 Mbit/s\"",
            "Floors on every link to lend, in sum.",
        ),
        key(
            "link_cap",
            LINK_CAP,
            "the rate of the link",
            "\"50 Mbit/s\"",
            "Caps on every link, in sum: with it each slice has a cap.",
        ),
        key(
            "link_packets",
            LINK_PACKETS,
            "no bound",
            "20000",
            "Most packets in a second on every link, in sum: with it each slice has a bound.",
        ),
        key(
            "link_receive",
            LINK_RECEIVE,
            "no bound",
            "\"100 Mbit/s\"",
            "What arrives for them by every link, in sum: with it each slice has a bound.",
        ),
    ],
};
