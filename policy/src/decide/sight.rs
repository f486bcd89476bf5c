//! What does a slice see of the sockets of others, and which can it reach by
//! name?
//!
//! All slices share the node's network namespace, and with it /proc/net, the
//! socket diagnostics of netlink and the names of abstract unix sockets.

use crate::ids::SliceId;
use crate::verdict::{Reason, Verdict};

/// `NETLINK_SOCK_DIAG`: dumps every socket of the network namespace, and has
/// groups that tell of each one that closes.
pub const NETLINK_SOCK_DIAG: u16 = 4;
/// `SOL_NETLINK`.
pub const SOL_NETLINK: i32 = 270;
/// `NETLINK_ADD_MEMBERSHIP`.
pub const NETLINK_ADD_MEMBERSHIP: i32 = 1;

/// Bytes of a file's name in /proc/net that are looked at; none that is
/// allowed is longer.
pub const PROC_NAME: usize = 16;

/// A name in /proc/net, padded with zeros.
pub type ProcName = [u8; PROC_NAME];

/// The files of /proc/net that a slice may open: those of interfaces,
/// addresses, routes and neighbours, which it shares with the node and can ask
/// of netlink as well, and sums over all sockets. A list of what may be, as
/// any module of the kernel adds files that nobody here has thought of.
const OPEN: [&str; 24] = [
    "anycast6",
    "arp",
    "dev",
    "dev_mcast",
    "dev_snmp6", // a directory
    "fib_trie",
    "fib_triestat",
    "if_inet6",
    "igmp",
    "igmp6",
    "ipv6_route",
    "netstat",
    "pnp",
    "protocols",
    "psched",
    "route",
    "rt6_stats",
    "rt_cache",
    "snmp",
    "snmp6",
    "sockstat",
    "sockstat6",
    "softnet_stat",
    "stat", // a directory
];

/// [`OPEN`] as numbers, which are compared at once.
const OPEN_NUMBERS: [(u64, u64); OPEN.len()] = {
    let mut numbers = [(0, 0); OPEN.len()];
    let mut at = 0;
    while at < OPEN.len() {
        let bytes = OPEN[at].as_bytes();
        assert!(bytes.len() < PROC_NAME);
        let mut name = [0; PROC_NAME];
        let mut byte = 0;
        while byte < bytes.len() {
            name[byte] = bytes[byte];
            byte += 1;
        }
        numbers[at] = halves(&name);
        at += 1;
    }
    numbers
};

#[inline(always)]
const fn halves(name: &ProcName) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *name;
    (
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    )
}

/// May a slice open a file of the node's /proc/net? `name` is the file's, or
/// that of the directory of /proc/net which it is in.
#[inline(always)]
pub fn proc_net(name: &ProcName) -> Verdict {
    let (first, second) = halves(name);
    let mut at = 0;
    while at < OPEN_NUMBERS.len() {
        if OPEN_NUMBERS[at].0 == first && OPEN_NUMBERS[at].1 == second {
            return Verdict::Allow;
        }
        at += 1;
    }
    Verdict::Deny(Reason::ProcNet)
}

/// May a slice send a request to a netlink protocol? It may have such a socket:
/// programs that cannot make one give up, those that get no answer read
/// /proc/net instead.
#[inline(always)]
pub fn netlink_request(protocol: u16) -> Verdict {
    Verdict::allow_if(protocol != NETLINK_SOCK_DIAG, Reason::SocketDiagnostics)
}

/// May a slice bind a netlink socket to these groups?
#[inline(always)]
pub fn netlink_groups(protocol: u16, groups: u32) -> Verdict {
    Verdict::allow_if(
        protocol != NETLINK_SOCK_DIAG || groups == 0,
        Reason::SocketDiagnostics,
    )
}

/// May a slice set this option of a netlink socket?
#[inline(always)]
pub fn netlink_option(protocol: u16, level: i32, name: i32) -> Verdict {
    let joins = level == SOL_NETLINK && name == NETLINK_ADD_MEMBERSHIP;
    Verdict::allow_if(
        protocol != NETLINK_SOCK_DIAG || !joins,
        Reason::SocketDiagnostics,
    )
}

/// May a slice connect or send with a unix socket of `from` to one of `to`?
/// Names in the file system are ruled by the file system, and a socket without
/// a name is reached by whoever was given its other end; abstract names are the
/// only ones that everybody in the network namespace shares.
///
/// A socket of the node's in a slice's hands reaches none of the node's: it
/// cannot be told from one of a slice that is no more.
#[inline(always)]
pub fn unix_peer(from: SliceId, to: SliceId, is_abstract: bool) -> Verdict {
    let own = from.is_slice() && from.0 == to.0;
    Verdict::allow_if(!is_abstract || own, Reason::AbstractForeign)
}

/// Does `reader` see the sockets of `owner` in the views that stand in for
/// /proc/net?
#[inline(always)]
pub fn sees(reader: SliceId, owner: SliceId) -> bool {
    !reader.is_slice() || reader.0 == owner.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ProcName {
        let mut name = [0; PROC_NAME];
        name[..text.len()].copy_from_slice(text.as_bytes());
        name
    }

    fn slice(row: u32) -> SliceId {
        SliceId::new(0, row).unwrap()
    }

    #[test]
    fn files_that_list_sockets_are_closed_and_those_of_interfaces_open() {
        for closed in [
            "tcp",
            "tcp6",
            "udp",
            "udp6",
            "udplite",
            "udplite6",
            "raw",
            "raw6",
            "unix",
            "packet",
            "netlink",
            "icmp",
            "icmp6",
            "ptype",
            "sctp",
            "mptcp",
            "nf_conntrack",
            "netfilter",
            "rpc",
            "vlan",
            "",
            "xfrm_stat",
            "a_name_of_16_byt",
        ] {
            assert_eq!(
                proc_net(&name(closed)),
                Verdict::Deny(Reason::ProcNet),
                "{closed}"
            );
        }
        for open in OPEN {
            assert_eq!(proc_net(&name(open)), Verdict::Allow, "{open}");
        }
    }

    #[test]
    fn a_name_that_begins_like_an_open_one_is_another() {
        for other in ["de", "dev_", "arps", "statx", "routes"] {
            assert!(!proc_net(&name(other)).is_allow(), "{other}");
        }
    }

    #[test]
    fn socket_diagnostics_answer_nothing_and_other_protocols_do() {
        let denied = Verdict::Deny(Reason::SocketDiagnostics);
        assert_eq!(netlink_request(NETLINK_SOCK_DIAG), denied);
        assert_eq!(netlink_groups(NETLINK_SOCK_DIAG, 1), denied);
        assert_eq!(netlink_groups(NETLINK_SOCK_DIAG, 0), Verdict::Allow);
        assert_eq!(
            netlink_option(NETLINK_SOCK_DIAG, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP),
            denied
        );
        // NETLINK_DROP_MEMBERSHIP, NETLINK_EXT_ACK; SO_RCVBUF.
        for (level, name) in [(SOL_NETLINK, 2), (SOL_NETLINK, 11), (1, 8)] {
            assert!(netlink_option(NETLINK_SOCK_DIAG, level, name).is_allow());
        }
        for protocol in [0, 15, 16] {
            assert!(netlink_request(protocol).is_allow());
            assert!(netlink_groups(protocol, u32::MAX).is_allow());
            assert!(
                netlink_option(protocol, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP).is_allow(),
                "{protocol}"
            );
        }
    }

    #[test]
    fn an_abstract_name_is_reached_by_its_own_slice_alone() {
        let foreign = Verdict::Deny(Reason::AbstractForeign);
        let again = SliceId::new(1, 2).unwrap();
        assert_eq!(unix_peer(slice(2), slice(2), true), Verdict::Allow);
        assert_eq!(unix_peer(slice(2), slice(3), true), foreign);
        assert_eq!(unix_peer(slice(2), SliceId::NODE, true), foreign);
        assert_eq!(unix_peer(slice(2), again, true), foreign);
        assert_eq!(unix_peer(SliceId::NODE, slice(2), true), foreign);
        assert_eq!(unix_peer(SliceId::NODE, SliceId::NODE, true), foreign);
        for to in [slice(2), slice(3), SliceId::NODE] {
            assert_eq!(unix_peer(slice(2), to, false), Verdict::Allow);
        }
    }

    #[test]
    fn a_slice_sees_its_own_and_the_node_all() {
        assert!(sees(slice(2), slice(2)));
        assert!(!sees(slice(2), slice(3)));
        assert!(!sees(slice(2), SliceId::NODE));
        assert!(!sees(slice(2), SliceId::UNATTRIBUTED));
        for owner in [slice(2), SliceId::NODE, SliceId::UNATTRIBUTED] {
            assert!(sees(SliceId::NODE, owner));
        }
    }
}
