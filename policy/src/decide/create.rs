//! May a slice make this socket?

use crate::verdict::{Reason, Verdict};

/// `AF_UNIX`.
pub const AF_UNIX: i32 = 1;
/// `AF_INET`.
pub const AF_INET: i32 = 2;
/// `AF_INET6`.
pub const AF_INET6: i32 = 10;
/// `AF_NETLINK`.
pub const AF_NETLINK: i32 = 16;
/// `AF_PACKET`.
pub const AF_PACKET: i32 = 17;

const SOCK_STREAM: i32 = 1;
const SOCK_DGRAM: i32 = 2;
/// `SOCK_RAW`.
pub const SOCK_RAW: i32 = 3;
const SOCK_PACKET: i32 = 10;

const ICMP: i32 = 1;
const TCP: i32 = 6;
const UDP: i32 = 17;
const ICMPV6: i32 = 58;

const NETLINK_ROUTE: i32 = 0;
const NETLINK_SOCK_DIAG: i32 = 4;
const NETLINK_KOBJECT_UEVENT: i32 = 15;
const NETLINK_GENERIC: i32 = 16;

/// Decides on the arguments of `socket(2)` as `security_socket_create` sees
/// them: flags taken out of `kind`, before the module of the family or protocol
/// is loaded.
///
/// An allow-list: UDP-Lite does not reach the connect hook, SCTP reaches none
/// but the packet hooks, MPTCP opens subflows of its own, vsock and the like
/// have no owner; each would go round the rules for ports. `raw` says whether
/// policy gives the slice raw and packet sockets: its programs have no right to
/// make them, its broker does.
#[inline(always)]
pub fn socket(family: i32, kind: i32, protocol: i32, raw: bool) -> Verdict {
    match family {
        AF_UNIX => Verdict::Allow,
        AF_INET | AF_INET6 => match (kind, protocol) {
            (SOCK_STREAM, 0 | TCP) | (SOCK_DGRAM, 0 | UDP) => Verdict::Allow,
            (SOCK_DGRAM, ICMP) => Verdict::allow_if(family == AF_INET, Reason::Protocol),
            (SOCK_DGRAM, ICMPV6) => Verdict::allow_if(family == AF_INET6, Reason::Protocol),
            (SOCK_RAW, _) => Verdict::allow_if(raw, Reason::RawSocket),
            (SOCK_PACKET, _) => Verdict::Deny(Reason::RawSocket),
            _ => Verdict::Deny(Reason::Protocol),
        },
        AF_NETLINK => Verdict::allow_if(
            matches!(
                protocol,
                NETLINK_ROUTE | NETLINK_SOCK_DIAG | NETLINK_KOBJECT_UEVENT | NETLINK_GENERIC
            ),
            Reason::Netlink,
        ),
        // What a management slice asks its broker for; nobody else makes it.
        AF_PACKET if kind == SOCK_STREAM => Verdict::Deny(Reason::Audit),
        AF_PACKET => Verdict::allow_if(
            raw && matches!(kind, SOCK_RAW | SOCK_DGRAM),
            Reason::RawSocket,
        ),
        _ => Verdict::Deny(Reason::Family),
    }
}

/// Decides whether a slice with `open` sockets may have one more.
#[inline(always)]
pub fn one_more(open: u64, most: u32) -> Verdict {
    Verdict::allow_if(open < most as u64, Reason::SocketLimit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_sockets_are_made() {
        for (family, kind, protocol) in [
            (AF_UNIX, SOCK_STREAM, 0),
            (AF_INET, SOCK_STREAM, 0),
            (AF_INET6, SOCK_STREAM, TCP),
            (AF_INET, SOCK_DGRAM, UDP),
            (AF_INET, SOCK_DGRAM, ICMP),
            (AF_INET6, SOCK_DGRAM, ICMPV6),
            (AF_NETLINK, SOCK_RAW, NETLINK_ROUTE),
        ] {
            assert_eq!(
                socket(family, kind, protocol, false),
                Verdict::Allow,
                "{family} {kind} {protocol}"
            );
        }
    }

    #[test]
    fn what_goes_round_the_hooks_is_refused_with_the_errno_programs_expect() {
        for (family, kind, protocol, reason) in [
            (AF_INET, SOCK_DGRAM, 136, Reason::Protocol), // UDP-Lite
            (AF_INET, SOCK_STREAM, 132, Reason::Protocol), // SCTP
            (AF_INET6, 5, 132, Reason::Protocol),         // SCTP, one to many
            (AF_INET, SOCK_STREAM, 262, Reason::Protocol), // MPTCP
            (AF_INET, SOCK_STREAM, 256, Reason::Protocol), // SMC
            (AF_INET, 6, 33, Reason::Protocol),           // DCCP
            (AF_INET, SOCK_DGRAM, 115, Reason::Protocol), // L2TP
            (AF_INET, SOCK_DGRAM, ICMPV6, Reason::Protocol),
            (AF_INET6, SOCK_DGRAM, ICMP, Reason::Protocol),
            (AF_INET, SOCK_RAW, 1, Reason::RawSocket),
            (AF_INET6, SOCK_RAW, 255, Reason::RawSocket),
            (AF_INET, SOCK_PACKET, 3, Reason::RawSocket),
            (AF_PACKET, SOCK_RAW, 3, Reason::RawSocket),
            (AF_PACKET, SOCK_STREAM, 0x534c, Reason::Audit),
            (AF_NETLINK, SOCK_RAW, 6, Reason::Netlink), // XFRM
            (AF_NETLINK, SOCK_RAW, 9, Reason::Netlink), // AUDIT
            (AF_NETLINK, SOCK_RAW, 12, Reason::Netlink), // NETFILTER
            (40, SOCK_STREAM, 0, Reason::Family),       // vsock
            (43, SOCK_STREAM, 0, Reason::Family),       // SMC
            (41, SOCK_DGRAM, 0, Reason::Family),        // KCM
            (38, 5, 0, Reason::Family),                 // AF_ALG
            (44, SOCK_RAW, 0, Reason::Family),          // XDP
            (15, SOCK_RAW, 2, Reason::Family),          // PF_KEY
            (21, 5, 0, Reason::Family),                 // RDS
            (30, 5, 0, Reason::Family),                 // TIPC
            (31, SOCK_RAW, 1, Reason::Family),          // Bluetooth
            (29, SOCK_RAW, 1, Reason::Family),          // CAN
            (-1, 0, 0, Reason::Family),
        ] {
            assert_eq!(
                socket(family, kind, protocol, false),
                Verdict::Deny(reason),
                "{family} {kind} {protocol}"
            );
        }
    }

    #[test]
    fn raw_and_packet_sockets_are_made_where_policy_gives_them() {
        for (family, kind, protocol, made) in [
            (AF_INET, SOCK_RAW, 1, true),
            (AF_INET6, SOCK_RAW, 255, true),
            (AF_PACKET, SOCK_RAW, 3, true),
            (AF_PACKET, SOCK_DGRAM, 0, true),
            (AF_PACKET, SOCK_PACKET, 3, false),
            (AF_INET, SOCK_PACKET, 3, false),
            (44, SOCK_RAW, 0, false), // XDP
        ] {
            let verdict = socket(family, kind, protocol, true);
            assert_eq!(verdict.is_allow(), made, "{family} {kind} {protocol}");
        }
    }

    #[test]
    fn the_last_socket_allowed_is_the_limit() {
        assert_eq!(one_more(9, 10), Verdict::Allow);
        assert_eq!(one_more(10, 10), Verdict::Deny(Reason::SocketLimit));
        assert_eq!(one_more(0, 0), Verdict::Deny(Reason::SocketLimit));
    }
}
