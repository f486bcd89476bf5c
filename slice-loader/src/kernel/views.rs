//! The views: files of bpffs that read like files of /proc/net and show the
//! reader's own sockets; to the node all.
//!
//! A slice may not open the files of the kernel's that list everybody's
//! sockets, whatever its /proc is mounted on; where a context has a root of its
//! own, it mounts each of these in the place of its namesake, from the
//! directory [`Store::views`](super::store::Store::views), which anybody may
//! read.
//!
//! Iterators of Linux 6.1 and 6.12 go on with the next bucket of their table
//! when a reader comes again for the rest: of many unix sockets, some are left
//! out of what is read in small pieces. They are left out, never shown to
//! another.

/// A file of /proc/net and the program whose pinned link stands in for it; the
/// pin has the program's name.
pub const FILES: &[(&str, &str)] = &[
    ("tcp", "view_tcp"),
    ("tcp6", "view_tcp6"),
    ("udp", "view_udp"),
    ("udp6", "view_udp6"),
    ("unix", "view_unix"),
];

/// Files of /proc/net that programs look for and a slice has no sockets for: a
/// context puts an empty file in their place.
pub const EMPTY: &[&str] = &[
    "icmp", "icmp6", "netlink", "packet", "ptype", "raw", "raw6", "udplite", "udplite6",
];
